"""The node as a whole: starts its parts in a fixed order, and drains them in the reverse order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from app.errors import ExitCode, MisconfiguredError, RetryLaterError, describe_exception
from app.files.durable import disk_error, try_lock
from app.node.deliver import commitment, lookup, scu
from app.node.deliver.delivery import ResultDelivery
from app.node.deliver.owed import OwedAnswers
from app.node.deliver.proof import DeliveryProof
from app.node.peers import NO_TLS, DeliverPolicy, ReceivePolicy, TlsPolicy
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.process.processors import Judge, ProcessorPool
from app.node.process.shadows import WaitingShadows
from app.node.process.work import StudyWork
from app.node.receive.commitment import CommitmentDesk
from app.node.receive.reception_audit import ReceptionAudit
from app.node.receive.scp import StoreScp
from app.node.receive.watcher import Examine, Watcher
from app.node.records.audit import AuditEvent
from app.node.records.settlement import settle_left
from app.node.records.stores import Heartbeats, NodeStores
from app.node.rounds import Round, start_loop
from app.node.stop_signals import stop_this_process
from app.node.upkeep.removal import finish_removals
from app.node.upkeep.retention import remove_expired
from app.node.watch.audit_forwarder import AuditForwarder
from app.node.watch.notify import Notifier
from app.node.watch.probes import LOOK_EVERY_S, METRICS_PATH, Conditions, Probes

if TYPE_CHECKING:
    from filelock import FileLock

    from app.node.planner import Planner
    from app.node.queue import DurableEngine
    from app.node.receive.reception import Reception
    from app.node.watch.metrics import NodeMetrics

LISTENER_DRAIN_S = 10.0
"""Open associations may take so long to end, at most, before the rest of the drain."""

FORWARD_S = 5.0
"""How often new entries of the audit log are sent to the collector."""

NOTIFY_S = 30.0
"""How often the node looks for what a person should know."""

PROMISES_S = 10.0
"""How often senders are told what is safe here, when they could not be told at once."""

TIDY_S = 3600.0
"""How often housekeeping is done, the first time at the start."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodePlan:
    """What a node is made of.

    Attributes:
        processors: makes the chains, once the node listens: loading what they need takes seconds.
        receives: whether it listens, and judges when a study is complete; a node that does not only works on
            what others receive.
        judge: says what headers alone refuse, without a chain.
        shadows: where the chains leave the work of shadow models; ``None`` for a site without.
        version, settings_digest: for the audit log.
    """

    node: NodePolicy
    receive: ReceivePolicy
    deliver: DeliverPolicy
    examine: Examine
    processors: Callable[[], ProcessorPool]
    receives: bool = True
    version: str = ""
    settings_digest: str = ""
    tls: TlsPolicy = NO_TLS
    shadows: WaitingShadows | None = None
    judge: Judge | None = None


