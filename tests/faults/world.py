"""A node between scanners and a PACS, all on loopback, and what became of every image in the end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.node.watch.status import StudyStatus
from tests.faults import killing
from tests.faults.account import Account, Destination
from tests.faults.killing import Point
from tests.faults.network import Link, link
from tests.faults.pacs import Pacs
from tests.faults.scanner import PAUSE_S, Promises, Scanner, images_of
from tests.node.workflow.peers import FORK_SERVER, NodeProcess, wait_until

IMAGES = 3
FIRST, SECOND = STUDIES = ("1.2.826.0.1.1", "1.2.826.0.1.2")
NEVER = Point("", 0)
ENDED = ("done", "rejected", "superseded")

PATIENCE_LOOKS = 800
"""So many looks in a row at a world in which nothing moves, and what is missing then never comes. A look
costs the processor as much as it costs the node to do something, so both take longer where others want it."""

MOST_LOOKS = 10 * PATIENCE_LOOKS
"""A node that tries again and again for ever moves too."""

Calls = dict[str, dict[str, int]]
"""``calls`` since the start, ``busy`` since the first byte of a scanner, ``pdus`` of the links, by kind."""


@dataclass
class FaultyNode(NodeProcess):
    """A node that dies where it is told, whose clock can be set and whose disk may take nothing. It delivers
    with storage commitment."""

    deaths: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)

    def keep_alive(self, points: Sequence[Point] = ()) -> None:
        """Start it, and again whenever it has ended, as systemd would; each start dies at the next point."""
        threading.Thread(target=self._keep_alive, args=(list(points),), daemon=True).start()
        wait_until(lambda: self.process is not None, "the node is started")

    def _keep_alive(self, points: list[Point]) -> None:
        while not self.given_up.is_set():
            point = points.pop(0) if points else NEVER
            arguments = (self.written_plan(), self.log, point)
            process = FORK_SERVER.Process(target=killing.run, args=arguments)
            process.start()
            self.process = process
            process.join()
            self.deaths += not self.given_up.is_set()

    def statuses(self) -> Sequence[StudyStatus]:
        """None before it has a data folder, which its first start makes."""
        return super().statuses() if self.policy.data_dir.is_dir() else ()

    def die(self) -> None:
        """Now."""
        if self.process is not None:
            self.process.kill()

    def end(self) -> None:
        """For good."""
        self.given_up.set()
        if self.process is not None:
            self.kill()

    def set_clock(self, ahead_s: float) -> None:
        """From now on its wall clock is ahead (behind, when negative)."""
        (self.folder / "clock").write_text(str(ahead_s))

    def calls_of_each_kind(self) -> Calls:
        """How often this process did what it can be killed at, a moment ago."""
        return json.loads((self.folder / "counts").read_text())  # type: ignore[no-any-return]

    def _plan(self) -> dict[str, Any]:
        plan = super()._plan()
        plan["deliver"] |= {"timeout_s": 4.0, "commitment_wait_s": 2.0, "max_proofs": 1000}
        plan["deliver"]["destinations"][0]["commitment"] = True
        return plan


@dataclass
class World:
    """Two scanners that send two studies at once, the first study from both, and its last image late.

    Attributes:
        links: from the scanners to "the node", from it to "the PACS", where there are some between them.
        is_short: the last image of the first study never comes, and the others announce it.
    """

    folder: Path
    node: FaultyNode
    pacs: Pacs
    promises: Promises
    links: dict[str, Link] = field(default_factory=dict)
    is_short: bool = False
    scanners: list[Scanner] = field(default_factory=list)

    def __post_init__(self) -> None:
        announced = IMAGES if self.is_short else 0
        self._images = {study: images_of(self.folder / "sent", study, IMAGES, announced) for study in STUDIES}

    def begin_to_send(self) -> None:
        """Two scanners, each on a thread."""
        first, second = self._images[FIRST], self._images[SECOND]
        self._send([*first[:-1], *second[:2]])
        self._send([*second, *first[:1]], waits_for_answer=False)

    def _send(self, paths: Sequence[Path], waits_for_answer: bool = True) -> None:
        port = self.links["the node"].port if self.links else self.node.port
        self.scanners.append(Scanner(port, paths, self.promises, waits_for_answer).start())

    def kill_scanners(self) -> None:
        """They begin anew, and send everything again."""
        for scanner in self.scanners:
            scanner.kill()

    def what_is_wrong_after_all(self) -> list[str]:
        """Once all has had time to arrive and to come out right; a line each, empty when nothing is."""
        wrong = self._left(self._unfinished)
        if not wrong and not self.is_short:
            self._send(self._images[FIRST][-1:])  # a new revision: the study was processed without it
        return wrong or self._left(lambda: self._unfinished() or self.account())

    def _left(self, problems: Callable[[], list[str]]) -> list[str]:
        """What is still wrong when nothing moves any more."""
        still, seen, found = 0, None, problems()
        for _ in range(MOST_LOOKS):
            if not found or still == PATIENCE_LOOKS:
                break
            time.sleep(PAUSE_S)
            found, now = problems(), self._signs_of_life()
            still, seen = (still + 1 if now == seen else 0), now
        return found

    def _signs_of_life(self) -> tuple[object, ...]:
        states = [(one.state, one.stage, one.revision) for one in self.node.statuses()]
        told = len(self.promises.acknowledged), len(self.promises.answers)
        return states, told, self.pacs.received.total(), len(self.pacs.requests), self.node.deaths

    def _unfinished(self) -> list[str]:
        waiting = [f"stuck: {scanner.waits_for}" for scanner in self.scanners if scanner.waits_for]
        found = self.node.statuses()
        open_ones = [one for one in found if one.state not in ENDED]
        unknown = [f"stuck: {len(STUDIES) - len(found)} studies unknown"] * (len(found) < len(STUDIES))
        stuck = [f"study {one.study_instance_uid}: stuck, {one.state}: {one.reason}" for one in open_ones]
        return [*waiting, *unknown, *stuck]

    def account(self) -> list[str]:
        """What is wrong, a line each; empty when all is accounted for."""
        refused = {FIRST} if self.is_short else set()
        images = {study: IMAGES for study in STUDIES if study not in refused}
        account, calls = Account(self.promises.acknowledged, images, refused), self.node.calls()
        there = [Destination("the PACS", self.pacs.kept, self.pacs.received)]
        failed = {uid for answer in self.promises.answers for uid in answer.failed}
        stores = self.node.stores()
        try:
            wrong = [
                *account.of_images(stores),
                *account.of_commitments(stores, self.promises.committed, failed),
                *account.of_results(stores, calls, there),
                *account.of_audit(stores),
            ]
        finally:
            stores.close()
        return [*wrong, *(self._of_short_study() if self.is_short else ())]

    def _of_short_study(self) -> Iterator[str]:
        """What never came is named, and no result was made without it."""
        status = self.node.status(FIRST)
        if status.state != "rejected" or "NumberOfSlices" not in status.reason:
            yield f"study {FIRST}: stuck without its last image, {status.state}: {status.reason}"

    def sent_again(self) -> int:
        """Results that the PACS got more than once under the same UID: it keeps one."""
        return sum(count - 1 for count in self.pacs.received.values())


@contextmanager
def world(
    folder: Path, calls_back: bool = False, linked: bool = False, is_short: bool = False
) -> Iterator[World]:
    """A world on ``folder``, ended whatever happens.

    Args:
        calls_back: the PACS answers to storage commitment on an association that it opens itself.
        linked: with links, which can break.
    """
    with ExitStack() as ends:
        promises, pacs = Promises(), Pacs().start()
        ends.callback(pacs.stop)
        callers = [{"ae_title": "*", "commitment_port": ends.enter_context(promises.listening())}]
        receive: dict[str, Any] = {"allowed_callers": callers} | ({"give_up_s": 2.0} if is_short else {})
        node = FaultyNode(folder, pacs.port, receive=receive, behaviour={"rejects_short": is_short})
        here = World(folder, node, pacs, promises, is_short=is_short)
        if linked:
            to_node, to_pacs = link(node.port, "the node"), link(pacs.port, "the PACS", node_calls=True)
            here.links = {"the node": ends.enter_context(to_node), "the PACS": ends.enter_context(to_pacs)}
            node.pacs_port = here.links["the PACS"].port
        pacs.calls_back = node.port if calls_back else 0
        ends.callback(node.end)
        try:
            yield here
        finally:
            for scanner in here.scanners:
                scanner.given_up.set()
