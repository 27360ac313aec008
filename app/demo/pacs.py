"""A PACS for demo and tests: Orthanc where it is installed, else a small archive of our own.

The archive serves C-STORE, and C-FIND and C-GET of the study root (PS3.4 C.6.2) with exact matching on UIDs.
It proves that the node speaks DICOM, and is no PACS. Orthanc runs as a private process on the loopback.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from app.demo.processes import LOOPBACK, Program, free_port, start_program, stops_wait

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
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get)]
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
    wanted = query.get(key)
    return not wanted or str(instance.get(key, "")) in ([wanted] if isinstance(wanted, str) else list(wanted))


def _answer(query: Dataset, instance: Dataset) -> Dataset:
    answer = Dataset()
    answer.file_meta = Dataset()
    answer.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for element in query:
        answer.add(instance.get(element.tag, element))
    return answer


START_S = 60.0
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def orthanc_program() -> str | None:
    """Where Orthanc is installed (Debian puts it in /usr/sbin), or ``None``."""
    return shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Orthanc:
    """One Orthanc; it can be stopped and started again on the same port with all that it holds.

    It talks only to the application entities in ``peers``, all of them on this machine.
    """

    name = "Orthanc"

    def __init__(self, folder: Path, ae_title: str, port: int, peers: dict[str, int]) -> None:
        """``peers``: AE title to port of everyone who may send, query and retrieve."""
        self.ae_title = ae_title
        self.port = port
        self.http_port = free_port()
        self._folder = folder
        self._peers = peers
        self._program: Program | None = None

    def start(self) -> None:
        """Start and wait until it listens. Raises ProgramFailedError, with its last lines."""
        program_path = orthanc_program()
        if program_path is None:
            raise FileNotFoundError("Orthanc is not installed: scripts/install-peers installs it")
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration(), indent=2))
        # Orthanc writes header and payload apart: without this each image waits 40 ms for Nagle
        environment = {**os.environ, "TCP_NODELAY": "1"}
        log = self._folder / "orthanc.log"
        with stops_wait():
            self._program = start_program("Orthanc", [program_path, str(configuration)], log, environment)
        self._program.wait_for_port(self.port, START_S)
        self._program.wait_for_port(self.http_port, START_S)

    def stop(self) -> None:
        """Stop it; what it holds stays in its folder."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def _configuration(self) -> dict[str, object]:
        rights = {"AllowEcho": True, "AllowStore": True, "AllowFind": True, "AllowGet": True}
        modalities = {
            title: {"AET": title, "Host": LOOPBACK, "Port": port, "AllowStorageCommitment": True, **rights}
            for title, port in self._peers.items()
        }
        return {
            "Name": "PSMA node demo",
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": modalities,
            "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
        }


PACS_AE_TITLE = "DEMO_PACS"


class Pacs(Protocol):
    """An archive on the loopback that stores, and answers C-FIND and C-GET."""

    name: str
    ae_title: str
    port: int

    def start(self) -> None:
        """Listen; what was stored before is there again."""

    def stop(self) -> None:
        """Stop listening; harmless when it doesn't."""


def choose_pacs(folder: Path, peers: dict[str, int]) -> Pacs:
    """A PACS, not started yet, with its files in ``folder``; it talks to ``peers`` (AE title to port)."""
    if orthanc_program():
        return Orthanc(folder, PACS_AE_TITLE, free_port(), peers)
    return SmallArchive(folder, PACS_AE_TITLE, free_port())


@contextmanager
def running(pacs: Pacs) -> Iterator[Pacs]:
    """The PACS, started, and stopped at the end of the block."""
    try:
        pacs.start()
        yield pacs
    finally:
        pacs.stop()
