"""Delivery: sends a destination what it has not acknowledged yet, until it has everything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from app.dicom.uids import NoticeKind, ResultKind
from app.errors import RetryLaterError, describe_exception
from app.node.deliver import scu
from app.node.deliver.proof import DeliveryProof
from app.node.peers import DeliverPolicy, Destination
from app.node.records.audit import AuditEvent
from app.node.records.database import iso_or_empty, utc_now
from app.node.records.deliveries import Delivery, DeliveryTransition, PlannedInstance
from app.node.records.runs import Run
from app.node.records.settlement import settle_run
from app.node.records.states import FINAL, DeliveryKey, DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores

REPORTS = (ResultKind.SR, NoticeKind.SR)
"""Sent first, so that a destination that has anything of a revision has the report that a later one names."""

Send = Callable[[Sequence[Path], Destination, str, float], tuple[scu.StoreResponse, ...]]
"""As :func:`app.node.deliver.scu.send`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SendResult:
    """How an attempt to send ended, as the durable engine keeps it.

    Attributes:
        out_of_date: another attempt has taken this one's place.
        unreached: why not everything could be offered to the destination.
        refused: what the destination refused for good.
        lost: what it acknowledged and turned out not to have.
        waits_s: seconds until the answer to a request for storage commitment counts as late; ``is_late`` when
            an earlier one did.
    """

    out_of_date: bool = False
    superseded: bool = False
    unknown_destination: bool = False
    unreached: str = ""
    refused: str = ""
    lost: str = ""
    waits_s: float = 0.0
    is_late: bool = False


