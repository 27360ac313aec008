"""An entry of the audit log as a DICOM audit message (PS3.15 A.5): for the hospital's audit repository.

Names and identifiers of patients are in no entry, so the object "patient" that A.5.3 asks for says that it is
not disclosed; the Study Instance UID leads to the patient.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from app.node.policy import NodePolicy
from app.node.records.audit import AuditEvent

Code = tuple[str, str, str]
"""csd-code, codeSystemName, originalText"""

APPLICATION = ("110150", "DCM", "Application")
DESTINATION = ("110152", "DCM", "Destination Role ID")
SOURCE = ("110153", "DCM", "Source Role ID")
STUDY_UID = ("110180", "DCM", "Study Instance UID")
PATIENT_NUMBER = ("2", "RFC-3881", "Patient Number")

ACTIVITY = ("110100", "DCM", "Application Activity")
LOG_USED = ("110101", "DCM", "Audit Log Used")
BEGIN_TRANSFER = ("110102", "DCM", "Begin Transferring DICOM Instances")
ACCESSED = ("110103", "DCM", "DICOM Instances Accessed")
TRANSFERRED = ("110104", "DCM", "DICOM Instances Transferred")
DELETED = ("110105", "DCM", "DICOM Study Deleted")
ALERT = ("110113", "DCM", "Security Alert")

SUCCESS, MINOR, SERIOUS = "0", "4", "8"
"""EventOutcomeIndicator"""

NOT_DISCLOSED = "not disclosed"


@dataclass(frozen=True)
class _Kind:
    """What an entry is in the Standard's terms.

    Attributes:
        action: C(reate), R(ead), U(pdate), D(elete), E(xecute).
        type_code: EventTypeCode; the entry's own words where the Standard has none.
        flow: ``in`` from a sender, ``out`` to a destination, empty for neither.
    """

    event: Code
    action: str
    outcome: str = SUCCESS
    type_code: Code | None = None
    flow: str = ""


_KINDS = {
    AuditEvent.STARTED: _Kind(ACTIVITY, "E", type_code=("110120", "DCM", "Application Start")),
    AuditEvent.STOPPED: _Kind(ACTIVITY, "E", type_code=("110121", "DCM", "Application Stop")),
    AuditEvent.LOG_EXPORTED: _Kind(LOG_USED, "R"),
    AuditEvent.CALLER_REFUSED: _Kind(ALERT, "E", MINOR, ("110126", "DCM", "Node Authentication"), "in"),
    AuditEvent.INSTANCE_REFUSED: _Kind(TRANSFERRED, "C", MINOR, flow="in"),
    AuditEvent.STUDY_ARRIVES: _Kind(BEGIN_TRANSFER, "E", flow="in"),
    AuditEvent.STUDY_RECEIVED: _Kind(TRANSFERRED, "C", flow="in"),
    AuditEvent.PROCESSED: _Kind(ACCESSED, "R"),
    AuditEvent.REJECTED: _Kind(ACCESSED, "R", MINOR),
    AuditEvent.FAILED: _Kind(ACCESSED, "R", SERIOUS),
    AuditEvent.DELIVERED: _Kind(TRANSFERRED, "R", flow="out"),
    AuditEvent.DELIVERY_FAILED: _Kind(TRANSFERRED, "R", SERIOUS, flow="out"),
    AuditEvent.STUDY_REMOVED: _Kind(DELETED, "D"),
    AuditEvent.STUDY_NOT_REMOVED: _Kind(DELETED, "D", SERIOUS),
}


def audit_message(entry: Mapping[str, Any], policy: NodePolicy) -> str:
    """An entry, as it stands in the log, as XML (PS3.15 A.5.1)."""
    event, facts = str(entry["event"]), entry["facts"]
    kind = _KINDS.get(AuditEvent(event)) if event in set(AuditEvent) else None
    kind = kind or _Kind(ACTIVITY, "E", type_code=(event[:64], "99PSMANODE", event))
    root = Element("AuditMessage")
    what = SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=str(entry["time"]),
        EventOutcomeIndicator=kind.outcome,
    )
    _code(what, "EventID", kind.event)
    if kind.type_code is not None:
        _code(what, "EventTypeCode", kind.type_code)
    if kind.outcome != SUCCESS and facts.get("reason"):
        SubElement(what, "EventOutcomeDescription").text = _plain(facts["reason"])
    _participants(root, kind, facts, policy)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=policy.executor)
    SubElement(source, "AuditSourceTypeCode").text = "4"  # an application server process
    if entry["study"]:
        _study(root, str(entry["study"]), entry)
    return tostring(root, encoding="unicode")


def _participants(root: Element, kind: _Kind, facts: Mapping[str, Any], policy: NodePolicy) -> None:
    person = str(facts.get("asked_by", ""))
    if kind.flow == "in":
        sender = str(facts.get("calling_ae") or "") or "unknown"
        _participant(root, sender, SOURCE, requestor=True, address=str(facts.get("address", "")))
    _participant(
        root,
        policy.executor,
        {"in": DESTINATION, "out": SOURCE}.get(kind.flow, APPLICATION),
        requestor=kind.flow == "out",
        address=socket.gethostname(),
    )
    if kind.flow == "out":
        _participant(root, str(facts.get("destination", "unknown")), DESTINATION)
    if person:
        _participant(root, person, None, requestor=True)


def _participant(
    root: Element, user: str, role: Code | None, requestor: bool = False, address: str = ""
) -> None:
    one = SubElement(root, "ActiveParticipant", UserID=_plain(user), UserIsRequestor=str(requestor).lower())
    if address:
        is_ip = address.replace(".", "").isdigit() or ":" in address
        one.set("NetworkAccessPointID", _plain(address))
        one.set("NetworkAccessPointTypeCode", "2" if is_ip else "1")
    if role is not None:
        _code(one, "RoleIDCode", role)


def _study(root: Element, study: str, entry: Mapping[str, Any]) -> None:
    one = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _code(one, "ParticipantObjectIDTypeCode", STUDY_UID)
    SubElement(one, "ParticipantObjectName").text = "study"
    details = {"number": entry["number"], "event": entry["event"], "facts": entry["facts"]}
    for name, value in details.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        SubElement(one, "ParticipantObjectDetail", type=name, value=base64.b64encode(text.encode()).decode())
    patient = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=NOT_DISCLOSED,
        ParticipantObjectTypeCode="1",
        ParticipantObjectTypeCodeRole="1",
    )
    _code(patient, "ParticipantObjectIDTypeCode", PATIENT_NUMBER)
    SubElement(patient, "ParticipantObjectName").text = NOT_DISCLOSED


def _code(parent: Element, name: str, code: Code) -> None:
    value, scheme, words = code
    SubElement(parent, name, {"csd-code": value, "codeSystemName": scheme, "originalText": words})


def _plain(text: object) -> str:
    """Without what XML 1.0 can't hold: an AE title of a stranger may hold anything."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)).strip() or "unknown"
