"""Proof that a destination keeps what it acknowledged: by its commitment, or by a look at what it has.

An acknowledgement says that an instance arrived. What a destination turns out not to have is sent again, and
asked about again; a person is told when that does not help (``deliver.max_proofs``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydicom.uid import generate_uid

from app.errors import RetryLaterError
from app.node.deliver import commitment, lookup
from app.node.deliver.commitment import ProofRefusedError
from app.node.peers import DeliverPolicy, Destination
from app.node.records.audit import AuditEvent
from app.node.records.clock import CLOCKS_AGREE
from app.node.records.commitment_messages import (
    CommitmentEvent,
    CommitmentRequest,
    Reference,
    reason_in_words,
)
from app.node.records.commitments import AskedCommitment, record_answer
from app.node.records.database import utc_now
from app.node.records.deliveries import PlannedInstance
from app.node.records.states import DeliveryKey
from app.node.records.stores import NodeStores

Ask = Callable[
    [CommitmentRequest, Destination, DeliverPolicy, Callable[[CommitmentEvent], None], Callable[[], bool]],
    None,
]
"""As :func:`app.node.deliver.commitment.ask`."""

OTHER_PROOFS = {
    "commitment": "verify: find or retrieve",
    "find": "commitment: true or verify: retrieve",
    "retrieve": "commitment: true or verify: find",
}
"""What else a destination may offer that does not offer this."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proof:
    """What is known once everything is acknowledged; all empty when everything is proven.

    Attributes:
        lost: what the destination does not have; it is to be sent again.
        waits_s: seconds until an answer to a request counts as late.
        is_late: an answer did not come in time, and was asked for again.
    """

    lost: str = ""
    waits_s: float = 0.0
    is_late: bool = False