class NodeService:
    """One per process. ``start`` returns when the node is ready; ``stop`` drains it."""

    _engine: DurableEngine
    _planner: Planner
    _work: StudyWork
    _delivery: ResultDelivery

    def __init__(self, plan: NodePlan, stores: NodeStores) -> None:
        self._plan = plan
        self._stores = stores
        self._lock: FileLock | None = None
        policy = plan.node
        self._heartbeats = Heartbeats(stores.engine, policy.executor, policy.dead_after_s)
        self._reception_audit = ReceptionAudit(stores.audit)
        self._metrics = _metrics(plan, stores) if policy.probe_port else None
        self._wake = threading.Event()
        self._desk = CommitmentDesk(stores, plan.deliver, self._wake.set)
        self._stopping = threading.Event()
        report, is_stopping = partial(commitment.report, tls=plan.tls), self._stopping.is_set
        here = self._desk.may_answer
        self._owed = OwedAnswers(stores, plan.receive, plan.deliver, report, is_stopping, here)
        self._scp = StoreScp(plan.receive, stores.inbox, self._received, plan.tls, self._desk)
        page = (METRICS_PATH, self._metrics.page) if self._metrics else None
        self._probes = Probes(policy, self._conditions(), page)
        on_study = self._probes.sign_of("watch")
        # headers are read once no image has come for a poll: a study on its way is not read over and over
        self._watcher = Watcher(
            stores, plan.receive, plan.examine, policy.poll_s, on_study, on_complete=self._wake.set
        )
        self._forwarder = AuditForwarder(stores.audit.path, policy, plan.tls, is_stopping)
        self._notifier = Notifier(stores, policy, plan.tls)
        self._loops: list[threading.Thread] = []
        self._waiting_loops: list[threading.Thread] = []
        self._exit_code = ExitCode.DONE

    @property
    def port(self) -> int:
        return self._scp.port

    def start(self) -> None:
        """Recover, listen, load the models, take up unfinished work, watch.

        What is received before the rest is ready is kept, and waits. Where the rest fails, the node listens
        no more.

        Raises:
            MisconfiguredError: another process runs as this executor, a model can't be used, or the address
                can't be listened on.
            RetryLaterError: the database does not answer.
        """
        self._lock = _lock(self._plan.node)
        self._probes.start()
        self._stores.outbox.recover()
        if self._plan.receives:
            # it fails when the port is taken, so it comes before any study is begun
            self._scp.start()
        try:
            self._begin_work()
        except BaseException:
            # open associations would keep the process from ending
            self._scp.stop(LISTENER_DRAIN_S)
            raise

    def _begin_work(self) -> None:
        self._launch_engine(self._plan.processors())
        self._start_loops()
        facts = {"version": self._plan.version, "settings_digest": self._plan.settings_digest}
        self._stores.audit.append(AuditEvent.STARTED, facts=facts | {"executor": self._plan.node.executor})
        self._probes.look()
        self._probes.started()

    def stop(self) -> ExitCode:
        """Stop listening, let what is under way end for ``drain_s``, then disconnect.

        What has not ended by then stays planned, and is begun again at the next start. Returns ``RETRY`` when
        this process could not compute any more and has to be started over.
        """
        deadline = time.monotonic() + self._plan.node.drain_s
        self._probes.drain()
        self._scp.stop(min(LISTENER_DRAIN_S, self._plan.node.drain_s))
        self._stopping.set()
        self._wake.set()
        _join(self._loops, deadline)
        self._engine.stop(max(0.0, deadline - time.monotonic()))
        _join(self._waiting_loops, deadline)
        executor = self._plan.node.executor
        _note("runs", partial(self._stores.runs.note_stopped, executor))
        _note("heartbeat", self._heartbeats.stop)
        _note("refusals", partial(self._reception_audit.flush, everything=True))
        stopped = partial(self._stores.audit.append, AuditEvent.STOPPED, facts={"executor": executor})
        _note("audit", stopped)
        self._stores.close()
        self._probes.stop()
        return self._exit_code

    def take_over(self, node: NodePolicy, receive: ReceivePolicy, deliver: DeliverPolicy) -> None:
        """Go on with other callers, destinations, waits, retention, collector; the rest must be as it was."""
        self._plan = replace(self._plan, node=node, receive=receive, deliver=deliver)
        self._scp.policy = self._watcher.policy = receive
        self._delivery.policy = self._planner.deliver = deliver
        self._work.destinations = deliver.destinations
        self._desk.follow(deliver)
        self._owed.follow(receive, deliver)
        if self._metrics is not None:
            self._metrics.follow(deliver)
        self._forwarder.node = self._notifier.node = node
        self._wake.set()

    def note(self, event: AuditEvent, facts: Mapping[str, object]) -> None:
        """Write to the audit log what concerns the node as a whole."""
        self._stores.audit.append(event, facts=facts)

    def _conditions(self) -> Conditions:
        policy, receives = self._plan.node, self._plan.receives
        return Conditions(
            listening=(lambda: self._scp.listens) if receives else None,
            engine=self._stores.engine,
            data_dir=policy.data_dir,
            # below this images are refused; a node that only works stops at its own limit
            min_free_mb=self._plan.receive.min_free_mb if receives else policy.min_free_mb,
        )

    def _start_loops(self) -> None:
        policy, stopping, sign_of = self._plan.node, self._stopping, self._probes.sign_of
        watch = Round("watch", self._look, policy.poll_s, sign_of("watch"))
        plan = Round("plan", self._planner.plan, policy.poll_s, sign_of("plan"))
        heartbeat = Round("heartbeat", self._beat, policy.heartbeat_s, sign_of("heartbeat"))
        # these two leave no sign of life: one runs once an hour, the other's silence is a reason of its own
        housekeeping = Round("housekeeping", self._tidy, TIDY_S)
        probes = Round("probes", self._look_around, LOOK_EVERY_S)
        audit = Round("audit", self._forwarder.look, FORWARD_S)
        notify = Round("notify", self._notifier.look, NOTIFY_S)
        tell = Round("promises", self._owed.tell, PROMISES_S)
        look_up = Round("addresses", self._desk.look_up, PROMISES_S)
        asked = (tell, look_up) if self._plan.receives else ()
        own = (watch, heartbeat, housekeeping, probes)
        self._loops = [start_loop(one, stopping, stopping) for one in own]
        self._loops.append(start_loop(plan, self._wake, stopping))
        # a host that is silent must not take the drain of the study under way
        self._waiting_loops = [start_loop(one, stopping, stopping) for one in (audit, notify, *asked)]

    def _launch_engine(self, processors: ProcessorPool) -> None:
        from app.node.planner import Planner
        from app.node.queue import DurableEngine, deliver_workflow, process_workflow

        stores, policy = self._stores, self._plan.node
        self._engine = DurableEngine(policy, self._wake.set)
        wait = PriorWait(stores.studies, stores.runs, policy.prior_wait_s)
        ledgers, workers = (stores.runs, stores.deliveries), processors.size
        self._planner = Planner(*ledgers, self._engine, self._heartbeats, wait, workers, policy)
        self._planner.deliver = self._plan.deliver
        self._heartbeats.beat()
        receivers = self._plan.deliver.destinations
        work = self._work = StudyWork(
            stores, policy, processors, receivers, self._start_over, self._plan.judge
        )
        tls = self._plan.tls
        looks = partial(lookup.find, tls=tls), partial(lookup.retrieve, tls=tls)
        proof = DeliveryProof(stores, partial(commitment.ask, tls=tls), *looks)
        delivery = self._delivery = ResultDelivery(
            stores, self._plan.deliver, partial(scu.send, tls=tls), proof
        )
        process = process_workflow(work, self._wake.set, self._plan.shadows)
        self._engine.launch(process, deliver_workflow(delivery), workers)

    def _start_over(self) -> None:
        """Drain and end: what keeps this node running (systemd, a container host) starts a new one."""
        self._exit_code = ExitCode.RETRY
        stop_this_process()

    def _look(self) -> float | None:
        # a node that receives alone knows of what it has acknowledged and not indexed yet
        return self._watcher.look() if self._plan.receives else None

    def _received(self, reception: Reception) -> None:
        if self._metrics is not None:
            self._metrics.received(reception)
        self._reception_audit(reception)

    def _look_around(self) -> None:
        self._probes.look()
        if self._metrics is not None:
            self._metrics.look()

    def _tidy(self) -> None:
        from app.node.queue import tidy

        tidy(self._plan.node, self._engine, self._stores.commitments)
        finish_removals(self._stores, self._plan.node)
        remove_expired(self._stores, self._plan.node)

    def _beat(self) -> None:
        self._heartbeats.beat()
        self._planner.take_over_dead()
        self._planner.replace_lost()
        settle_left(self._stores)
        self._reception_audit.flush()


def _metrics(plan: NodePlan, stores: NodeStores) -> NodeMetrics:
    from app.node.watch.metrics import Measured, NodeMetrics

    metrics = NodeMetrics(stores, Measured(plan.node, plan.deliver, plan.tls, plan.version))
    stores.audit.observers.append(metrics.audited)
    stores.runs.on_stage = metrics.stage
    return metrics


def _join(threads: Iterable[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _note(what: str, write: Callable[[], object]) -> None:
    """Write at the stop; a full disk or a silent database must not keep the node from ending."""
    try:
        write()
    except (OSError, SQLAlchemyError, RetryLaterError) as error:
        _log.error("not written at the stop: %s", what, extra={"reason": describe_exception(error)})


def _lock(policy: NodePolicy) -> FileLock:
    """Hold the executor's name: two processes under one name would take each other's work for their own.

    The kernel lets go of the lock when the process ends, however it ends.
    """
    try:
        lock = try_lock(policy.lock_file)
    except OSError as error:
        raise disk_error(error, str(policy.lock_file), "it belongs to the node's user", True) from error
    if lock is None:
        raise MisconfiguredError(
            f"a node already runs as executor {policy.executor} on {policy.data_dir}; stop it, "
            "or give this one another node.executor_id"
        )
    return lock
