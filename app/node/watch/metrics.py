"""``/metrics``: what the node does, for Prometheus, beside the probes; no label holds anything of a patient.

What happens is counted as it happens: in this process, from its start. What stands in the database or on the
disk is looked at now and then, so that whoever asks never waits for either; several nodes that share a
database give the same figures of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import prometheus_client as prometheus
from sqlalchemy import Select, func, select

from app.domain.refusal import quoted_codes
from app.errors import MisconfiguredError
from app.files.durable import free_mb
from app.node.peers import DeliverPolicy, TlsPolicy
from app.node.policy import NodePolicy
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.records.audit import AuditEvent
from app.node.records.database import utc_now
from app.node.records.deliveries import Delivery, PlannedInstance
from app.node.records.runs import IS_LATEST, Run
from app.node.records.states import DeliveryState, RunKey, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudyRow
from app.node.tls import expiries

FRESH_S = 15.0
"""So long a look at database and disk holds: the usual interval at which Prometheus asks."""

RESTS = 50
"""After a look, so many times as long as it took, at least."""

STAGE_BUCKETS_S = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)

ENDINGS = {
    AuditEvent.STUDY_RECEIVED: "received",
    AuditEvent.PROCESSED: "processed",
    AuditEvent.REJECTED: "rejected",
    AuditEvent.FAILED: "failed",
}

_OPEN = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED)


@dataclass(frozen=True)
class Measured:
    """What the figures are of."""

    node: NodePolicy
    deliver: DeliverPolicy
    tls: TlsPolicy
    version: str = ""


class NodeMetrics:
    """Counts what it is told of, from any thread; :meth:`look` looks at database and disk."""

    def __init__(self, stores: NodeStores, measured: Measured) -> None:
        self._stores = stores
        self._measured = measured
        self._due_at_s = float("-inf")
        self._stages: dict[RunKey, tuple[str, float]] = {}
        self.registry = prometheus.CollectorRegistry()
        self._count()
        self._gauge()

    def _count(self) -> None:
        registry = self.registry

        def counter(name: str, words: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"psma_node_{name}", words, labels, registry=registry)

        self._received = counter("receptions", "C-STORE requests and refused associations", "event")
        self._bytes = counter("received_bytes", "Bytes of the instances that were kept")
        self._studies = counter("study_events", "Studies that became complete, and how tries ended", "event")
        self._refusals = counter("refusals", "Rejected studies by reason code", "code")
        self._delivered = counter("delivered_instances", "Results that it acknowledged", "destination")
        self._committed = counter("committed_instances", "Results that it was found to keep", "destination")
        self._stage_s = prometheus.Histogram(
            "psma_node_stage_seconds",
            "Duration of each stage of the chain",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        for reception in ReceptionEvent:  # from 0 on, or the first of a kind would be no increase
            self._received.labels(str(reception))
        for ending in ENDINGS.values():
            self._studies.labels(ending)

    def _gauge(self) -> None:
        registry = self.registry

        def gauge(name: str, words: str, *labels: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"psma_node_{name}", words, labels, registry=registry)

        self._state = gauge("studies", "Studies by the state of their last revision", "state")
        self._queue_age = gauge("queue_age_seconds", "How long the study that is queued longest has waited")
        self._run_age = gauge("running_age_seconds", "How long the oldest study under way has run")
        self._open = gauge("deliveries", "Deliveries that are not done", "destination", "state")
        self._last_success = gauge(
            "destination_last_success_timestamp_seconds", "When it last acknowledged a result", "destination"
        )
        self._free = gauge("disk_free_bytes", "Room left in node.data_dir")
        self._expiry = gauge("certificate_expiry_timestamp_seconds", "When a certificate ends", "certificate")
        self._looked = gauge("looked_timestamp_seconds", "When database and disk last answered")
        gauge("info", "Version of the program", "version").labels(self._measured.version).set(1)

    def follow(self, deliver: DeliverPolicy) -> None:
        """Count deliveries to these destinations from now on."""
        self._measured = replace(self._measured, deliver=deliver)

    def page(self) -> bytes:
        """In Prometheus' text format; never waits."""
        return prometheus.generate_latest(self.registry)

    def received(self, reception: Reception) -> None:
        """A request was answered, or an association refused."""
        self._received.labels(str(reception.event)).inc()
        self._bytes.inc(reception.bytes if not reception.status else 0)

    def audited(self, event: AuditEvent, study: str, facts: Mapping[str, object]) -> None:
        """An entry was written to the audit log."""
        if event in ENDINGS:
            self._studies.labels(ENDINGS[event]).inc()
        if event is AuditEvent.REJECTED:
            # codes of ours alone: the words around them quote headers
            for code in quoted_codes(str(facts.get("reason", ""))):
                self._refusals.labels(str(code)).inc()
        if event is AuditEvent.DELIVERED:
            self._delivered.labels(str(facts["destination"])).inc()
            self._last_success.labels(str(facts["destination"])).set_to_current_time()
        if event is AuditEvent.COMMITTED:
            self._committed.labels(str(facts["destination"])).inc()

    def stage(self, run: RunKey, stage: str) -> None:
        """A run has come to a stage of the chain; to none when it ended."""
        now_s = time.monotonic()
        before = self._stages.pop(run, None)
        if before is not None:
            self._stage_s.labels(before[0]).observe(now_s - before[1])
        if stage:
            self._stages[run] = (stage, now_s)

    def look(self) -> None:
        """Look at database, disk and certificates, unless that was done a moment ago.

        It counts every study, so with hundreds of thousands it rests longer.
        """
        begun_s = time.monotonic()
        if begun_s < self._due_at_s:
            return
        self._look_at_studies()
        self._look_at_deliveries()
        self._free.set(free_mb(self._measured.node.data_dir) * 1e6)
        self._look_at_certificates()
        self._looked.set_to_current_time()
        now_s = time.monotonic()
        self._due_at_s = now_s + max(FRESH_S, RESTS * (now_s - begun_s))

    def _look_at_studies(self) -> None:
        runs = select(Run.state, func.count()).where(IS_LATEST).group_by(Run.state)
        arriving = (StudyState.RECEIVING, StudyState.WAITING, StudyState.HELD)
        seen = select(StudyRow.state, func.count()).where(StudyRow.state.in_(arriving))
        counts: Counter[StudyState] = Counter(dict(self._rows(runs))) + Counter(
            dict(self._rows(seen.group_by(StudyRow.state)))
        )
        for state in set(StudyState) - {StudyState.REMOVED}:
            self._state.labels(str(state)).set(counts[state])
        self._look_at_age(self._queue_age, func.min(Run.queued_at), StudyState.QUEUED)
        self._look_at_age(self._run_age, func.min(Run.started_at), StudyState.RUNNING)

    def _look_at_age(self, age: prometheus.Gauge, since: Any, state: StudyState) -> None:
        [(oldest,)] = self._rows(select(since).where(Run.state == state))
        age.set(0 if oldest is None else (utc_now() - oldest).total_seconds())

    def _look_at_deliveries(self) -> None:
        delivery = (Delivery.destination, Delivery.state)
        query = select(*delivery, func.count()).where(Delivery.state.in_(_OPEN)).group_by(*delivery)
        counts = {(name, state): count for name, state, count in self._rows(query)}
        known = {destination.name for destination in self._measured.deliver.destinations}
        for name in known | {name for name, _ in counts}:
            for state in _OPEN:
                self._open.labels(name, str(state)).set(counts.get((name, state), 0))
        if self._due_at_s < 0:  # from then on this process sees each
            self._look_at_last_success()

    def _look_at_last_success(self) -> None:
        name, when = PlannedInstance.destination, func.max(PlannedInstance.acknowledged_at)
        for destination, last in self._rows(select(name, when).group_by(name)):
            if last is not None:
                self._last_success.labels(destination).set(last.timestamp())

    def _look_at_certificates(self) -> None:
        try:
            ends = expiries(self._measured.tls)
        except MisconfiguredError:  # ``check`` and the log say so; an old figure must not hide it
            ends = {}
        self._expiry.clear()
        for name, end in ends.items():
            self._expiry.labels(name).set(end.timestamp())

    def _rows(self, query: Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with self._stores.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]
