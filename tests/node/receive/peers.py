"""Live peers: DCMTK's programs, and a sender that sends exactly the bytes it is given."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

DCMTK_TIMEOUT_S = 60


def dcmtk(program: str) -> str:
    """Full path of a DCMTK program: pynetdicom puts namesakes of them into the virtual environment."""
    own = {Path(sys.prefix) / "bin", Path(sys.executable).parent}
    folders = [folder for folder in os.get_exec_path() if Path(folder) not in own]
    found = shutil.which(program, path=os.pathsep.join([*folders, "/usr/bin", "/usr/local/bin"]))
    if found is None:
        pytest.fail(f"{program} of DCMTK is needed as a live peer: apt-get install dcmtk (make setup does)")
    return found


def run_dcmtk(program: str, *arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    """Run a DCMTK program without Nagle's delay; the caller looks at its exit code."""
    command = [dcmtk(program), *map(str, arguments)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DCMTK_TIMEOUT_S, check=False
    )


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Request:
    """A C-STORE request, every part of it as the test wants it."""

    data_set: bytes
    sop_instance_uid: str
    sop_class_uid: str = str(CTImageStorage)
    transfer_syntax_uid: str = str(ExplicitVRLittleEndian)


class RawSender:
    """An association that sends any bytes as a data set, under any UID."""

    def __init__(self, association: Any) -> None:
        self.association = association

    def store(self, request: Request) -> Any:
        """The answer's status, or ``None`` when the association ended."""
        message = C_STORE()
        message.MessageID = 1
        message.Priority = 0
        message.AffectedSOPClassUID = request.sop_class_uid
        message.AffectedSOPInstanceUID = request.sop_instance_uid
        message.DataSet = BytesIO(request.data_set)
        context = next(
            one
            for one in self.association.accepted_contexts
            if one.abstract_syntax == request.sop_class_uid
            and one.transfer_syntax[0] == request.transfer_syntax_uid
        )
        self.association.dimse.send_msg(message, context.context_id)
        _, answer = self.association.dimse.get_msg(block=True)
        return answer


@contextmanager
def raw_sender(
    port: int,
    calling_ae: str = "SCANNER",
    sop_class_uids: tuple[str, ...] = (str(CTImageStorage),),
    transfer_syntax_uids: tuple[str, ...] = (str(ExplicitVRLittleEndian),),
) -> Iterator[RawSender]:
    """An association with one context for each class and transfer syntax, its reactor kept away."""
    entity = AE(calling_ae)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 20
    contexts = [build_context(uid, [syntax]) for uid in sop_class_uids for syntax in transfer_syntax_uids]
    association = entity.associate(
        "127.0.0.1", port, contexts=[build_context(Verification), *contexts], ae_title="PSMA_NODE"
    )
    assert association.is_established
    get_msg = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: get_msg(block=True) if block else (None, None)
    try:
        yield RawSender(association)
    finally:
        association.release() if association.is_established else association.abort()
