"""Whether a destination has what was sent to it: asks for it by C-FIND, or gets it back by C-GET (PS3.4 C.4).

For a PACS without storage commitment. Asking shows that it lists an instance; getting it back, that it holds
what was sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from app.errors import RetryLaterError
from app.node.deliver.association import NothingAcceptedError, Proposal, answer_in_words, open_association
from app.node.deliver.commitment import ProofRefusedError
from app.node.deliver.scu import CONVERTIBLE_TRANSFER_SYNTAXES
from app.node.peers import NO_TLS, DeliverPolicy, Destination, TlsPolicy

PENDING = (0xFF00, 0xFF01)

MAY_BE_CORRECTED = frozenset((
    0x00080050, 0x00080051, 0x00080090, 0x00081030, 0x00081110, 0x00100010, 0x00100020, 0x00100021,
    0x00100030, 0x00100040, 0x00101000, 0x00101001, 0x00101002, 0x00200010, 0x00321060, 0x00400275,
))  # fmt: skip
"""Of patient and order: an archive brings them up to date in what it hands out (IHE RAD PIR)."""

Look = Callable[[Sequence[Path], Destination, DeliverPolicy], dict[str, str]]
"""What is wrong with each file's instance at the destination, by SOP Instance UID; empty for nothing."""


def find(
    paths: Sequence[Path], destination: Destination, policy: DeliverPolicy, tls: TlsPolicy = NO_TLS
) -> dict[str, str]:
    """Instances that the destination does not list.

    Raises:
        RetryLaterError: it can't be asked now.
        ProofRefusedError: it answers no such query.
    """
    model = StudyRootQueryRetrieveInformationModelFind
    headers = [_identifier(path) for path in paths]
    try:
        with open_association(
            destination, policy.calling_ae_title, policy.timeout_s, Proposal([build_context(model)]), tls
        ) as association:
            listed = {uid for one in headers for uid in _listed(association, one, destination.name)}
    except NothingAcceptedError as error:
        raise ProofRefusedError(f"{destination.name} does not accept C-FIND (Study Root)") from error
    uids = (str(one.SOPInstanceUID) for one in headers)
    return {uid: "it is not listed by C-FIND" for uid in uids if uid not in listed}


def retrieve(
    paths: Sequence[Path], destination: Destination, policy: DeliverPolicy, tls: TlsPolicy = NO_TLS
) -> dict[str, str]:
    """Instances that the destination does not give back, or not as they were sent.

    Raises:
        RetryLaterError: it can't be asked now.
        ProofRefusedError: it answers no such request.
    """
    with tempfile.TemporaryDirectory(prefix="psma-node-") as name:
        folder = Path(name)
        try:
            for path in paths:
                _get(path, folder, destination, policy, tls)
        except NothingAcceptedError as error:
            raise ProofRefusedError(f"{destination.name} does not accept C-GET (Study Root)") from error
        problems = {str(_identifier(path).SOPInstanceUID): _difference(path, folder) for path in paths}
    return {uid: problem for uid, problem in problems.items() if problem}


def _identifier(path: Path) -> Dataset:
    """The unique keys of one instance (PS3.4 C.6.2.1)."""
    keys = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keys)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    for key in keys:
        setattr(identifier, key, header[key].value)
    return identifier


def _listed(association: Any, identifier: Dataset, name: str) -> set[str]:
    found = set()
    for answer, match in association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
        status = answer.get("Status")
        if status in PENDING and match is not None:
            found.add(str(match.get("SOPInstanceUID", "")))
        elif status != 0:
            raise RetryLaterError(answer_in_words(name, status, "C-FIND"))
    return found


def _get(path: Path, folder: Path, destination: Destination, policy: DeliverPolicy, tls: TlsPolicy) -> None:
    """Have one instance sent into a folder, on an association that proposes its class alone."""
    sop_class = str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)
    model = StudyRootQueryRetrieveInformationModelGet
    contexts = [build_context(model), build_context(sop_class, list(CONVERTIBLE_TRANSFER_SYNTAXES))]
    handlers = [(evt.EVT_C_STORE, _keep, [folder])]
    proposal = Proposal(contexts, [build_role(sop_class, scp_role=True)], handlers)
    with open_association(
        destination, policy.calling_ae_title, policy.timeout_s, proposal, tls
    ) as association:
        if all(context.abstract_syntax != model for context in association.accepted_contexts):
            raise NothingAcceptedError
        for answer, _ in association.send_c_get(_identifier(path), model):
            status = answer.get("Status")
            if status is None or status & 0xFF00 == 0xA700:  # another failure is looked at as its absence
                raise RetryLaterError(answer_in_words(destination.name, status, "C-GET"))


def _keep(event: evt.Event, folder: Path) -> int:
    (folder / _file_name(str(event.request.AffectedSOPInstanceUID))).write_bytes(event.encoded_dataset())
    return 0x0000


def _file_name(uid: str) -> str:
    return "".join(character for character in uid if character in "0123456789.")[:64] + ".dcm"


def _difference(sent: Path, folder: Path) -> str:
    from app.dicom.reading.compression import IsolatedDecoder
    from app.dicom.reading.content import differing_tags, named

    back = folder / _file_name(str(_identifier(sent).SOPInstanceUID))
    if not back.exists():
        return "it is not given back by C-GET"
    with IsolatedDecoder() as decoder:
        tags = [tag for tag in differing_tags(sent, back, decoder) if tag not in MAY_BE_CORRECTED]
    return f"what C-GET gives back differs in {named(tags)}" if tags else ""
