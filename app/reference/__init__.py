"""Two pages of docs/reference: the settings, and the DICOM conformance statement (PS3.2).

The statement's words stand in ``templates/conformance.md.j2``; this module fills in what the program knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import ConfigDict, TypeAdapter
from pydicom.charset import python_encoding
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID
from pynetdicom import AE, AllStoragePresentationContexts, sop_class

from app import __version__
from app.dicom.results.context import DEVICE_NAME, MANUFACTURER
from app.dicom.results.policy import RESULT_CLASSES, SegType, WritePolicy
from app.dicom.uids import NoticeKind, ResultKind
from app.domain import codes
from app.domain.ranges import ALLOWED
from app.domain.selection.screening import CLASSIC_OF_ENHANCED, CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.selection.tracers import KNOWN_TRACERS
from app.domain.study import Code
from app.node.deliver.scu import CONVERTIBLE_TRANSFER_SYNTAXES
from app.node.peers import DeliverPolicy, ReceivePolicy
from app.node.receive import reception, scp
from app.node.tls import CIPHERS_TLS_1_2
from app.settings import Settings

Schema = dict[str, Any]

INTRODUCTION = """# Settings

Every key of `app.yaml`. Made by `psma-node settings > docs/reference/settings.md`; do not edit.
A key that is left out has its default. An unknown key is an error that names the nearest known key.

`--set section.key=value` and `PSMA_NODE__SECTION__KEY=value` override the file; their values are YAML.
Where a setting is text, a value that is not YAML is taken as it stands: `--set "write.suv_unit={SUVbw}g/ml"`.
`PSMA_NODE__SECTION__KEY__FILE=path` takes the value from a file, as container hosts hand over secrets.
"""


@dataclass(frozen=True)
class DescribedSettings(Settings):
    """The settings with the docstring of each attribute, which take a second to read from the source."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)


def settings_reference() -> str:
    """docs/reference/settings.md: every key, its default and its meaning."""
    schema = TypeAdapter(DescribedSettings).json_schema()
    records = schema["$defs"]
    parts = [INTRODUCTION]
    for section, reference in schema["properties"].items():
        [record] = _records_within(reference, records)
        parts.append(f"## {section}\n\n{_first_line(record)}\n\n{_table(record)}")
        for key, item in record["properties"].items():
            for inner in _records_within(item, records):
                parts.append(f"### {section}.{key}\n\n{_first_line(inner)}\n\n{_table(inner)}")
    return "\n".join(parts)


def _records_within(item: Schema, records: dict[str, Schema]) -> list[Schema]:
    """The records that a setting holds; an enumeration is a definition too, but has no properties."""
    names = re.findall(r'"#/\$defs/(\w+)"', json.dumps(item))
    return [records[name] for name in names if "properties" in records[name]]


def _first_line(record: Schema) -> str:
    return str(record["description"]).partition("\n")[0]


def _table(record: Schema) -> str:
    rows = []
    for key, item in record["properties"].items():
        default = "required" if key in record.get("required", ()) else _default(item)
        meaning = " ".join(item["description"].split()).replace("|", "\\|")
        rows.append((f"`{key}`", default, _allowed(item).replace("|", "\\|"), meaning))
    return table(("key", "default", "allowed", "meaning"), rows) + "\n"


def _allowed(item: Schema) -> str:
    """The rule of a setting, or of the values of a list."""
    inner = [item.get("items", {}), *item.get("prefixItems", ()), *item.get("anyOf", ())]
    return str(item.get(ALLOWED) or next(filter(None, map(_allowed, filter(None, inner))), ""))


def _default(item: Schema) -> str:
    if "default" not in item:
        return "below"  # a record, whose own table follows
    text = json.dumps(item["default"], separators=(",", ":"), ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")


PURPOSES: dict[ResultKind | NoticeKind, str] = {
    ResultKind.SEG: "lesions; not when there is none",
    ResultKind.SR: "measurements, always",
    ResultKind.PAGE: "summary page, always",
    ResultKind.RTSTRUCT: "contours, with `write.rtstruct`; not when there is no lesion",
    NoticeKind.SR: "notice that an earlier result is withdrawn",
    NoticeKind.PAGE: "page of that notice",
}

_CLASSIC = {PET_IMAGE: "PET", NM_IMAGE: "SPECT", CT_IMAGE: "CT"}
USED = _CLASSIC | {uid: _CLASSIC[classic] for uid, classic in CLASSIC_OF_ENHANCED.items()}

STATUSES = (
    (reception.SUCCESS, "Success", "the instance is on disk (fdatasync), now or from an earlier time"),
    (reception.OUT_OF_RESOURCES, "Out of resources", "disk or index does not take it; send again later"),
    (
        reception.DATA_SET_MISMATCH,
        "Data set does not match SOP class",
        "UIDs in the data set are not the command's, or the command's class is not its context's",
    ),
    (
        reception.CANNOT_UNDERSTAND,
        "Cannot understand",
        "the header can't be parsed, or a UID is missing or breaks PS3.5 9.1",
    ),
)


REJECTIONS = (
    ("1 permanent", "1 service user", "1 no reason given", "a fault of the node while it judged the request"),
    ("1 permanent", "1 service user", "2 application context name not supported", "it is not DICOM's"),
    (
        "1 permanent",
        "1 service user",
        "3 calling AE title not recognized",
        "title and address belong to no `receive.allowed_callers`; or the title is blank, padded with NUL, "
        "or holds what PS3.5 6.2 does not allow in an AE",
    ),
    (
        "1 permanent",
        "1 service user",
        "7 called AE title not recognized",
        "another title is called, or one of such a form",
    ),
    (
        "2 transient",
        "3 service provider (presentation)",
        "2 local limit exceeded",
        "too many are open in all (`receive.max_associations`), or of this caller (its `max_associations`)",
    ),
)

INITIATIONS = (
    ("results are sent", "", "SCU of the classes below"),
    ("a destination is asked to commit to them (`commitment`)", sop_class.StorageCommitmentPushModel, "SCU"),
    (
        "a destination is looked at for them (`verify: find`)",
        sop_class.StudyRootQueryRetrieveInformationModelFind,
        "SCU",
    ),
    (
        "they are got back (`verify: retrieve`)",
        sop_class.StudyRootQueryRetrieveInformationModelGet,
        "SCU; SCP of the results' classes",
    ),
    (
        "a sender is told what is safe here, its own association having ended",
        sop_class.StorageCommitmentPushModel,
        "SCP",
    ),
    ("`psma-node check` is run", sop_class.Verification, "SCU"),
)


def conformance_statement() -> str:
    """docs/reference/conformance.md."""
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
        network_version=AE().implementation_version_name,
        character_sets=[name for name in python_encoding if name.startswith(("ISO_IR", "GB"))],
        file_implementation=PYDICOM_IMPLEMENTATION_UID,
        receive=ReceivePolicy(),
        ciphers=", ".join(CIPHERS_TLS_1_2.split(":")[:-1]),
        deliver=DeliverPolicy(),
        write=WritePolicy(),
        **_services(),
        **_content(),
    )


def _services() -> dict[str, object]:
    storage = {UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts}
    return {
        "used_classes": [(UID(uid).name, uid, use) for uid, use in USED.items()],
        "accepted_syntaxes": [(UID(uid).name, uid) for uid in scp.ACCEPTED_TRANSFER_SYNTAXES],
        "rejections": REJECTIONS,
        "initiations": [
            (why, _class_name(uid) if uid else "Storage", uid, role) for why, uid, role in INITIATIONS
        ],
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
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
