"""docs/conformance.md: the DICOM conformance statement (PS3.2), made from the program's own lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import Template

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID
from pynetdicom import AE, AllStoragePresentationContexts, sop_class

from app import __version__
from app.conformance_text import TEXT
from app.dicom.results.context import DEVICE_NAME, MANUFACTURER
from app.dicom.results.policy import RESULT_CLASSES, SegType, WritePolicy
from app.dicom.uids import NoticeKind, ResultKind
from app.domain import codes
from app.domain.selection.screening import CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.selection.tracers import KNOWN_TRACERS
from app.domain.study import Code
from app.node.policy import DeliverPolicy, ReceivePolicy
from app.node.receive import scp
from app.node.transfer_syntaxes import ACCEPTED_TRANSFER_SYNTAXES, CONVERTIBLE_TRANSFER_SYNTAXES

PURPOSES: dict[ResultKind | NoticeKind, str] = {
    ResultKind.SEG: "lesions; not when there is none",
    ResultKind.SR: "measurements, always",
    ResultKind.PAGE: "summary page, always",
    ResultKind.RTSTRUCT: "contours, with `write.rtstruct`; not when there is no lesion",
    NoticeKind.SR: "notice that an earlier result is withdrawn",
    NoticeKind.PAGE: "page of that notice",
}
USED = {PET_IMAGE: "PET", NM_IMAGE: "SPECT", CT_IMAGE: "CT"}
STATUSES = (
    (scp.SUCCESS, "Success", "the instance is on disk (fsync) and indexed, now or from an earlier time"),
    (scp.OUT_OF_RESOURCES, "Out of resources", "disk or index does not take it; send again later"),
    (
        scp.DATA_SET_MISMATCH,
        "Data set does not match SOP class",
        "UIDs in the data set are not the command's",
    ),
    (scp.CANNOT_UNDERSTAND, "Cannot understand", "the header can't be parsed, or a UID breaks PS3.5 9.1"),
)


def conformance_statement() -> str:
    """The whole page, Markdown."""
    return Template(TEXT).substitute(
        version=".".join(__version__.split(".")[:2]),
        manufacturer=MANUFACTURER,
        device=DEVICE_NAME,
        network_implementation=AE().implementation_class_uid,
        file_implementation=PYDICOM_IMPLEMENTATION_UID,
        **_reception(ReceivePolicy()),
        **_delivery(DeliverPolicy()),
        **_content(WritePolicy()),
    )


def _reception(policy: ReceivePolicy) -> dict[str, object]:
    storage = sorted({UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts},
                     key=lambda uid: uid.name)  # fmt: skip
    return {
        "receive_title": policy.ae_title,
        "receive_port": policy.port,
        "receive_pdu": policy.max_pdu_bytes,
        "max_associations": policy.max_associations,
        "association_timeout": f"{policy.association_timeout_s:g}",
        "idle_timeout": f"{policy.idle_timeout_s:g}",
        "pdu_timeout": f"{policy.pdu_timeout_s:g}",
        "max_instance": f"{policy.max_instance_mb:g}",
        "storage_count": len(storage),
        "used_classes": table(
            ("SOP class", "UID", "used as"), [(UID(uid).name, uid, use) for uid, use in USED.items()]
        ),
        "storage_classes": table(("SOP class", "UID"), [(_class_name(uid), uid) for uid in storage]),
        "accepted_syntaxes": table(
            ("transfer syntax", "UID"), [(UID(uid).name, uid) for uid in ACCEPTED_TRANSFER_SYNTAXES]
        ),
        "statuses": table(
            ("status", "meaning", "when"), [(f"{code:04X}", name, when) for code, name, when in STATUSES]
        ),
    }


def _delivery(policy: DeliverPolicy) -> dict[str, object]:
    rows = [
        (str(kind), _class_name(uid), uid, PURPOSES[kind])
        for kind, uids in RESULT_CLASSES.items()
        for uid in uids
    ]
    return {
        "deliver_title": policy.calling_ae_title,
        "deliver_timeout": f"{policy.timeout_s:g}",
        "first_retry": f"{policy.first_retry_s:g}",
        "max_retry": f"{policy.max_retry_s:g}",
        "sent_classes": table(("result", "SOP class", "UID", "what it is"), rows),
        "sent_syntaxes": table(
            ("transfer syntax", "UID"), [(UID(uid).name, uid) for uid in CONVERTIBLE_TRANSFER_SYNTAXES]
        ),
    }


def _class_name(uid: str) -> str:
    """As in PS3.6; of the classes that pydicom does not name yet, pynetdicom's keyword in words."""
    name = str(UID(uid).name)
    if name != uid:
        return name
    keywords = {str(value): keyword for keyword, value in vars(sop_class).items() if isinstance(value, UID)}
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keywords.get(uid, uid))


def _content(policy: WritePolicy) -> dict[str, object]:
    concepts = _concepts()
    standard = [code for code in concepts if code.scheme != codes.PRIVATE_SCHEME]
    private = [code for code in concepts if code.scheme == codes.PRIVATE_SCHEME]
    tracers = [
        (tracer.key, f"({tracer.code.value}, {tracer.code.scheme})" if tracer.code else "-")
        for tracer in KNOWN_TRACERS
    ]
    return {
        "seg_types": ", ".join(SegType),
        "first_series": policy.first_series_number,
        "private_scheme": codes.PRIVATE_SCHEME,
        "private_version": codes.PRIVATE_SCHEME_VERSION,
        "standard_codes": table(("value", "scheme", "meaning"), _rows(standard)),
        "private_codes": table(("value", "scheme", "meaning"), _rows(private)),
        "suv_units": ", ".join(f"`{spelling.value}`" for spelling in codes.SuvUnitSpelling),
        "tracers": table(("tracer", "code"), tracers),
    }


def _concepts() -> list[Code]:
    """Every code in :mod:`app.domain.codes`, once."""
    found: list[Code] = [spelling.code for spelling in codes.SuvUnitSpelling]
    for other in codes.OTHER_SUV.values():
        found += [other.name, other.unit, other.method]
    for value in vars(codes).values():
        if isinstance(value, Code):
            found.append(value)
        elif isinstance(value, dict):
            found += [item for item in value.values() if isinstance(item, Code)]
    return sorted(dict.fromkeys(found), key=lambda code: (code.scheme, code.meaning))


def _rows(concepts: Iterable[Code]) -> list[tuple[str, str, str]]:
    return [(f"`{code.value}`", code.scheme, code.meaning) for code in concepts]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
