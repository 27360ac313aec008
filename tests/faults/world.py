"""A node between scanners and a PACS, all on loopback, and the account of what became of every image.

The scanners write the bytes of their associations themselves; the account reads the inbox's files, the
ledgers and what the PACS took, and compares them with what the scanners were promised.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from app.domain.study import StudyKind
from tests.faults import killing
from tests.faults.killing import KillPoint
from tests.node.receive.images import ct_slice, data_set_of, encoded
from tests.node.receive.wire import COMMAND, CONTEXT, LAST, fragment, pdu, store_command, wire
from tests.node.workflow.fake_node import KINDS, derived_uid
from tests.node.workflow.peers import FORK_SERVER, PATIENCE_S, FakePacs, NodeProcess, free_port, wait_until

STUDIES, IMAGES = 2, 3
NEVER = KillPoint("", 0)
ENDED = ("done", "rejected", "superseded")
PAUSE_S = 0.05
FRAGMENT_BYTES = 16_000


Calls = dict[str, dict[str, int]]
"""``calls`` since the start, ``busy`` since the first byte of a scanner: kind → number."""


@dataclass
class FaultyNode(NodeProcess):
    """A node that dies where it is told, and whose clock can be set."""

    deaths: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)

    def keep_alive(self, points: Sequence[KillPoint] = ()) -> None:
        """Start it, and again whenever it has ended, as systemd would; each start dies at the next point."""
        threading.Thread(target=self._keep_alive, args=(list(points),), daemon=True).start()
        wait_until(lambda: self.process is not None, "the node is started")

    def _keep_alive(self, points: list[KillPoint]) -> None:
        while not self.given_up.is_set():
            point = points.pop(0) if points else NEVER
            arguments = (self.written_plan(), self.log, point, self.folder / "counts", self.folder / "clock")
            self.process = FORK_SERVER.Process(target=killing.run, args=arguments)
            self.process.start()
            self.process.join()
            self.deaths += not self.given_up.is_set()

    def end(self) -> None:
        """For good."""
        self.given_up.set()
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def set_clock(self, ahead_s: float) -> None:
        """From now on its wall clock is ahead (behind, when negative)."""
        (self.folder / "clock").write_text(str(ahead_s))

    def calls_of_each_kind(self) -> Calls:
        """How often this process did what it can be killed at, a moment ago."""
        return json.loads((self.folder / "counts").read_text())  # type: ignore[no-any-return]


@dataclass
class Scanner:
    """Sends its images until each is acknowledged; one association a round, all that is not acknowledged."""

    port: int
    paths: Sequence[Path]
    acknowledged: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → digest of what was sent."""
    given_up: threading.Event = field(default_factory=threading.Event)

    def send_all(self) -> None:
        """Returns when all are acknowledged, or when told to give up."""
        while not self.given_up.is_set() and (rest := self._rest()):
            self._try(rest)
            time.sleep(PAUSE_S)

    @property
    def is_waiting(self) -> bool:
        """Whether an image is not acknowledged yet."""
        return bool(self._rest())

    def _rest(self) -> list[Path]:
        return [path for path in self.paths if uid_of(path) not in self.acknowledged]

    def _try(self, paths: Sequence[Path]) -> None:
        with suppress(OSError, LookupError, AssertionError), wire(self.port) as association:
            for path in paths:
                image = pydicom.dcmread(path)
                association.send(pdu(fragment(CONTEXT, COMMAND | LAST, store_command(image))))
                data = data_set_of(path.read_bytes())
                for start in range(0, len(data), FRAGMENT_BYTES):
                    end = start + FRAGMENT_BYTES
                    association.send(pdu(fragment(CONTEXT, LAST * (end >= len(data)), data[start:end])))
                answer = association.answer()
                if answer is None:
                    return
                if answer.Status == 0:
                    self.acknowledged[uid_of(path)] = digest(path)
            association.release()


def uid_of(path: Path) -> str:
    """SOP Instance UID of a file that :func:`images_of` named."""
    return path.stem


def digest(path: Path) -> str:
    """Of the data set: the file meta information is the receiver's own."""
    return hashlib.sha256(data_set_of(path.read_bytes())).hexdigest()


def study_uid(number: int) -> str:
    """The UID of study ``number``, from 1."""
    return f"1.2.826.0.1.{number}"


def images_of(folder: Path, number: int) -> list[Path]:
    """The files of a study; each takes several PDUs of 16 kB."""
    folder.mkdir(exist_ok=True)
    made = []
    for instance in range(IMAGES):
        image = ct_slice(instance, study_uid(number), size=150)
        image.StudyDescription, image.StudyDate = str(StudyKind.SPECT_CT), "20260301"
        encoded(image)
        made.append(folder / f"{image.SOPInstanceUID}.dcm")
        image.save_as(made[-1], enforce_file_format=True)
    return made