class ResultDelivery:
    """The steps of the workflow ``deliver``."""

    def __init__(
        self,
        stores: NodeStores,
        policy: DeliverPolicy,
        send: Send = scu.send,
        proof: DeliveryProof | None = None,
    ) -> None:
        self._stores = stores
        self.policy = policy
        self._send = send
        self._proof = proof or DeliveryProof(stores)

    def send(self, key: DeliveryKey, attempt: int) -> SendResult:
        """Step 1: send each instance that is not acknowledged, then ask for proof.

        Each answer is kept as it comes.
        """
        if not self._stores.deliveries.begin(key, attempt):
            return SendResult(out_of_date=True)
        obstacle = self._obstacle(key.run)
        destination = self.policy.destination(key.destination)
        if obstacle is not None or destination is None:
            return obstacle or SendResult(unknown_destination=True)
        try:
            return self._send_all(key, destination)
        except RetryLaterError as error:
            return SendResult(unreached=str(error))
        except Exception as error:  # noqa: BLE001  a delivery's fault must not end its tries
            _log.error("sending failed", exc_info=error, extra=key.facts)
            return SendResult(unreached=describe_exception(error))

    def record(self, key: DeliveryKey, attempt: int, tried: SendResult) -> str:
        """Step 2: write down how the try ended, plan the next; the run is done with its last delivery."""
        if not tried.out_of_date:
            self._write_transition(key, attempt, tried)
        settle_run(self._stores, key.run)
        return "recorded"

    def _send_all(self, key: DeliveryKey, destination: Destination) -> SendResult:
        refused = [self._offer(key, item, destination) for item in self._open_instances(key)]
        if any(refused):
            return SendResult(refused="; ".join(filter(None, refused)))
        proof = self._proof.look(key, destination, self.policy.towards(destination))
        return SendResult(**asdict(proof))

    def _open_instances(self, key: DeliveryKey) -> list[PlannedInstance]:
        unsent = [item for item in self._stores.deliveries.instances(key) if item.is_open]
        return sorted(unsent, key=lambda item: item.kind not in REPORTS)

    def _offer(self, key: DeliveryKey, item: PlannedInstance, destination: Destination) -> str:
        """Send one instance over an association of its own, so that its answer is kept before the next.

        Returns the refusal in words, or nothing.
        """
        path = self._stores.outbox.folder_of(key.run) / item.path
        limits = self.policy.towards(destination)
        answers = self._send([path], destination, limits.calling_ae_title, limits.timeout_s)
        answer = answers[0]
        facts = key.facts | {"sop_instance": item.sop_instance_uid, "dicom_status": answer.status}
        if answer.ok:
            self._stores.audit.append(
                AuditEvent.DELIVERED, key.run.study_instance_uid, facts | {"kind": item.kind}
            )
            self._stores.commitments.forget(key, item.sop_instance_uid)
            self._stores.deliveries.acknowledge(key, item.sop_instance_uid, answer.status)
            _log.info("result delivered", extra=facts | {"kind": item.kind})
            return ""
        self._stores.deliveries.refuse(key, item.sop_instance_uid, answer.status)
        return f"{item.kind} refused with status {answer.status:04X} ({answer.comment})"

    def _obstacle(self, run: RunKey) -> SendResult | None:
        """A later revision that takes this one's place, or may.

        The later revision looks for this delivery after it has begun to run, and this delivery looks for the
        later revision after it has begun: so one of them sees the other.
        """
        revisions = self._stores.runs.of_study(run.study_instance_uid)
        later = [other for other in revisions if other.key.revision > run.revision]
        running = [other.key.revision for other in later if other.state is StudyState.RUNNING]
        if running:
            return SendResult(unreached=f"revision {running[0]}, being processed, may take its place")
        if any(self._takes_place(other) for other in later):
            return SendResult(superseded=True)
        return None

    def _takes_place(self, later: Run) -> bool:
        """Whether earlier results are out of date: not by a rejection over which a person has to decide."""
        outcome = self._stores.outbox.readable_outcome_of(later.key) if later.state in FINAL else None
        if outcome is not None and outcome.leaves_open:
            return False
        return later.state in FINAL or bool(self._stores.deliveries.of_run(later.key))

    def _write_transition(self, key: DeliveryKey, attempt: int, tried: SendResult) -> None:
        delivery = self._stores.deliveries.get(key)
        transition = self._transition(delivery, tried)
        was_open = self._stores.deliveries.end(key, attempt, transition)
        if tried.waits_s and self._proof.is_answered(key):
            self._stores.deliveries.hasten(key)  # the answer came while this was written
        if not was_open or transition.state is DeliveryState.DONE:
            return
        facts = key.facts | {"reason": transition.reason, "next_try": iso_or_empty(transition.next_try_at)}
        if transition.is_failure or transition.is_unproven:
            _log.warning("not delivered yet" if transition.next_try_at else "delivery ended", extra=facts)
        else:
            _log.info("sent, not committed yet", extra=facts)
        if transition.state is DeliveryState.FAILED:
            self._stores.audit.append(AuditEvent.DELIVERY_FAILED, key.run.study_instance_uid, facts)

    def _transition(self, delivery: Delivery, tried: SendResult) -> DeliveryTransition:
        name = delivery.key.destination
        if tried.superseded:
            return DeliveryTransition(DeliveryState.SUPERSEDED, "a later revision has taken its place")
        if tried.unknown_destination or tried.refused:
            words = f": {tried.refused}" if tried.refused else " is no longer in deliver.destinations"
            return DeliveryTransition(DeliveryState.FAILED, f"{name}{words}")
        if tried.lost or tried.waits_s:
            return self._unproven(delivery, tried)
        if tried.unreached:
            return self._unreached(delivery, tried)
        return DeliveryTransition(DeliveryState.DONE, is_failure=False)

    def _unreached(self, delivery: Delivery, tried: SendResult) -> DeliveryTransition:
        limits = self._limits(delivery.key.destination)
        next_try_at = utc_now() + timedelta(seconds=limits.retry_after_s(delivery.failures + 1))
        limit_days = limits.max_age_days
        if limit_days and next_try_at > delivery.created_at + timedelta(days=limit_days):
            given_up = f"{tried.unreached}; given up after {limit_days:g} days"
            return DeliveryTransition(DeliveryState.FAILED, given_up)
        open_instances = self._open_instances(delivery.key)
        state = DeliveryState.PENDING if open_instances else DeliveryState.SENT
        return DeliveryTransition(state, tried.unreached, next_try_at)

    def _unproven(self, delivery: Delivery, tried: SendResult) -> DeliveryTransition:
        """Everything has been acknowledged, and not everything is proven."""
        name, limits = delivery.key.destination, self._limits(delivery.key.destination)
        if not tried.lost:
            next_try_at = utc_now() + timedelta(seconds=tried.waits_s)
            words = f"{name} has been asked for its commitment"
            return DeliveryTransition(DeliveryState.SENT, words, next_try_at, False, tried.is_late)
        proofs = delivery.proofs + 1
        if proofs >= limits.max_proofs:
            words = f"{name}: {tried.lost}; given up after {proofs} rounds"
            return DeliveryTransition(DeliveryState.FAILED, words, is_unproven=True)
        next_try_at = utc_now() + timedelta(seconds=limits.retry_after_s(proofs))
        return DeliveryTransition(DeliveryState.PENDING, tried.lost, next_try_at, False, True)

    def _limits(self, name: str) -> DeliverPolicy:
        destination = self.policy.destination(name)
        return self.policy if destination is None else self.policy.towards(destination)
