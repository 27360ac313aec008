"""Storage commitment on associations of ours: asks a destination, and tells a sender (PS3.4 Annex J).

A destination may answer on the association of the request, or on one that it opens to this node's port
(:mod:`app.node.receive.commitment`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from pynetdicom import evt
from pynetdicom.presentation import build_context, build_role

from app.errors import RetryLaterError
from app.node.deliver.association import NothingAcceptedError, Proposal, answer_in_words, open_association
from app.node.peers import NO_TLS, DeliverPolicy, Destination, TlsPolicy
from app.node.records.commitment_messages import (
    ALL_COMMITTED,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    SOME_FAILED,
    CommitmentEvent,
    CommitmentRequest,
    event_data,
    read_event,
    request_data,
)

LINGER_S = 3.0
"""So long the association of a request stays open for an answer on it; others come on one of their own."""

LOOK_S = 0.2
"""How often it is looked meanwhile whether the answer has come elsewhere."""

_PASSING = frozenset((0x0110, 0x0210, 0x0213))
"""Processing failure, duplicate invocation, resource limitation (PS3.7 Annex C)."""


class ProofRefusedError(Exception):
    """The destination does not offer, for good, what proves that it keeps an instance."""


def ask(
    request: CommitmentRequest,
    destination: Destination,
    policy: DeliverPolicy,
    on_answer: Callable[[CommitmentEvent], None],
    is_answered: Callable[[], bool],
    tls: TlsPolicy = NO_TLS,
) -> None:
    """Ask a destination to take charge of instances; ``on_answer`` gets its answer when it comes at once.

    Args:
        is_answered: whether the answer has come meanwhile, on another association; then nothing waits for it.

    Raises:
        RetryLaterError: the request did not arrive, as far as can be told.
        ProofRefusedError: the destination offers no storage commitment.
    """
    came = threading.Event()

    def take(event: evt.Event) -> tuple[int, None]:
        on_answer(read_event(event.event_information))
        came.set()
        return 0x0000, None

    proposal = Proposal([build_context(PUSH_MODEL)], handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    data = request_data(request.transaction_uid, request.references)
    try:
        title, timeout_s = policy.calling_ae_title, policy.timeout_s
        with open_association(destination, title, timeout_s, proposal, tls) as association:
            answer, _ = association.send_n_action(
                data, REQUEST_STORAGE_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
            _require_acknowledgement(answer.get("Status"), destination.name)
            deadline = time.monotonic() + LINGER_S
            while association.is_established and time.monotonic() < deadline and not is_answered():
                came.wait(LOOK_S)
                came.clear()
    except NothingAcceptedError as error:
        raise ProofRefusedError(f"{destination.name} does not accept Storage Commitment") from error


def report(
    request: CommitmentRequest,
    failed: Mapping[str, int],
    peer: Destination,
    policy: DeliverPolicy,
    tls: TlsPolicy = NO_TLS,
) -> None:
    """Tell a sender, on a new association, which instances it asked about are safe here.

    Raises:
        RetryLaterError: it can't be told now.
        ProofRefusedError: it does not accept such a report.
    """
    proposal = Proposal([build_context(PUSH_MODEL)], [build_role(PUSH_MODEL, scp_role=True)])
    data = event_data(request.transaction_uid, request.references, failed)
    event = SOME_FAILED if failed else ALL_COMMITTED
    try:
        title, timeout_s = policy.calling_ae_title, policy.timeout_s
        with open_association(peer, title, timeout_s, proposal, tls) as association:
            answer, _ = association.send_n_event_report(data, event, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            status = answer.get("Status")
    except NothingAcceptedError as error:
        raise ProofRefusedError(f"{peer.name} does not accept Storage Commitment") from error
    if status != 0:
        raise RetryLaterError(answer_in_words(peer.name, status, "N-EVENT-REPORT"))


def _require_acknowledgement(status: int | None, name: str) -> None:
    if status is None or status in _PASSING:
        raise RetryLaterError(answer_in_words(name, status, "N-ACTION"))
    if status != 0:
        raise ProofRefusedError(f"{name} refused the request for storage commitment: {status:04X}")
