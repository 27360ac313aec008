"""Orthanc, the open-source PACS, as a private process on free ports of the loopback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from app.demo.processes import LOOPBACK, Program, free_port, start_program

START_S = 60.0
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def orthanc_program() -> str | None:
    """Where Orthanc is installed (Debian puts it in /usr/sbin), or ``None``."""
    return shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Orthanc:
    """One Orthanc; it can be stopped and started again on the same port with all that it holds.

    It talks only to the application entities it was told of, all of them on this machine.
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
