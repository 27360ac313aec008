"""How long a complete study takes where its chain takes no time: woken against polled, alone and behind some.

    python -m benchmarks.queue

A node without network or chain: the stand-in for the chain does nothing. The peer is the same node as it was
before it started work itself: each try is stored in a queue of the durable engine, which is polled, and the
planner looks every two seconds. Takes about four minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.domain.outcome import EarlierRevisions, RunContext, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.files.outcome import write_outcome
from app.node.planner import Planner
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.process.processors import ProcessorPool
from app.node.process.work import StudyWork
from app.node.queue import PROCESSING, DurableEngine, process_workflow
from app.node.records.runs import Run
from app.node.records.states import Arrival, StudyState
from app.node.records.stores import Heartbeats, NodeStores, open_stores
from benchmarks.comparison import MIN_RUNS, ROOT, Measure, Result, Row, interleaved, keep

POLL_S = 2.0
REFUSED = 8
"""Irrelevant studies before the good one; a polled node takes two seconds for each."""

REASON = Reason(RefusalCode.NO_FUNCTIONAL_SERIES, "Modality", "CT", "PT or NM")


class Stub:
    """Ends at once, and says of every study that it is refused."""

    def process(
        self, paths: Sequence[Path], out: Path, revision: int, earlier: EarlierRevisions, context: RunContext
    ) -> StudyOutcome:
        outcome = StudyOutcome("1.2", Status.REJECTED, (REASON,))
        write_outcome(outcome, out)
        return outcome


class PolledEngine(DurableEngine):
    """Stores each try in the engine's queue, as before; nothing wakes that."""

    def start_run(self, run: Run, line: str) -> bool:
        """Store it."""
        from dbos import DBOS

        from app.node.queue import run_workflow_id

        key = run.key
        DBOS.enqueue_workflow_with_options(
            {"workflow_name": "process", "queue_name": PROCESSING, "workflow_id": run_workflow_id(run)},
            key.study_instance_uid,
            key.revision,
            run.attempt,
        )
        return True

    def under_way(self, line: str) -> int:
        """There is room in a queue."""
        return 0


def measured(polled: bool, refused: int, folder: Path) -> float:
    """Seconds from the moment at which the studies are complete to the end of the good one, the last."""
    policy = NodePolicy(data_dir=folder, executor_id="benchmark", poll_s=POLL_S, min_free_mb=1)
    stores = open_stores(policy)
    wake = threading.Event()
    engine = (PolledEngine if polled else DurableEngine)(policy, wake.set)
    heartbeats, wait = Heartbeats(stores.engine, "benchmark", 60), PriorWait(stores.studies, stores.runs, 0)
    planner = Planner(stores.runs, stores.deliveries, engine, heartbeats, wait, 1)
    pool = ProcessorPool(lambda _: Stub(), 1)
    judge = None if polled else Stub().process
    work = StudyWork(stores, policy, pool, (), lambda: None, judge)
    engine.launch(process_workflow(work, wake.set), lambda *_: None, 1)
    time.sleep(2 * POLL_S)  # its threads have begun to look
    try:
        begun = time.perf_counter()
        good = _arrived(stores, refused, polled)
        return _ended(stores, good, _looked(planner, wake, polled)) - begun
    finally:
        engine.stop(1)
        stores.close()


def _looked(planner: Planner, wake: threading.Event, polled: bool) -> Callable[[], None]:
    def look() -> None:
        wake.clear()
        planner.plan()
        time.sleep(POLL_S) if polled else wake.wait(POLL_S)

    return look


def _arrived(stores: NodeStores, refused: int, polled: bool) -> Run:
    """Those that headers refuse, then the good one; before, all stood in one line."""
    digest = stores.inbox.content_digest("1.2")  # of no image: nothing is read
    for number in range(refused):
        stores.runs.open(f"1.2.{number}", digest, Arrival(by_headers=not polled))
    return stores.runs.open("1.3", digest)[0]


def _ended(stores: NodeStores, good: Run, look: Callable[[], None]) -> float:
    threading.Thread(target=lambda: [look() for _ in iter(lambda: _waits(stores, good), False)]).start()
    while _waits(stores, good):
        time.sleep(0.01)
    return time.perf_counter()


def _waits(stores: NodeStores, run: Run) -> bool:
    return stores.runs.get(run.key).state in (StudyState.QUEUED, StudyState.RUNNING)


def in_process(polled: bool, refused: int) -> Callable[[], float]:
    """One measurement in a process of its own: the engine is one a process."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "benchmarks.queue", str(int(polled)), str(refused), folder]
            found = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, check=True)
        return float(found.stdout.split()[-1])

    return run


def main() -> None:
    """Measure and keep."""
    if len(sys.argv) > 1:
        polled, refused, folder = sys.argv[1:]
        print(measured(polled == "1", int(refused), Path(folder)))
        return
    rows = []
    for refused, title in ((0, "alone"), (REFUSED, f"behind {REFUSED} that headers refuse")):
        ours, peer = interleaved(in_process(False, refused), in_process(True, refused), runs=MIN_RUNS)
        rows.append(Row(f"a complete study to its end, {title}", "polled queue", Measure.SPEED, ours, peer))
    keep(Result.of("queue", rows, packages=("dbos", "sqlalchemy")))


if __name__ == "__main__":
    main()
