"""Scanners that send images until each is acknowledged, and then ask whether they may delete them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_context, evt

from app.domain.study import StudyKind
from app.node.deliver.association import ClientEntity, serve_one_by_one
from app.node.records.commitment_messages import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    CommitmentEvent,
    Reference,
    read_event,
    request_data,
)
from tests.faults.account import digest
from tests.node.receive.images import ct_slice, encoded
from tests.node.receive.wire import store_pdus, wire

PAUSE_S = 0.05
STAYS_S = 5.0
"""So long the association of a request stays open for its answer, where the scanner waits for it there."""

TITLE, NODE = "SCANNER", "PSMA_NODE"


@dataclass
class Promises:
    """What the node has told scanners; a scanner that is killed knows nothing of it any more."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → digest of what was sent."""
    answers: list[CommitmentEvent] = field(default_factory=list)

    @property
    def committed(self) -> frozenset[str]:
        """What the node has taken charge of: a scanner may delete it."""
        return frozenset(uid for answer in self.answers for uid in answer.kept)

    def are_given(self, transaction_uid: str) -> bool:
        """Whether a request has its answer."""
        return any(answer.transaction_uid == transaction_uid for answer in self.answers)

    @property
    def handler(self) -> tuple[Any, Callable[[evt.Event], tuple[int, None]]]:
        """Takes an answer, on whatever association it comes."""
        return evt.EVT_N_EVENT_REPORT, self._take

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.answers.append(read_event(event.event_information))
        return 0x0000, None

    @contextmanager
    def listening(self) -> Iterator[int]:
        """The port at which the node may answer."""
        context = build_context(PUSH_MODEL)
        context.scu_role = context.scp_role = True
        server = AE(TITLE).start_server(
            ("127.0.0.1", 0), block=False, contexts=[context], evt_handlers=[self.handler]
        )
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@dataclass
class _Memory:
    """What a scanner knows while it lives."""

    sent: set[str] = field(default_factory=set)
    asked: str = ""
    """Its request for storage commitment, once that was acknowledged."""
    hang_up: Callable[[], object] = lambda: None


@dataclass
class Scanner:
    """One association a round, with all that is not acknowledged; then a request for storage commitment."""

    port: int
    paths: Sequence[Path]
    promises: Promises
    waits_for_answer: bool = True
    """On the association of its request; otherwise it is told on one of the node's."""
    given_up: threading.Event = field(default_factory=threading.Event)
    _memory: _Memory = field(default_factory=_Memory)

    def start(self) -> Scanner:
        """Begin to send, on a thread."""
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def kill(self) -> None:
        """Its connection ends, and it begins anew with nothing known."""
        killed, self._memory = self._memory, _Memory()
        with suppress(OSError):
            killed.hang_up()

    @property
    def waits_for(self) -> str:
        """In words; empty when it has all that it wants."""
        rest = len(self._rest(self._memory))
        if rest:
            return f"{rest} images wait for their answer"
        answered = self.promises.are_given(self._memory.asked)
        return "" if answered else "a request for storage commitment has no answer"

    def _run(self) -> None:
        while not self.given_up.is_set():
            memory = self._memory
            rest = self._rest(memory)
            if rest:
                with suppress(OSError, LookupError, AssertionError):
                    self._send(rest, memory)
            elif not memory.asked:
                with suppress(RuntimeError):  # the association has ended meanwhile
                    self._ask(memory)
            time.sleep(PAUSE_S)

    def _rest(self, memory: _Memory) -> list[Path]:
        return [path for path in self.paths if uid_of(path) not in memory.sent]

    def _send(self, paths: Sequence[Path], memory: _Memory) -> None:
        with wire(self.port) as association:
            memory.hang_up = partial(association.socket.shutdown, socket.SHUT_RDWR)
            for path in paths:
                for one in store_pdus(path):
                    association.send(one)
                answer = association.answer()
                if answer is None:
                    return
                if answer.Status == 0:
                    self.promises.acknowledged[uid_of(path)] = digest(path)
                    memory.sent.add(uid_of(path))
            association.release()

    def _ask(self, memory: _Memory) -> None:
        transaction = str(generate_uid(prefix=None))
        references = [Reference(CTImageStorage, uid_of(path)) for path in self.paths]
        association = _association(self.port, self.promises)
        if not association.is_established:
            return
        serving = serve_one_by_one(association)
        memory.hang_up = association.abort
        data = request_data(transaction, references)
        status, _ = association.send_n_action(
            data, REQUEST_STORAGE_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
        if status.get("Status") == 0:
            memory.asked = transaction
        deadline = time.monotonic() + STAYS_S * self.waits_for_answer
        while (
            association.is_established
            and time.monotonic() < deadline
            and not self.promises.are_given(transaction)
        ):
            time.sleep(PAUSE_S)
        with serving:
            association.release()


def _association(port: int, promises: Promises) -> Any:
    entity = ClientEntity(TITLE, STAYS_S)  # pynetdicom's own leaves its socket open when nobody listens
    contexts = [build_context(PUSH_MODEL)]
    return entity.associate("127.0.0.1", port, contexts, NODE, evt_handlers=[promises.handler])


def uid_of(path: Path) -> str:
    """SOP Instance UID of a file that :func:`images_of` named."""
    return path.stem


def images_of(folder: Path, study_instance_uid: str, count: int, announced: int = 0) -> list[Path]:
    """The files of a study, each of several PDUs of 16 kB; they may announce how many there are."""
    folder.mkdir(exist_ok=True)
    made = []
    for instance in range(count):
        image = ct_slice(instance, study_instance_uid, size=150)
        image.StudyDescription, image.StudyDate = str(StudyKind.SPECT_CT), "20260301"
        if announced:
            image.NumberOfSlices = announced
        encoded(image)
        made.append(folder / f"{image.SOPInstanceUID}.dcm")
        image.save_as(made[-1], enforce_file_format=True)
    return made
