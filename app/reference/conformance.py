"""docs/reference/conformance.md: the DICOM conformance statement (PS3.2).

Its words stand in ``templates/conformance.md.j2``; what the program knows of itself is filled in from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID
from pynetdicom import AE, AllStoragePresentationContexts, sop_class

from app import __version__
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
    environment = Environment(
        loader=PackageLoader("app.reference"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),  # of HTML, which Markdown is not
        keep_trailing_newline=True,
    )
    return environment.get_template("conformance.md.j2").render(
        table=table,
        version=".".join(__version__.split(".")[:2]),
        manufacturer=MANUFACTURER,
        device=DEVICE_NAME,
        network_implementation=AE().implementation_class_uid,
        file_implementation=PYDICOM_IMPLEMENTATION_UID,
        receive=ReceivePolicy(),
        deliver=DeliverPolicy(),
        write=WritePolicy(),
        **_services(),
        **_content(),
    )


def _services() -> dict[str, object]:
    """What is received and sent."""
    storage = {UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts}
    return {
        "used_classes": [(UID(uid).name, uid, use) for uid, use in USED.items()],
        "accepted_syntaxes": [(UID(uid).name, uid) for uid in ACCEPTED_TRANSFER_SYNTAXES],
        "statuses": [(f"{code:04X}", name, when) for code, name, when in STATUSES],
        "sent_classes": [
            (str(kind), _class_name(uid), uid, PURPOSES[kind])
            for kind, uids in RESULT_CLASSES.items()
            for uid in uids
        ],
        "sent_syntaxes": [(UID(uid).name, uid) for uid in CONVERTIBLE_TRANSFER_SYNTAXES],
        "storage_classes": [(_class_name(uid), uid) for uid in sorted(storage, key=lambda uid: uid.name)],
    }


def _class_name(uid: str) -> str:
    """As in PS3.6; of the classes that pydicom does not name yet, pynetdicom's keyword in words."""
    name = str(UID(uid).name)
    if name != uid:
        return name
    keywords = {str(value): keyword for keyword, value in vars(sop_class).items() if isinstance(value, UID)}
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keywords.get(uid, uid))


def _content() -> dict[str, object]:
    """What the created objects say."""
    concepts = [(f"`{code.value}`", code.scheme, code.meaning) for code in _concepts()]
    return {
        "codes": codes,
        "seg_types": list(SegType),
        "suv_units": [f"`{spelling.value}`" for spelling in codes.SuvUnitSpelling],
        "standard_codes": [row for row in concepts if row[1] != codes.PRIVATE_SCHEME],
        "private_codes": [row for row in concepts if row[1] == codes.PRIVATE_SCHEME],
        "tracers": [
            (tracer.key, f"({tracer.code.value}, {tracer.code.scheme})" if tracer.code else "-")
            for tracer in KNOWN_TRACERS
        ],
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
