"""The soak: one node, eight senders, two destinations, and everything that is done to them meanwhile.

The node lives through it all: killed or stopped at seeded moments of the first half, and left alone in the
second, its last life. In the end stands the account of every image (:mod:`tests.faults.account`).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import SQLAlchemyError

from app.errors import PsmaNodeError
from app.node.records.audit import AuditEvent
from app.node.records.stores import NodeStores
from app.node.upkeep.retry import retry_study
from tests.faults.account import Account, Destination
from tests.faults.pacs import Pacs
from tests.node.watch.asking import ask
from tests.node.watch.test_notify import Hook
from tests.node.workflow.peers import FakePacs, free_port, wait_until
from tests.soak.node import SoakNode
from tests.soak.resources import Sample, sample
from tests.soak.schedule import Happening, Scale, happenings
from tests.soak.senders import Sender, Sending, sendings

TOLD_OF = re.compile(r"^study (\S+) failed", re.MULTILINE)


@dataclass
class SoakWorld:
    """``has_a_disk``: the data folder is a small file system of its own, which can be filled.

    The faults of :mod:`tests.faults.trials` know it by ``folder``, ``node`` and ``pacs``.
    """

    folder: Path
    node: SoakNode
    pacs: Pacs
    archive: FakePacs
    hook: Hook
    scale: Scale
    has_a_disk: bool
    plan: list[Sending] = field(default_factory=list)
    promised: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → digest of what was sent, of each image that was acknowledged."""
    done: list[tuple[Happening, float]] = field(default_factory=list)
    samples: dict[int, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """By life, from 1."""
    scraped: Counter[str] = field(default_factory=Counter)
    """What probes and metrics answered, with how often."""
    faults_of_ours: list[str] = field(default_factory=list)
    rotated: int = 0
    timeout_s: float = 5.0
    _over: threading.Event = field(default_factory=threading.Event)
    _began_s: float = 0.0

    @property
    def archives(self) -> Sequence[Any]:
        return (self.pacs, self.archive)

    def hang_up(self) -> None:
        """SIGHUP."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.node.lives[-1].pid or 0, number)

    def run(self) -> list[str]:
        """From the first study to the account; what is wrong, a line each."""
        self.plan = sendings(self.scale.studies, self.scale.senders, self.scale.seed)
        troubles = {one.study: one.trouble for one in self.plan if one.trouble}
        self.node.troubles.write_text(json.dumps(troubles))
        self.node.keep_alive()
        wait_until(lambda: self._ask("/readyz") == 200, "the node is ready")
        self._began_s = time.monotonic()
        helpers = (self._watch_resources, self._scrape, self._act_on_alarms)
        others = [self._thread(one) for one in (*helpers, self._disturb)]
        senders = [self._thread(self._send_as, number) for number in range(self.scale.senders)]
        for thread in (*senders, others[-1]):
            thread.join()
        wrong = self._what_is_wrong()
        self._over.set()
        for thread in others:
            thread.join()
        return [*wrong, *self.faults_of_ours, *self._stopped()]

    def _thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # noqa: BLE001  what the world itself can't do is no silence
                self.faults_of_ours.append(f"the soak's own fault in {work.__name__}: {error!r}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _wait_for(self, share: float) -> None:
        """Until this share of the run has passed."""
        self._over.wait(max(0.0, self._began_s + share * self.scale.lasts_s - time.monotonic()))

    def _send_as(self, sender: int) -> None:
        for one in (item for item in self.plan if item.sender == sender):
            self._wait_for(one.at)
            mine = Sender(self.node.port, one.title, self._over)
            mine.send(one.files(self.folder / "sent"), one.way)
            self.promised |= mine.acknowledged

    def _disturb(self) -> None:
        choice = random.Random(f"disturbances {self.scale.seed}")  # noqa: S311  repeatable, not secret
        for one in happenings(self.scale, self.has_a_disk):
            self._wait_for(one.at)
            begun_s = time.monotonic() - self._began_s
            if one.signal is not None:
                self._restart(one.signal)
            elif one.disturbance is not None:
                with suppress(sqlite3.OperationalError):  # the database was busy already
                    for _ in one.disturbance(self, choice):
                        self._over.wait(one.lasts_s)
            self.done.append((one, begun_s))

    def _restart(self, number: signal.Signals) -> None:
        lives = len(self.node.lives)
        self._signal(number)
        wait_until(lambda: len(self.node.lives) > lives, "the node begins again")
        wait_until(lambda: self._ask("/readyz") == 200, "the node is ready again")

    def _ask(self, path: str) -> int:
        try:
            return ask(self.node.probe_port, path)[0]
        except (OSError, HTTPException):
            return 0

    def _watch_resources(self) -> None:
        while not self._over.wait(self.scale.sample_s):
            number = len(self.node.lives)
            found = sample(self.node.lives[-1].pid or 0, self.folder / "data")
            if found is not None:
                self.samples[number].append(found)

    def _scrape(self) -> None:
        """As Prometheus and a kubelet do."""
        while not self._over.wait(self.scale.scrape_s):
            with suppress(OSError, HTTPException):
                status, page = ask(self.node.probe_port, "/metrics")
                families = list(text_string_to_metric_families(page))
                self.scraped[f"/metrics {status}, {'with' if families else 'without'} figures"] += 1
                for path in ("/healthz", "/readyz"):
                    status, words = ask(self.node.probe_port, path)
                    words = words.strip() if status != 200 else "ok"
                    self.scraped[f"{path} {status}: {re.sub('[0-9.]+', 'n', words)}"] += 1

    def _act_on_alarms(self) -> None:
        """A person who reads the webhook's messages, and has what failed tried again."""
        seen = 0
        while not self._over.wait(0.2):
            texts = self.hook.texts()[seen:]
            try:
                for study in {uid for text in texts for uid in TOLD_OF.findall(text)}:
                    self._retry(study)
            except (SQLAlchemyError, PsmaNodeError, OSError):
                continue  # the database is busy or full: the person tries again
            seen += len(texts)

    def _retry(self, study: str) -> None:
        with self._stores() as stores:
            if stores.runs.of_study(study)[-1].state == "failed":
                retry_study(stores, study, "the soak")

    @contextmanager
    def _stores(self) -> Iterator[NodeStores]:
        stores = self.node.stores()
        try:
            yield stores
        finally:
            stores.close()

    def _what_is_wrong(self) -> list[str]:
        deadline = time.monotonic() + self.scale.patience_s
        while True:
            wrong = [*self._of_ends()] or [*self.account(), *self._of_alarms()]
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(0.5)

    def account(self) -> list[str]:
        """What is wrong with images, results and the audit log, a line each."""
        refused = {one.study for one in self.plan if one.is_refused}
        images = {one.study: one.images for one in self.plan if not one.is_refused}
        account, calls = Account(self.promised, images, refused), set(self.node.calls())
        there = [
            Destination("the PACS", self.pacs.kept, self.pacs.received),
            Destination("the archive", self.archive.received, self.archive.received),
        ]
        with self._stores() as stores:
            of_results = account.of_results(stores, calls, there)
            return [*account.of_images(stores), *of_results, *account.of_audit(stores)]

    def ends(self) -> dict[str, str]:
        """Study → its state."""
        return {one.study_instance_uid: one.state for one in self.node.statuses()}

    def _of_ends(self) -> Iterator[str]:
        ends = self.ends()
        for one in self.plan:
            found, expected = ends.get(one.study, "unknown"), "rejected" if one.is_refused else "done"
            if found != expected:
                yield f"study {one.study}: {found}, expected {expected}"
        acknowledged = self.acknowledged()
        for one in self.plan:
            if acknowledged[one.study] != one.images:
                yield f"study {one.study}: {acknowledged[one.study]} of {one.images} images acknowledged"

    def acknowledged(self) -> Counter[str]:
        """How many images of each study."""
        return Counter(uid.rpartition(".2.")[0] for uid in self.promised)

    def _of_alarms(self) -> Iterator[str]:
        """What a person had to be told, and was not."""
        told = "\n".join(self.hook.texts())
        for study in self.failed():
            if f"study {study} failed" not in told:
                yield f"study {study}: failed, and nobody was told"
        happened = {one.words for one, _ in self.done}
        if "disk is full" in happened and "MB are free in node.data_dir" not in told:
            yield "the disk was full, and nobody was told"
        if "away for long" in happened and "destination pacs has not got everything" not in told:
            yield "a destination was away for long, and nobody was told"

    def entries(self) -> list[dict[str, Any]]:
        """The audit log."""
        with self._stores() as stores:
            return list(stores.audit.entries())

    def sent_again(self) -> int:
        """Results that a destination got more than once under the same UID: it keeps one."""
        return sum(count - 1 for pacs in self.archives for count in pacs.received.values())

    def failed(self) -> set[str]:
        """Studies whose last revision waited for a person at some time."""
        ends = (str(AuditEvent.FAILED), str(AuditEvent.DELIVERY_FAILED))
        revisions = {one.study_instance_uid: one.revision for one in self.node.statuses()}
        return {
            entry["study"]
            for entry in self.entries()
            if entry["event"] in ends
            and not entry["facts"]["next_try"]
            and entry["facts"]["revision"] == revisions[entry["study"]]
            and entry["facts"].get("ending", "failed") in ("failed", "misconfigured", "exhausted")
        }

    def _stopped(self) -> Iterator[str]:
        """The last life ends on SIGTERM, and every other as it was asked to."""
        self.node.given_up.set()
        self._signal(signal.SIGTERM)
        codes = self.node.exit_codes
        wait_until(lambda: len(codes) == len(self.node.lives), "the node has ended")
        signals = [one.signal for one, _ in self.done if one.signal is not None]
        asked = [-one if one is signal.SIGKILL else 0 for one in (*signals, signal.SIGTERM)]
        if codes != asked:
            yield f"the lives of the node ended with exit codes {codes}, expected {asked}"

    def errors_logged(self) -> Counter[str]:
        """What the log calls an error; a line that is none of the log's stands for itself."""
        found: Counter[str] = Counter()
        for file in sorted(self.folder.glob(f"{self.node.log_file.name}*")):
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                if entry["level"] == "error":
                    found[f"{entry['event']} {entry.get('error', '')}".strip()] += 1
        return found


@contextmanager
def soak_world(folder: Path, scale: Scale, has_a_disk: bool = False) -> Iterator[SoakWorld]:
    """A world on ``folder``, ended whatever happens."""
    hook, pacs, archive = Hook(), Pacs().start(), FakePacs(free_port()).start()
    node = SoakNode(folder, pacs.port, retention=scale.retention)
    here = SoakWorld(folder, node, pacs, archive, hook, scale, has_a_disk)
    place = {"host": "127.0.0.1"}
    node.deliver = {
        "destinations": [
            {"name": "pacs", "ae_title": "PACS", "port": pacs.port, "commitment": True, **place},
            {"name": "archive", "ae_title": "PACS", "port": archive.port, **place},
        ],
        "first_retry_s": 0.3, "max_retry_s": 2.0, "timeout_s": here.timeout_s, "commitment_wait_s": 5.0,
        "max_proofs": 100,
    }  # fmt: skip
    node.receive |= {"association_timeout_s": 2.0, "idle_timeout_s": 20.0, "pdu_timeout_s": 10.0}
    notify = {"url": hook.url, "stuck_after_s": 60.0, "free_mb": 20.0 if has_a_disk else 0.0}
    node.node |= {"notify": notify}
    try:
        yield here
    finally:
        here._over.set()
        node.end()
        pacs.stop()
        archive.stop()
        hook.server.shutdown()
        hook.server.server_close()
