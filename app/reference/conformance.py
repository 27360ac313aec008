"""docs/reference/conformance.md: the DICOM conformance statement (PS3.2), made from the program's own lists.

The words of the conformance statement; ``$names`` stand for what the program's own lists say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import Template

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

TEXT = """# DICOM conformance statement

Made by `psma-node conformance > docs/reference/conformance.md`; do not edit.
After PS3.2. For PSMA node $version.

## 1 Overview

The PSMA node receives PET/CT and 177Lu-PSMA SPECT/CT studies by C-STORE, segments PSMA lesions with nnU-Net,
and sends segmentations, structured reports and a summary page to one or more archives by C-STORE. It is for
research use.

| network service | user (SCU) | provider (SCP) |
|---|---|---|
| Verification | yes | yes |
| Storage of images | no | yes |
| Storage of SEG, SR, Secondary Capture, RTSTRUCT | yes | yes, kept and not used |
| Query/Retrieve, Storage Commitment, Worklist, MPPS, Print | no | no |

Media interchange: none. Folders of DICOM files are read and written by `psma-node process`; they are no DICOM
media.

## 2 Implementation model

Two application entities run in one process:

- **STORE-SCP** listens, keeps each instance on disk, and answers. Studies are completed, analysed and sent
  later, by no real-world activity of the sender: association and analysis are independent.
- **STORE-SCU** opens an association to each configured destination for each result instance, sends it, and
  keeps the answer. What could not be sent is tried again until it is acknowledged.

Sequence: instances arrive → the study is complete (a PET or SPECT with its CT, and quiet or counted) →
analysis → results are read back from their bytes and compared with what was meant → results are sent → each
is acknowledged. Images that arrive later start a new revision of the study, whose results name those they
replace (section 6.5). Only images of patients count here (PET, NM and CT Image Storage, and those that are
refused by name): objects of other classes are kept, and start nothing.

## 3 Application entities

### 3.1 Common

| item | value |
|---|---|
| application context | 1.2.840.10008.3.1.1.1 |
| Implementation Class UID, network | $network_implementation |
| Implementation Class UID, files | $file_implementation |
| asynchronous operations | none |
| extended, role and user identity negotiation | none |

### 3.2 STORE-SCP

#### Association policies

| item | value | setting |
|---|---|---|
| AE title | `$receive_title` | `receive.ae_title` |
| port | $receive_port | `receive.port` |
| maximum PDU | $receive_pdu bytes | `receive.max_pdu_bytes` |
| associations at one time | $max_associations | `receive.max_associations` |
| connection without association request | closed after $association_timeout s |
`receive.association_timeout_s` | | association without activity | aborted after $idle_timeout s |
`receive.idle_timeout_s` | | PDU that does not become complete | aborted after $pdu_timeout s |
`receive.pdu_timeout_s` | | largest data set | $max_instance MB (10^6 bytes) | `receive.max_instance_mb` |

An association is rejected permanently with reason *calling AE title not recognized* when title and address
belong to no `receive.allowed_callers`, with *called AE title not recognized* when it calls another title, and
transiently with *local limit exceeded* when too many are open.

#### Presentation contexts

Verification (1.2.840.10008.1.1) and the $storage_count Storage SOP classes of annex A, each in any of these
transfer syntaxes; where several are offered in one context, the first in this order is taken:

$accepted_syntaxes

Whatever is received is kept as it came, in its transfer syntax. Analysed are:

$used_classes

Enhanced and Legacy Converted Enhanced PET and CT are kept and refused with a reason, as are images compressed
with loss where their values are measured; [refusals](refusals.md) has every reason.

#### C-STORE status

$statuses

An instance that is there already with the same content is a success. With other content it is a success too:
it is kept beside the first and the study says so.

### 3.3 STORE-SCU

#### Association policies

| item | value | setting |
|---|---|---|
| calling AE title | `$deliver_title` | `deliver.calling_ae_title` |
| destinations | any number | `deliver.destinations` |
| time limit of each answer | $deliver_timeout s | `deliver.timeout_s` |
| next try after a failure | after $first_retry s, doubled each time up to $max_retry s |
`deliver.first_retry_s`, `deliver.max_retry_s` | | associations at one time | one to each destination | |

#### Presentation contexts

$sent_classes

Each in one of:

$sent_syntaxes

#### C-STORE answers

| status | what follows |
|---|---|
| 0000 | delivered |
| B000, B006, B007 | delivered; the warning is logged |
| A7xx, no answer, association rejected or lost | tried again |
| any other | delivery failed: reported, and tried again at a person's wish |
| context not accepted | delivery failed: the destination does not take this SOP class |

## 4 Communication profiles

TCP/IP, IPv4 and IPv6, `TCP_NODELAY` set. No physical medium is required or excluded.

## 5 Configuration

All of it is in `app.yaml`: [settings](settings.md).

## 6 Created objects

### 6.1 Common

- Patient, study, institution, time zone and Specific Character Set are copied from the functional image as
  they are; all text of ours is ASCII, which every character set holds.
