"""What eight senders send, and in which of the ways that senders have."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path

from app.domain.study import StudyKind
from tests.faults.account import digest
from tests.node.receive.images import ct_slice, encoded
from tests.node.receive.peers import run_dcmtk
from tests.node.receive.wire import A_ABORT, store_pdus, wire
from tests.node.workflow.fake_node import IRRELEVANT, Subject
from tests.soak.node import FAILS, LATER

STUDIES_OF_A_PATIENT = 4
"""A PET/CT, then three SPECT/CTs; two of these are not the last of their kind, and retention takes them."""

IRRELEVANT_SHARE, TROUBLED_SHARE = 0.2, 0.06

BY_DCMTK = 8
"""Every eighth sender is DCMTK's storescu."""

PIXELS = 150
"""Across an image, which then takes several PDUs."""

PAUSE_S, LATE_S, SILENCE_S = 0.1, 2.5, 3.0


class Way(StrEnum):
    """How a study is sent; in the end every image is acknowledged."""

    AT_ONCE = "in one association"
    EACH = "with an association for each image"
    TWICE = "twice"
    CUT = "once more after the connection ended amid an image"
    ABORTED = "once more after an abort amid an image"
    SLOW = "slowly"
    SILENT = "after a connection without a word"
    LATE = "with the last image late"
    STORESCU = "by DCMTK's storescu"
    RECODED = "by DCMTK's storescu twice, the second time in implicit VR"


@dataclass(frozen=True)
class Sending:
    """One study, decided by the seed alone; ``at`` is its share of the run."""

    number: int
    sender: int
    at: float
    subject: Subject
    images: int
    way: Way
    trouble: str

    @property
    def study(self) -> str:
        return f"1.2.826.0.1.{self.number}"

    @property
    def title(self) -> str:
        """The calling AE title."""
        return f"SENDER{self.sender + 1}"

    @property
    def is_refused(self) -> bool:
        return self.subject.kind == IRRELEVANT

    def files(self, folder: Path) -> list[Path]:
        """Its images, made anew; a file's name is its SOP Instance UID."""
        folder.mkdir(exist_ok=True)
        made = []
        for number in range(self.images):
            image = ct_slice(number, self.study, size=PIXELS)
            image.PatientName, image.PatientID = self.subject.name, f"ID-{self.subject.name}"
            image.StudyDescription, image.StudyDate = str(self.subject.kind), self.subject.day
            encoded(image)
            made.append(folder / f"{image.SOPInstanceUID}.dcm")
            image.save_as(made[-1], enforce_file_format=True)
        return made


def sendings(studies: int, senders: int, seed: int) -> list[Sending]:
    """All of them, in order of time; patients' studies come from different senders."""
    choice = random.Random(f"soak {seed}")  # noqa: S311  repeatable, not secret
    return [_sending(number, studies, senders, choice) for number in range(1, studies + 1)]


def _sending(number: int, studies: int, senders: int, choice: random.Random) -> Sending:
    patient, cycle = divmod(number - 1, STUDIES_OF_A_PATIENT)
    kind: StudyKind | str = StudyKind.PET_CT if cycle == 0 else StudyKind.SPECT_CT
    trouble = ""
    if choice.random() < IRRELEVANT_SHARE:
        kind = IRRELEVANT
    elif choice.random() < TROUBLED_SHARE:
        trouble = choice.choice((FAILS, LATER))
    sender = (number - 1) % senders
    by_dcmtk = sender % BY_DCMTK == BY_DCMTK - 1
    own = [way for way in Way if way not in (Way.STORESCU, Way.RECODED)]
    day = date.today() - timedelta(days=STUDIES_OF_A_PATIENT - cycle)
    return Sending(
        number=number,
        sender=sender,
        at=(number - 1 + choice.random()) / studies,
        subject=Subject(f"SOAK^{patient}", kind, f"{day:%Y%m%d}"),
        images=choice.randint(2, 5),
        way=choice.choice([Way.STORESCU, Way.RECODED] if by_dcmtk else own),
        trouble=trouble,
    )


@dataclass
class Sender:
    """Sends files under a title until each is acknowledged, or until it is told to give up."""

    port: int
    title: str
    given_up: threading.Event
    acknowledged: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → digest of what was sent."""
    pause_s: float = 0.0
    """Between two PDUs."""

    def send(self, paths: Sequence[Path], way: Way) -> None:
        _WAYS[way](self, paths)

    def send_all(self, paths: Sequence[Path]) -> None:
        """One association a round, with all that is not acknowledged."""
        while (rest := [one for one in paths if one.stem not in self.acknowledged]) and self._goes_on():
            with suppress(OSError, LookupError, AssertionError):
                self._try(rest)

    def _goes_on(self) -> bool:
        return not self.given_up.wait(PAUSE_S)

    def _try(self, paths: Sequence[Path]) -> None:
        with wire(self.port, calling=self.title) as association:
            for path in paths:
                for pdu in store_pdus(path):
                    association.send(pdu)
                    time.sleep(self.pause_s)
                answer = association.answer()
                if answer is None:
                    return
                if answer.Status == 0:
                    self.acknowledged[path.stem] = digest(path)
            association.release()

    def begin_in_vain(self, path: Path, last_words: bytes) -> None:
        """Part of an image, these bytes, and the end of the connection."""
        with suppress(OSError, AssertionError), wire(self.port, calling=self.title) as association:
            association.send(*list(store_pdus(path))[:-1], last_words)

    def by_storescu(self, paths: Sequence[Path], *options: str) -> None:
        """Its exit code is 0 when each image was acknowledged."""
        peer = ("-aet", self.title, "-aec", "PSMA_NODE", "127.0.0.1", self.port)
        while self._goes_on():
            if run_dcmtk("storescu", *options, *peer, *paths).returncode == 0:
                self.acknowledged |= {path.stem: digest(path) for path in paths}
                return


def _each(sender: Sender, paths: Sequence[Path]) -> None:
    for path in paths:
        sender.send_all([path])


def _twice(sender: Sender, paths: Sequence[Path]) -> None:
    sender.send_all(paths)
    replace(sender, acknowledged={}).send_all(paths)


def _cut(sender: Sender, paths: Sequence[Path]) -> None:
    sender.begin_in_vain(paths[0], b"")
    sender.send_all(paths)


def _aborted(sender: Sender, paths: Sequence[Path]) -> None:
    sender.begin_in_vain(paths[-1], A_ABORT)
    sender.send_all(paths)


def _slowly(sender: Sender, paths: Sequence[Path]) -> None:
    replace(sender, pause_s=0.3).send_all(paths)


def _after_silence(sender: Sender, paths: Sequence[Path]) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", sender.port), SILENCE_S) as connection:
        connection.recv(1)
    sender.send_all(paths)


def _with_late_image(sender: Sender, paths: Sequence[Path]) -> None:
    sender.send_all(paths[:-1])
    sender.given_up.wait(LATE_S)
    sender.send_all(paths)


def _recoded(sender: Sender, paths: Sequence[Path]) -> None:
    sender.by_storescu(paths)
    sender.by_storescu(paths, "-xi")


_WAYS: dict[Way, Callable[[Sender, Sequence[Path]], None]] = {
    Way.AT_ONCE: Sender.send_all,
    Way.EACH: _each,
    Way.TWICE: _twice,
    Way.CUT: _cut,
    Way.ABORTED: _aborted,
    Way.SLOW: _slowly,
    Way.SILENT: _after_silence,
    Way.LATE: _with_late_image,
    Way.STORESCU: Sender.by_storescu,
    Way.RECODED: _recoded,
}