class DeliveryProof:
    """Asks destinations whether they keep what they were sent."""

    def __init__(
        self,
        stores: NodeStores,
        ask: Ask = commitment.ask,
        find: lookup.Look = lookup.find,
        retrieve: lookup.Look = lookup.retrieve,
    ) -> None:
        self._stores = stores
        self._ask = ask
        self._looks = {"find": find, "retrieve": retrieve}

    def look(self, key: DeliveryKey, destination: Destination, policy: DeliverPolicy) -> Proof:
        """How far the proof is, after asking for what is missing.

        Raises:
            RetryLaterError: the destination can't be asked now, or offers no proof: everything is there, and
                a person has to choose another proof, or none.
        """
        unproven = self._unproven(key) if destination.wants_proof else []
        if not unproven:
            return Proof()
        try:
            if destination.commitment:
                return self._commitment(key, destination, policy)
            return self._compared(key, destination, policy, unproven)
        except ProofRefusedError as error:
            others = OTHER_PROOFS["commitment" if destination.commitment else destination.verify]
            words = f"everything was sent and acknowledged, and can't be proven: {error}"
            raise RetryLaterError(f"{words}; set {others} for it, or no proof") from error

    def is_answered(self, key: DeliveryKey) -> bool:
        """Whether nothing that was asked about a delivery waits for an answer."""
        return not any(row.answered_at is None for row in self._latest(key).values())

    def _unproven(self, key: DeliveryKey) -> list[PlannedInstance]:
        return [item for item in self._stores.deliveries.instances(key) if item.committed_at is None]

    def _latest(self, key: DeliveryKey) -> dict[str, AskedCommitment]:
        """The last request about each instance that is not committed."""
        unproven = {item.sop_instance_uid for item in self._unproven(key)}
        rows = self._stores.commitments.asked(key)
        # in order but for a clock that was set back: what was asked "later" than now came before the rest
        rows = (*(row for row in rows if _is_ahead(row)), *(row for row in rows if not _is_ahead(row)))
        return {row.sop_instance_uid: row for row in rows if row.sop_instance_uid in unproven}

    def _commitment(self, key: DeliveryKey, destination: Destination, policy: DeliverPolicy) -> Proof:
        lost = self._lost(key)
        if lost:
            return Proof(lost=lost)
        wait, latest, now = timedelta(seconds=policy.commitment_wait_s), self._latest(key), utc_now()
        late = {uid for uid, row in latest.items() if row.asked_at + wait <= now}
        # the clock was set back since: nobody knows how long it has waited
        unknown = {uid for uid, row in latest.items() if _is_ahead(row)}
        waiting_for = latest.keys() - late - unknown
        due = [item for item in self._unproven(key) if item.sop_instance_uid not in waiting_for]
        is_late = bool(late)
        if is_late and self._stores.deliveries.get(key).proofs + 1 >= policy.max_proofs:
            return Proof(lost="no answer to the requests for storage commitment")
        if due:
            self._request(key, destination, policy, due)
        lost = self._lost(key)
        waiting = [row.asked_at + wait for row in self._latest(key).values() if row.answered_at is None]
        if lost or not waiting:
            return Proof(lost=lost)
        return Proof(waits_s=max(1.0, (min(waiting) - utc_now()).total_seconds()), is_late=is_late)

    def _lost(self, key: DeliveryKey) -> str:
        """What the destination said it does not keep, in words; it is to be sent again."""
        failed = {
            uid: row.failure_reason
            for uid, row in self._latest(key).items()
            if row.failure_reason is not None
        }
        lost = [item for item in self._unproven(key) if item.sop_instance_uid in failed]
        for item in lost:
            self._stores.deliveries.reopen(key, item.sop_instance_uid)
        return "; ".join(
            f"{item.kind} not committed: {reason_in_words(failed[item.sop_instance_uid])}" for item in lost
        )

    def _request(
        self,
        key: DeliveryKey,
        destination: Destination,
        policy: DeliverPolicy,
        items: Sequence[PlannedInstance],
    ) -> None:
        references = tuple(Reference(item.sop_class_uid, item.sop_instance_uid) for item in items)
        request = CommitmentRequest(str(generate_uid(prefix=None)), references)
        facts = key.facts | {"transaction": request.transaction_uid, "instances": len(references)}
        ledger, audit = self._stores.commitments, self._stores.audit
        audit.append(AuditEvent.COMMITMENT_ASKED, key.run.study_instance_uid, facts)
        ledger.ask(key, request)

        def on_answer(event: CommitmentEvent) -> None:
            record_answer(ledger, audit, event, {destination.name})

        try:
            self._ask(request, destination, policy, on_answer, lambda: self.is_answered(key))
        except (RetryLaterError, ProofRefusedError):
            # as far as can be told it did not arrive: nothing waits for an answer to it
            ledger.withdraw(request.transaction_uid)
            raise
        _log.info("storage commitment asked for", extra=facts)

    def _compared(
        self,
        key: DeliveryKey,
        destination: Destination,
        policy: DeliverPolicy,
        items: Sequence[PlannedInstance],
    ) -> Proof:
        folder = self._stores.outbox.folder_of(key.run)
        problems = self._looks[destination.verify](
            [folder / item.path for item in items], destination, policy
        )
        for item in items:
            problem = problems.get(item.sop_instance_uid, "")
            event = AuditEvent.NOT_COMMITTED if problem else AuditEvent.COMMITTED
            facts = key.facts | {"sop_instance": item.sop_instance_uid, "kind": item.kind}
            facts |= {"by": destination.verify} | ({"reason": problem} if problem else {})
            self._stores.audit.append(event, key.run.study_instance_uid, facts)
            if problem:
                self._stores.deliveries.reopen(key, item.sop_instance_uid)
            else:
                self._stores.deliveries.commit(key, item.sop_instance_uid)
        words = (f"{item.kind}: {problems[item.sop_instance_uid]}" for item in items
                 if item.sop_instance_uid in problems)  # fmt: skip
        return Proof(lost="; ".join(words))


def _is_ahead(row: AskedCommitment) -> bool:
    return row.asked_at > utc_now() + CLOCKS_AGREE