@dataclass
class World:
    """Two scanners that send two studies at once, the first study from both, and its last image late."""

    folder: Path
    node: FaultyNode
    pacs: FakePacs
    scanners: list[Scanner] = field(default_factory=list)

    def begin_to_send(self) -> None:
        """Two scanners, each on a thread."""
        first, second = (images_of(self.folder / "sent", number) for number in range(1, STUDIES + 1))
        self._send([*first[:-1], *second[:2]])
        self._send([*second, *first[:1]])

    def send_late_image(self) -> None:
        """What is missing of the first study: a new revision where the study was processed without."""
        self._send(images_of(self.folder / "sent", 1)[-1:])

    def _send(self, paths: Sequence[Path]) -> None:
        self.scanners.append(Scanner(self.node.port, paths))
        threading.Thread(target=self.scanners[-1].send_all, daemon=True).start()

    def what_is_wrong_after_all(self) -> list[str]:
        """Once all has had time to arrive and to come out right; a line each, empty when nothing is."""
        wait_until(lambda: not self.is_sending and not self._not_ended(), "the first images are done with")
        self.send_late_image()
        wait_until(lambda: not self.is_sending, "the late image is acknowledged")
        deadline = time.monotonic() + PATIENCE_S
        while (wrong := self._not_ended() or self.account()) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        return wrong

    @property
    def is_sending(self) -> bool:
        """Whether a scanner has an image that is not acknowledged yet."""
        return any(scanner.is_waiting for scanner in self.scanners)

    def promised(self) -> dict[str, str]:
        """Every image that was acknowledged to a scanner, with the digest of what it sent."""
        return {uid: content for scanner in self.scanners for uid, content in scanner.acknowledged.items()}

    def _not_ended(self) -> list[str]:
        found = self.node.statuses()
        open_ones = [one for one in found if one.state not in ENDED]
        wrong = [f"study {one.study_instance_uid}: stuck, {one.state}: {one.reason}" for one in open_ones]
        return wrong if len(found) == STUDIES else [*wrong, f"stuck: {STUDIES - len(found)} studies unknown"]

    def account(self) -> list[str]:
        """What is wrong, a line each; empty when all is accounted for."""
        stores = self.node.stores()
        try:
            kept = [stores.inbox.content(study_uid(number)) for number in range(1, STUDIES + 1)]
            revisions = {
                study_uid(number): [run.key.revision for run in stores.runs.of_study(study_uid(number))]
                for number in range(1, STUDIES + 1)
            }
            intact = stores.audit.verify().intact
        finally:
            stores.close()
        files = [(row.sop_instance_uid, one.folder / row.path) for one in kept for row in one.rows]
        wrong = [*self._of_images(files), *self._of_results(revisions)]
        return wrong if intact else [*wrong, "the audit log's chain is broken"]

    def _of_images(self, files: Sequence[tuple[str, Path]]) -> Iterator[str]:
        paths = dict(files)
        for uid, content in self.promised().items():
            if uid not in paths:
                yield f"image {uid}: acknowledged, not in the index"
            elif not paths[uid].is_file():
                yield f"image {uid}: acknowledged, no file"
            elif digest(paths[uid]) != content:
                yield f"image {uid}: acknowledged, its file has another content"
        twice = Counter(uid for uid, _ in files)
        yield from (f"image {uid}: {count} times in the index" for uid, count in twice.items() if count > 1)

    def _of_results(self, revisions: dict[str, list[int]]) -> Iterator[str]:
        arrived = set(self.pacs.received)
        for study, numbers in revisions.items():
            last = max(numbers, default=0)
            for kind in KINDS:
                if derived_uid(study, kind, last) not in arrived:
                    yield f"study {study}: {kind} of revision {last} did not reach the PACS"
            if f"{study} {last} {IMAGES}" not in self.node.calls():
                yield f"study {study}: revision {last} was not made of all {IMAGES} images"
            arrived -= {derived_uid(study, kind, number) for kind in KINDS for number in numbers}
        yield from (f"result {uid}: of no revision" for uid in arrived)

    def sent_again(self) -> int:
        """Results that the PACS got more than once under the same UID: it keeps one."""
        return sum(count - 1 for count in self.pacs.received.values())


@contextmanager
def world(folder: Path, **node: Any) -> Iterator[World]:
    """A world on ``folder``, ended whatever happens."""
    pacs = FakePacs(free_port()).start()
    here = World(folder, FaultyNode(folder, pacs.port, **node), pacs)
    try:
        yield here
    finally:
        for scanner in here.scanners:
            scanner.given_up.set()
        here.node.end()
        pacs.stop()
