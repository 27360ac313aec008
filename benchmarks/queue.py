"""How long a complete study takes where its chain takes no time: woken against polled, alone and behind some.

    python -m benchmarks.queue
    python -m benchmarks.queue --irrelevant 10000

A node without network or chain: the stand-in for the chain does nothing. The peer is the same node as it was
before it started work itself: each try is stored in a queue of the durable engine, which is polled, and the
planner looks every two seconds. Takes about four minutes.

With ``--irrelevant``, what a clinic that routes everything adds in a day: so many studies of one CT image
are stored in the inbox, found complete, and refused by the node's own reading of their headers. While they
wait, a good study comes now and then; and each must cost what the first did, in processor time and in memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from app.chain.headers import HeaderJudge
from app.dicom.reading.studies import read_study
from app.domain.outcome import EarlierRevisions, RunContext, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.selection import SelectionResult, select
from app.domain.study import Study
from app.files.outcome import write_outcome
from app.node.peers import ReceivePolicy
from app.node.planner import Planner
from app.node.policy import NodePolicy
from app.node.process.priors import PriorWait
from app.node.process.processors import ProcessorPool
from app.node.process.work import StudyWork
from app.node.queue import PROCESSING, DurableEngine, process_workflow
from app.node.receive.watcher import Watcher
from app.node.records.instances import StoreCommand, identify
from app.node.records.runs import Run
from app.node.records.states import Arrival, StudyState
from app.node.records.stores import Heartbeats, NodeStores, open_stores
from app.settings import Settings
from benchmarks.comparison import MIN_RUNS, ROOT, Measure, Result, Row, Table, interleaved, keep

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
    planner = Planner(stores.runs, stores.deliveries, engine, heartbeats, wait, 1, policy)
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


BLOCKS = 10
"""Parts of the irrelevant studies, compared with one another."""

STALLED_S = 120.0
"""Without another study judged for so long something is wrong."""


class Judge:
    """The node's own, which notes when it was asked: on the wall, in processor time, and the memory then."""

    def __init__(self, settings: Settings) -> None:
        self._judge = HeaderJudge(settings)
        self.asked: list[tuple[float, float, float]] = []

    def judge(self, *arguments: Any) -> StudyOutcome | None:
        """As the node's."""
        text = Path("/proc/self/status").read_text(encoding="ascii")
        memory_mb = int(re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024 / 1e6
        self.asked.append((time.perf_counter(), time.process_time(), memory_mb))
        return self._judge.judge(*arguments)


def crowded(count: int, folder: Path) -> tuple[list[Row], Table]:
    """A node behind ``count`` irrelevant studies."""
    settings = Settings()
    policy = NodePolicy(data_dir=folder, executor_id="benchmark", min_free_mb=1)
    stores, judge = open_stores(policy), Judge(settings)
    per_s = {"received": _store_irrelevant(stores, count)}

    def examine(paths: Sequence[Path]) -> tuple[Study, SelectionResult]:
        study = read_study(paths)
        return study, select(study, settings.select)

    with _driven(stores, policy, judge) as wake:
        alone = tuple(_good(stores, wake, f"1.3.{number}") for number in range(BLOCKS))
        no_wait = ReceivePolicy(settle_s=0, give_up_s=0)  # else each waits an hour for its PET
        watcher = Watcher(stores, no_wait, examine, calm_s=0)
        begun = time.perf_counter()
        watcher.look()
        per_s["found complete"] = (time.perf_counter() - begun) / count
        wake.set()
        crowd = []
        for block in range(BLOCKS):
            _wait_for(judge, block * count // BLOCKS + 1)
            crowd.append(_good(stores, wake, f"1.4.{block}"))
        _wait_for(judge, count)
    return _rows(count, judge, tuple(crowd), alone), _table(count, judge, per_s)


def _rows(count: int, judge: Judge, crowd: tuple[float, ...], alone: tuple[float, ...]) -> list[Row]:
    cpu_s = [cpu for _, cpu, _ in judge.asked]
    steps = [after - before for before, after in itertools.pairwise(cpu_s)]
    size = count // BLOCKS // MIN_RUNS
    first, last = (
        tuple(sum(steps[at + size * run : at + size * (run + 1)]) / size for run in range(MIN_RUNS))
        for at in (0, len(steps) - size * MIN_RUNS)
    )
    one = f"a complete study to its end, while {count} that headers refuse wait"
    each = f"one of {count} that headers refuse, processor time: the last tenth"
    return [
        Row(one, "the same node, alone", Measure.SHARE, crowd, alone),
        Row(each, "the first tenth", Measure.SHARE, last, first),
    ]


def _table(count: int, judge: Judge, per_s: dict[str, float]) -> Table:
    """What each tenth took, a study."""
    title = f"{count} studies that headers refuse: " + ", ".join(
        f"{what} in {1000 * seconds:.1f} ms each" for what, seconds in per_s.items()
    )
    size = count // BLOCKS
    edges = [judge.asked[min(block * size, count - 1)] for block in range(BLOCKS + 1)]
    lines = []
    for number, (before, after) in enumerate(itertools.pairwise(edges), start=1):
        wall_ms, cpu_ms = (1000 * (after[which] - before[which]) / size for which in (0, 1))
        lines.append((str(number), f"{wall_ms:.1f}", f"{cpu_ms:.1f}", f"{after[2]:.0f}"))
    return Table(title, ("tenth", "ms each", "ms of processor each", "memory, MB"), tuple(lines))


@contextmanager
def _driven(stores: NodeStores, policy: NodePolicy, judge: Judge) -> Iterator[threading.Event]:
    """The planner and the engine at work; its event wakes them."""
    wake, ends = threading.Event(), threading.Event()
    engine = DurableEngine(policy, wake.set)
    wait = PriorWait(stores.studies, stores.runs, 0)
    heartbeats = Heartbeats(stores.engine, "benchmark", 60)
    planner = Planner(stores.runs, stores.deliveries, engine, heartbeats, wait, 1, policy)
    work = StudyWork(stores, policy, ProcessorPool(lambda _: Stub(), 1), (), lambda: None, judge.judge)
    engine.launch(process_workflow(work, wake.set), lambda *_: None, 1)

    def plan() -> None:
        while not ends.is_set():
            wake.clear()
            planner.plan()
            wake.wait(POLL_S)

    thread = threading.Thread(target=plan)
    thread.start()
    try:
        yield wake
    finally:
        ends.set()
        wake.set()
        thread.join()
        engine.stop(5)
        stores.close()


def _store_irrelevant(stores: NodeStores, count: int) -> float:
    """Studies of one small CT image each; returns the seconds that one took."""
    image = Dataset()
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    image.PatientID, image.InstanceNumber = "benchmark", "1"
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 1
    image.Rows = image.Columns = 4
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation, image.PixelData = "MONOCHROME2", bytes(32)
    begun = time.perf_counter()
    for number in range(count):
        image.StudyInstanceUID, image.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.1"
        image.SOPInstanceUID = f"1.2.{number}.1.1"
        stores.inbox.store(identify(_command(image), _encoded(image)))
    stores.inbox.settle()
    return (time.perf_counter() - begun) / count


def _command(image: Dataset) -> StoreCommand:
    return StoreCommand(image.SOPInstanceUID, image.SOPClassUID, str(ExplicitVRLittleEndian), "ROUTER")


def _encoded(image: Dataset) -> bytes:
    """The data set alone, in explicit VR little endian."""
    buffer = BytesIO()
    dcmwrite(buffer, image, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _good(stores: NodeStores, wake: threading.Event, study: str) -> float:
    """Seconds from the moment at which a study that needs a worker is complete to its end."""
    digest = stores.inbox.content_digest(study)  # of no image: nothing is read
    begun = time.perf_counter()
    run, _ = stores.runs.open(study, digest)
    wake.set()
    while _waits(stores, run):
        time.sleep(0.002)
    return time.perf_counter() - begun


def _wait_for(judge: Judge, count: int) -> None:
    last, since_s = -1, 0.0
    while (found := len(judge.asked)) < count:
        if found != last:
            last, since_s = found, time.monotonic()
        if time.monotonic() - since_s > STALLED_S:
            raise RuntimeError(f"headers of {found} of {count} studies were judged, and no more come")
        time.sleep(0.01)


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--irrelevant", type=int, default=0)
    parser.add_argument("one", nargs="*")
    asked = parser.parse_args()
    if asked.one:
        polled, refused, folder = asked.one
        print(measured(polled == "1", int(refused), Path(folder)))
        return
    if asked.irrelevant:
        with tempfile.TemporaryDirectory() as folder:
            rows, table = crowded(asked.irrelevant, Path(folder))
        result = Result.of("queue", rows, [table], packages=("dbos", "sqlalchemy"))
        keep(replace(result, arguments=f"--irrelevant {asked.irrelevant}"))
        return
    rows = []
    for refused, title in ((0, "alone"), (REFUSED, f"behind {REFUSED} that headers refuse")):
        ours, peer = interleaved(in_process(False, refused), in_process(True, refused), runs=MIN_RUNS)
        rows.append(Row(f"a complete study to its end, {title}", "polled queue", Measure.SPEED, ours, peer))
    keep(Result.of("queue", rows, packages=("dbos", "sqlalchemy")))


if __name__ == "__main__":
    main()
