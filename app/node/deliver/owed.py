"""Tells senders what is safe here, where the association of their request has ended (PS3.4 J.3.3).

What is owed stands in the database, so it is told after a restart too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from app.errors import RetryLaterError
from app.node.deliver import commitment
from app.node.deliver.commitment import ProofRefusedError
from app.node.peers import DeliverPolicy, Destination, ReceivePolicy
from app.node.records.clock import waits_until
from app.node.records.commitment_messages import CommitmentRequest
from app.node.records.commitments import OwedCommitment, kept_here, record_told
from app.node.records.database import utc_now
from app.node.records.stores import NodeStores

GIVEN_UP_AFTER = timedelta(days=7)
"""A sender that could not be told for so long asks again, or never will."""

LEAST_S = 60.0
"""What is owed waits longer at first than a short ``deliver.max_retry_s``: its association comes first."""

Report = Callable[[CommitmentRequest, Mapping[str, int], Destination, DeliverPolicy], None]
"""As :func:`app.node.deliver.commitment.report`."""

_log = logging.getLogger(__name__)


class _Rest:
    """Until an instant by the wall clock; one that is set back makes it no longer."""

    def __init__(self, until: datetime) -> None:
        self._until = until
        self._over_at_s = time.monotonic() + (until - utc_now()).total_seconds()

    @property
    def is_over(self) -> bool:
        return utc_now() >= self._until or time.monotonic() >= self._over_at_s


class OwedAnswers:
    """Answers to requests for storage commitment, on associations of ours."""

    def __init__(
        self,
        stores: NodeStores,
        receive: ReceivePolicy,
        deliver: DeliverPolicy,
        report: Report = commitment.report,
        is_stopping: Callable[[], bool] = lambda: False,
        is_answered_there: Callable[[OwedCommitment], bool] = lambda _: False,
    ) -> None:
        """``is_answered_there`` says whether the association of a request may still bring its answer."""
        self._stores = stores
        self._is_answered_there = is_answered_there
        self._report = report
        self._is_stopping = is_stopping
        self.follow(receive, deliver)

    def follow(self, receive: ReceivePolicy, deliver: DeliverPolicy) -> None:
        """Tell senders by these settings from now on."""
        self._callers, self._destinations = receive.allowed_callers, deliver.destinations
        self._rests: dict[tuple[str, int], _Rest] = {}
        # a sender knows the node by the title that it sends to
        self._policy = replace(deliver, calling_ae_title=receive.ae_title)

    def tell(self) -> None:
        """Tell each sender whose turn it is; one that could not be told rests with all that it is owed.

        Raises:
            RetryLaterError: the index does not answer.
        """
        for owed in self._stores.commitments.owed():
            if self._is_stopping():
                return
            if not self._waits(owed) and not self._is_answered_there(owed):
                self._tell(owed)

    def _waits(self, owed: OwedCommitment) -> bool:
        """Not where it was asked for in the future: the clock was set back since."""
        now, longest_s = utc_now(), max(self._policy.max_retry_s, LEAST_S)
        return owed.asked_at <= now and waits_until(owed.next_try_at, now, longest_s) is not None

    def _tell(self, owed: OwedCommitment) -> None:
        facts = {"calling_ae": owed.calling_ae, "host": owed.address, "transaction": owed.transaction_uid}
        peer = self._peer(owed)
        if peer is None:
            why = (
                "the association of its request has ended, and no allowed caller has a commitment_port for it"
                + (", nor is a destination of its title spoken to by TLS, as it asked" if owed.by_tls else "")
            )
            _log.warning("a sender can't be told what is safe", extra=facts | {"reason": why})
            self._stores.commitments.settle(owed)
            return
        place = (peer.host, peer.port)
        rest = self._rests.get(place)
        if rest is not None and not rest.is_over:
            return
        failed = kept_here(self._stores.inbox, owed.references)
        try:
            self._report(CommitmentRequest(owed.transaction_uid, owed.references), failed, peer, self._policy)
        except (RetryLaterError, ProofRefusedError) as error:
            next_try_at = utc_now() + timedelta(seconds=self._policy.retry_after_s(owed.tries + 1))
            self._rests[place] = _Rest(next_try_at)
            gives_up = next_try_at > owed.asked_at + GIVEN_UP_AFTER
            words = "given up" if gives_up else "tried again"
            _log.warning("a sender is not told yet: %s", words, extra=facts | {"reason": str(error)})
            if gives_up:
                self._stores.commitments.settle(owed)
            else:
                self._stores.commitments.postpone(owed, next_try_at)
            return
        record_told(self._stores.commitments, self._stores.audit, owed, failed)

    def _peer(self, owed: OwedCommitment) -> Destination | None:
        """Where a sender takes its answer: its port among the allowed callers, or as a destination."""
        for caller in self._callers:
            if caller.commitment_port and caller.allows(owed.calling_ae, owed.address):
                peer = Destination(
                    f"sender {owed.calling_ae}", owed.calling_ae, owed.address, caller.commitment_port
                )
                return replace(peer, tls=owed.by_tls, tls_name=caller.commitment_tls_name)
        same_title = (one for one in self._destinations if one.ae_title == owed.calling_ae)
        return next((one for one in same_title if one.tls or not owed.by_tls), None)