- SOP Instance, Series Instance and Tracking UIDs are under 2.25 and derived (SHA-256) from input, model,
  software,
  settings and revision: the same input gives the same UIDs, pixels and numbers, and a resend never doubles.
  The node's SR also bears the instant of processing, which a repeated analysis changes; the node sends one of
  them.
- Series Number is $first_series and following (`write.first_series_number`); dates are the acquisition's, but
  for the SR's Content Date and Time.
- Manufacturer is `$manufacturer`, model name `$device`.
- No private attributes, no private transfer syntaxes, no private SOP classes.

### 6.2 Segmentation

Segmentation Type $seg_types (`write.seg_type`). One segment a lesion, the largest first, on the functional
image's own grid; frames without a voxel are left out; each frame names the PET slice or the NM frame that it
lies on. Category Morphologically Abnormal Structure, type Neoplasm, algorithm identification with the model's
version and checksum. A source without Frame of Reference UID gets a derived one in the results.

LABELMAP (Label Map Segmentation Storage, 2024) is an option for sites that know their PACS and viewers.
Tested: Orthanc 1.10.1 does not accept the SEG's presentation context. DCMTK 3.6.7 (`dsrdump`) does not read
the SR: TID 1411 refers to a segment by an IMAGE item, and DCMTK takes there only SOP classes of images that
it knows; the same SR with Segmentation Storage in that place is read without complaint, and `dsrdump -Ev`
leaves out these items alone. No other content item of the template refers to a segment, so this can't be
avoided. `dciodvfy` objects to the same items. The node says so in its log at the start, in `psma-node check`,
and among the decisions of each report. Hence the default.

### 6.3 Structured report

TID 1500 Measurement Report, Comprehensive 3D or Comprehensive SR (`write.sr_class`): TID 1600 image library
of every input image, TID 1501 group for the whole body, a TID 1411 group a lesion that refers to its segment,
TID 4019 algorithm
identification, and texts: summary (a second one counts and tells the warnings), intended use, input,
quantification, prior, decisions. Activities hold for the
start of the scan: each names that event (`ACTIVITY-AT`) and its instant (122712 DCM; 123003 DCM where it can
only be stated at the injection). Absorbed dose has its range (TID 310). When the analysis was made stands as
111702 DCM and as Content Date and Time; a PET's uptake time (126203 DCM) in the image library. Verification
Flag is UNVERIFIED. The unit of SUVbw is one of $suv_units (`write.suv_unit`).

### 6.4 Page and RTSTRUCT

The page is Secondary Capture, RGB, 8 bits, 1280 × 960, higher by a band where there are warnings: anterior
and left lateral projection with outlined lesions, scale, window (of a SPECT fitted to its lesions), table of
lesions. No name is in its pixels (Burned In Annotation NO).

RTSTRUCT has one ROI a lesion (its site in ROI Description and ROI Observation Description), CLOSED_PLANAR
contours along the voxels' edges, so that their area is the mask's and drawing them on the same grid gives the
same mask. A lesion with a hole is cut in pieces without holes; pieces never overlap, so no keyhole is used
and both reading rules (union, exclusive or) give the same. Contours on an NM image name its frame (Referenced
Frame Number); workstations that do not read frames there place them by their coordinates.

### 6.5 Revisions: replaced and withdrawn results

| what happens | what is sent |
|---|---|
| a new revision has a result on the same series | SEG, SR and page with new UIDs; the SR names the earlier SR
in Predecessor Documents Sequence, page and Series Description say "replaces" | | a new revision has no result
on it (rejected, or another series is analysed) | a notice: SR (TID 1500 with qualitative evaluations alone)
with the withdrawn SR as predecessor and the reason, and a page that says so | | a new revision fails, or
waits | nothing: the earlier result stands until something better is known | | no destination has taken
anything of the earlier result | it is dropped and never sent; nothing refers to it |

A SEG, page or RTSTRUCT that has been sent can't be marked itself: DICOM has no such service beyond the SR's
predecessor. Deleting or hiding replaced objects is the archive's matter (IHE IOCM rejection notes are not
sent). A withdrawn PET result is no longer used as the prior of a later SPECT/CT.

## 7 Character sets

Read and kept: all that pydicom reads, single byte, ISO 2022 and multi-byte (GB18030, UTF-8). Own text is
ASCII.

## 8 Security

Callers are let in by AE title and address alone; no TLS, no user identity: run the node inside the hospital's
network, or behind a TLS proxy. Every reception, result and delivery is in an append-only, hash-chained audit
log; logs hold no patient names or identifiers.

## 9 Coded terminology

### 9.1 Standard codes used in results

$standard_codes

### 9.2 Private codes

Coding scheme `$private_scheme`, version $private_version, identified in each SR's Coding Scheme
Identification Sequence; [measurements](measurements.md) defines them.

$private_codes

### 9.3 Radiopharmaceuticals recognised as PSMA tracers

$tracers

## Annex A: Storage SOP classes received

$storage_classes
"""


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
