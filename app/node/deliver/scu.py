"""The Store SCU: sends results to a PACS, and asks by echo whether it is there (PS3.4 Annexes A, B).

Sending again is harmless: result UIDs follow from the input, so a PACS that has an instance keeps one copy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from app.errors import RetryLaterError
from app.node.deliver.association import (
    NoAssociationError,
    NothingAcceptedError,
    Proposal,
    are_rejected_for_good,
    open_association,
)
from app.node.peers import NO_TLS, Destination, TlsPolicy

CONVERTIBLE_TRANSFER_SYNTAXES: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Our results may go out in either: the change is lossless, and every PACS takes the second (PS3.5 10.1)."""

SOP_CLASS_NOT_SUPPORTED = 0x0122
"""Also reported by us for an instance whose class or encoding the PACS did not accept."""

_WARNINGS = frozenset((0xB000, 0xB006, 0xB007))
"""Stored, with a remark (PS3.4 table B.2-1)."""

_TRANSIENT = frozenset((0x0110, 0x0213))
"""Processing failure and resource limitation (PS3.7 Annex C); like A7xx they may pass."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreResponse:
    """How the PACS answered C-STORE for one instance.

    Attributes:
        ok: the PACS has the instance; otherwise it never will, for the reason in ``comment``.
        comment: in our words or the Standard's, never in the peer's.
    """

    sop_instance_uid: str
    status: int
    ok: bool
    comment: str = ""


@dataclass(frozen=True)
class EchoResult:
    """Whether a destination answers C-ECHO: ``detail`` says why not, or how long it took; ``advice`` what to
    look at. ``hung_up``: it took the connection, and ended it without a word."""

    destination: str
    ok: bool
    detail: str
    advice: str = ""
    hung_up: bool = False


@dataclass(frozen=True)
class _Outgoing:
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def send(
    paths: Sequence[Path],
    destination: Destination,
    calling_ae_title: str,
    timeout_s: float = 30.0,
    tls: TlsPolicy = NO_TLS,
) -> tuple[StoreResponse, ...]:
    """Send our DICOM files by C-STORE over one association; the responses are in the order of the paths.

    ``timeout_s`` is for the connection with its TLS handshake, for each answer, and for a stalled transfer.

    Raises:
        RetryLaterError: the PACS can't be reached, rejects or ends the association, does not answer, or is
            out of resources (A7xx). Some instances may have arrived.
    """
    outgoing = tuple(_outgoing(path) for path in paths)
    if not outgoing:
        return ()
    try:
        proposal = Proposal(_contexts(outgoing))
        with open_association(destination, calling_ae_title, timeout_s, proposal, tls) as association:
            return tuple(
                _send_one(association, item, destination, message_id)
                for message_id, item in enumerate(outgoing, 1)
            )
    except NothingAcceptedError:
        return tuple(_not_accepted(item) for item in outgoing)


def echo(
    destination: Destination, calling_ae_title: str, timeout_s: float = 10.0, tls: TlsPolicy = NO_TLS
) -> EchoResult:
    """C-ECHO; never raises for what the peer does."""
    start, proposal = time.monotonic(), Proposal([build_context(Verification)])
    try:
        with open_association(destination, calling_ae_title, timeout_s, proposal, tls) as peer:
            status = peer.send_c_echo().get("Status")
    except NoAssociationError as error:
        return EchoResult(destination.name, False, str(error), error.advice, error.hung_up)
    except RetryLaterError as error:
        return EchoResult(destination.name, False, str(error))
    except NothingAcceptedError:
        return EchoResult(destination.name, False, "it does not accept the Verification SOP class")
    if status != 0:
        text = "no answer" if status is None else f"status {status:04X}"
        return EchoResult(destination.name, False, f"{text} to C-ECHO")
    return EchoResult(destination.name, True, f"{(time.monotonic() - start) * 1000:.0f} ms")


def accepted_classes(
    sop_classes: Iterable[str],
    destination: Destination,
    calling_ae_title: str,
    timeout_s: float = 10.0,
    tls: TlsPolicy = NO_TLS,
) -> frozenset[str]:
    """Which of these SOP classes a destination accepts; nothing is sent.

    Raises:
        RetryLaterError: it can't be asked now.
    """
    contexts = [build_context(one, list(CONVERTIBLE_TRANSFER_SYNTAXES)) for one in sop_classes]
    if not contexts:
        return frozenset()
    try:
        with open_association(destination, calling_ae_title, timeout_s, Proposal(contexts), tls) as peer:
            return frozenset(str(context.abstract_syntax) for context in peer.accepted_contexts)
    except NothingAcceptedError:
        return frozenset()


def _outgoing(path: Path) -> _Outgoing:
    try:
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        return _Outgoing(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except (InvalidDicomError, AttributeError) as error:
        raise ValueError(f"{path.name} in the outbox is no DICOM file with complete file meta") from error


def _contexts(outgoing: Sequence[_Outgoing]) -> list[PresentationContext]:
    """One context for each class and encoding; uncompressed ones may be sent in either VR encoding."""
    wanted = sorted({(item.sop_class_uid, item.transfer_syntax_uid) for item in outgoing})
    contexts = []
    for sop_class_uid, transfer_syntax_uid in wanted:
        contexts.append(build_context(sop_class_uid, [transfer_syntax_uid]))
        if transfer_syntax_uid in CONVERTIBLE_TRANSFER_SYNTAXES:
            others = [uid for uid in CONVERTIBLE_TRANSFER_SYNTAXES if uid != transfer_syntax_uid]
            contexts.append(build_context(sop_class_uid, others))
    return contexts


def _send_one(association: Any, item: _Outgoing, destination: Destination, message_id: int) -> StoreResponse:
    if not association.is_established:
        raise RetryLaterError(f"{destination.name} ended the association")
    try:
        answer = association.send_c_store(pydicom.dcmread(item.path), message_id)
    except ValueError as error:  # no accepted context; what else could be wrong was looked at in _outgoing
        rejected = [one for one in association.rejected_contexts if one.abstract_syntax == item.sop_class_uid]
        if are_rejected_for_good(rejected):
            return _not_accepted(item)
        raise RetryLaterError(f"{destination.name} left a presentation context unanswered") from error
    if "Status" not in answer:
        raise RetryLaterError(f"{destination.name} did not answer C-STORE, or ended the association")
    return _response(item.sop_instance_uid, answer, destination)


def _not_accepted(item: _Outgoing) -> StoreResponse:
    comment = "the destination does not accept this SOP class or transfer syntax"
    return StoreResponse(item.sop_instance_uid, SOP_CLASS_NOT_SUPPORTED, ok=False, comment=comment)


def _meaning(status: int) -> str:
    """A status in the Standard's words (PS3.4 table B.2-1, PS3.7 Annex C); empty for plain success."""
    if not status:
        return ""
    category, words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "not a status of the Standard"))
    return ": ".join(filter(None, (category, words)))


def _response(sop_instance_uid: str, answer: Any, destination: Destination) -> StoreResponse:
    """Error Comment (0000,0902) is left out: a peer's free text may quote the patient, and this is logged."""
    status = int(answer.Status)
    comment = _meaning(status)
    if status & 0xFF00 == 0xA700 or status in _TRANSIENT:
        raise RetryLaterError(f"{destination.name} can't take instances now: status {status:04X}, {comment}")
    ok = status == 0 or status in _WARNINGS
    if status:
        _log.warning("%s answered %04X to C-STORE", destination.name, status)
    return StoreResponse(sop_instance_uid, status, ok, comment)
