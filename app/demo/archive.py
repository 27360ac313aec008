"""A small archive, for machines without Orthanc: C-STORE, C-FIND and C-GET.

Study root only (PS3.4 C.6.2), exact matching on the UIDs. It proves that the node talks DICOM; it is no PACS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from app.demo.processes import LOOPBACK

SUCCESS = 0x0000
PENDING = 0xFF00
CANNOT_UNDERSTAND = 0xC000
UNIQUE_KEYS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class SmallArchive:
    """A storage and query SCP on the loopback; its files lie in one folder."""

    name = "the demo's own small archive"

    def __init__(self, folder: Path, ae_title: str, port: int) -> None:
        self.ae_title = ae_title
        self.port = port
        self._folder = folder
        self._server: Any = None

    def start(self) -> None:
        """Listen, in threads of this process."""
        self._folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=self.ae_title)
        entity.add_supported_context(Verification)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(
                context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True
            )
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
        ]
        self._server = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Stop listening; what was stored stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: evt.Event) -> int:
        # named by a counter: a UID from the network never becomes a path
        number = len(list(self._folder.iterdir()))
        unfinished = self._folder / f"{number:06d}-{event.assoc.native_id}.part"
        unfinished.write_bytes(event.encoded_dataset())
        unfinished.rename(unfinished.with_suffix(".dcm"))
        return SUCCESS

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        key = UNIQUE_KEYS.get(query.QueryRetrieveLevel)
        if key is None:
            yield CANNOT_UNDERSTAND, None
            return
        seen = set()
        for instance in self._matching(query):
            if instance[key].value not in seen:
                seen.add(instance[key].value)
                yield PENDING, _answer(query, instance)

    def _get(self, event: evt.Event) -> Iterator[Any]:
        found = list(self._matching(event.identifier))
        yield len(found)
        for instance in found:
            yield PENDING, dcmread(str(instance.filename))

    def _matching(self, query: Dataset) -> Iterator[Dataset]:
        for path in sorted(self._folder.glob("*.dcm")):
            instance = dcmread(path, stop_before_pixels=True)
            if all(_agrees(query, instance, key) for key in ("PatientID", *UNIQUE_KEYS.values())):
                yield instance


def _agrees(query: Dataset, instance: Dataset, key: str) -> bool:
    asked = query.get(key)
    return not asked or str(instance.get(key, "")) in ([asked] if isinstance(asked, str) else list(asked))


def _answer(query: Dataset, instance: Dataset) -> Dataset:
    answer = Dataset()
    answer.file_meta = Dataset()
    answer.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for element in query:
        answer.add(instance.get(element.tag, element))
    return answer
