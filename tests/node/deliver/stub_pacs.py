"""A PACS that keeps what it is sent, or loses some of it, and commits as the test says."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from app.node.deliver.association import ClientEntity

CALL_S = 30.0
FIND, GET = StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet


@dataclass
class StubPacs:
    """``loses`` names instances dropped after their acknowledgement, each as often as it says."""

    ae_title: str = "PACS"
    loses: Counter[str] = field(default_factory=Counter)
    spoils: Counter[str] = field(default_factory=Counter)
    """Instances that come out with other pixels, each as often as it says."""
    calls_back: int = 0
    """The port of the node it calls with its answer; 0 to answer on the association of the request."""
    is_silent: bool = False
    classes: tuple[str, ...] = (FIND, GET, StorageCommitmentPushModel)
    received: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Dataset] = field(default_factory=dict)
    requests: list[Dataset] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    port: int = 0

    def take(self, event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        uid = str(dataset.SOPInstanceUID)
        self.received[uid] += 1
        if self.loses[uid] > 0:
            self.loses[uid] -= 1
            return 0x0000
        if self.spoils[uid] > 0:
            self.spoils[uid] -= 1
            dataset.PixelData = bytes(len(dataset.PixelData) - 1) + b"\x07"
        self.kept[uid] = dataset
        return 0x0000

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for uid, kept in self.kept.items():
            if uid == event.identifier.SOPInstanceUID:
                answer = Dataset()
                answer.SOPInstanceUID = uid
                answer.StudyInstanceUID = kept.StudyInstanceUID
                yield 0xFF00, answer

    def get(self, event: evt.Event) -> Iterator[Any]:
        found = [one for uid, one in self.kept.items() if uid == event.identifier.SOPInstanceUID]
        yield len(found)
        for one in found:
            yield 0xFF00, one

    def commit(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        if not self.is_silent:
            arguments = (event.assoc, event.action_information)
            threading.Thread(target=self.answer, args=arguments, daemon=True).start()
        return 0x0000, None

    def answer(self, association: Any, request: Dataset) -> None:
        """N-EVENT-REPORT for a request, on its association or on one to the node."""
        information, failed = Dataset(), []
        information.TransactionUID = request.TransactionUID
        for item in request.ReferencedSOPSequence:
            if item.ReferencedSOPInstanceUID not in self.kept:
                item.FailureReason = 0x0112
                failed.append(item)
        kept = [item for item in request.ReferencedSOPSequence if "FailureReason" not in item]
        information.ReferencedSOPSequence = kept
        if failed:
            information.FailedSOPSequence = failed
        arguments = (information, 2 if failed else 1, StorageCommitmentPushModel)
        instance = StorageCommitmentPushModelInstance
        if not self.calls_back:
            time.sleep(0.1)
            self.answers.append(association.send_n_event_report(*arguments, instance)[0])
            return
        self.answers.append(call_back(self.calls_back, self.ae_title, arguments))


def call_back(
    port: int, ae_title: str, arguments: tuple[Dataset, int, str], called: str = "PSMA_NODE"
) -> Any:
    """An N-EVENT-REPORT on an association of its own; its status, or ``None`` where there is none."""
    entity = ClientEntity(ae_title, CALL_S)  # pynetdicom's own leaves its socket open when nobody listens
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(StorageCommitmentPushModel)],
        ae_title="PSMA_NODE",
        ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
    )
    if not association.is_established:
        return None
    status, _ = association.send_n_event_report(*arguments, StorageCommitmentPushModelInstance)
    association.release()
    return status.get("Status")


@contextmanager
def listening(pacs: StubPacs, port: int = 0) -> Iterator[StubPacs]:
    """The PACS, up."""
    entity = AE(pacs.ae_title)
    contexts = [build_context(one) for one in (Verification, SecondaryCaptureImageStorage, *pacs.classes)]
    for context in contexts[1:2]:
        context.scu_role = context.scp_role = True
    handlers = [
        (evt.EVT_C_STORE, pacs.take),
        (evt.EVT_C_FIND, pacs.find),
        (evt.EVT_C_GET, pacs.get),
        (evt.EVT_N_ACTION, pacs.commit),
    ]
    server = entity.start_server(("127.0.0.1", port), block=False, contexts=contexts, evt_handlers=handlers)
    pacs.port = server.server_address[1]
    try:
        yield pacs
    finally:
        server.shutdown()
