"""What SEG, SR and page share: the analysis, the source's header, identity, equipment and date.

Dates come from the acquisition, never from the clock; when the analysis was made is part of the provenance,
and only the SR says it. The same input and provenance give the same bytes.
"""

from __future__ import annotations

import copy
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DA, TM

from app.dicom.dicom_file import read_header
from app.dicom.header_values import tolerant
from app.dicom.results.policy import WritePolicy
from app.dicom.uids import ResultKind, derived_uid, result_identity, series_uid, sop_uid, tracking_uid
from app.domain.analysis import Loaded, Provenance, Quantified, SupersededReport
from app.domain.decision import Decision, ModelUsed, Severity
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Code, Instance, Series
from app.errors import UnusableStudyError

MANUFACTURER = "PSMA node project"
DEVICE_NAME = "PSMA node"
DEVICE_SERIAL_NUMBER = "0"
"""Software has none; the attribute is mandatory for enhanced equipment (PS3.3 C.7.5.2)."""

RESEARCH_USE = "Research use only - not for diagnosis"

PATIENT_KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")

DATE_KEYWORDS = (
    ("SeriesDate", "SeriesTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("StudyDate", "StudyTime"),
)
"""Where the date of a result is looked for, in this order."""

REFERENCED_CLASS, REFERENCED_INSTANCE = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID")

READABLE_IN_ASCII = str.maketrans(
    {"×": "x", "±": "+/-", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "→": "->", "·": ".",
     "…": "...", "µ": "u", "μ": "u", "’": "'", "‘": "'", "“": '"', "”": '"'}
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ResultContext:
    """One analysis, ready to be written.

    Attributes:
        quantified: what was found.
        policy: how to write it.
        provenance: what made it.
        source: the file of one functional instance; patient and study attributes of the results are its.
        header: its attributes as it came in, without pixels.
        identity: SHA-256 that all UIDs are derived from.
        dated: the acquisition's date and time, which the results carry.
    """

    quantified: Quantified
    policy: WritePolicy
    provenance: Provenance
    source: Path
    header: Dataset
    identity: str
    dated: datetime

    @property
    def loaded(self) -> Loaded:
        """The volumes in physical units."""
        return self.quantified.segmented.aligned.loaded

    @property
    def model(self) -> ModelUsed:
        """The model that segmented."""
        return self.quantified.segmented.model

    @property
    def functional(self) -> Series:
        """The series the lesions were drawn on."""
        return self.loaded.selection.functional

    @property
    def ct(self) -> Series:
        """The CT that belongs to it."""
        return self.loaded.selection.ct

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Everything decided: about the study before the chain, along the chain, in writing."""
        written = self.policy.cautions if self.quantified.segmented.labels.count else ()
        decided = (*self.provenance.decisions, *self.quantified.decisions)
        return (*decided, *(Decision("write", text) for text in written))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Decisions that a reader of the numbers must see at once, each once."""
        found = (item.text.strip() for item in self.decisions if item.severity is Severity.WARNING)
        return tuple(dict.fromkeys(found))

    @property
    def frame_of_reference_uid(self) -> str:
        """Of the functional image; a derived one when the source has none."""
        found = self.loaded.uptake.frame_of_reference_uid or self.functional.frame_of_reference_uid
        return found or derived_uid("frame of reference", self.functional.series_instance_uid)

    def series_instance_uid(self, kind: ResultKind) -> str:
        """Derived Series Instance UID of that result."""
        return series_uid(self.identity, kind)

    def sop_instance_uid(self, kind: ResultKind) -> str:
        """Derived SOP Instance UID of that result."""
        return sop_uid(self.identity, kind)

    def series_number(self, kind: ResultKind) -> int:
        """SEG, SR and page follow one another."""
        return self.policy.first_series_number + list(ResultKind).index(kind)

    @property
    def replaced(self) -> SupersededReport | None:
        """The earlier revision's report on the same series, which this result replaces."""
        return self.provenance.superseded_on(self.functional.series_instance_uid)

    def instance(self, kind: ResultKind, what: str) -> dict[str, Any]:
        """highdicom's arguments on the object itself: its UIDs, its series, what made it."""
        return {
            "series_instance_uid": self.series_instance_uid(kind),
            "series_number": self.series_number(kind),
            "sop_instance_uid": self.sop_instance_uid(kind),
            "series_description": self.series_description(what),
            **equipment(self.provenance.software_version),
        }

    def series_description(self, what: str) -> str:
        """LO, so at most 64 characters: what, by which model, what it replaces, and that it is research."""
        parts = [what, self.model.role.value, self.loaded.selection.kind.value]
        if self.replaced is not None:
            parts.append(f"r{self.provenance.revision} replaces r{self.replaced.revision}")
        return plain(f"{' '.join(parts)} (research use only)")[:64]

    def tracking(self, lesion_number: int) -> tuple[str, str]:
        """Tracking Identifier and Tracking Unique Identifier of a lesion."""
        return f"Lesion {lesion_number}", tracking_uid(self.identity, lesion_number)


def open_context(quantified: Quantified, policy: WritePolicy, provenance: Provenance) -> ResultContext:
    """Read the header that patient and study attributes come from.

    Raises:
        UnusableStudyError: the source bears no date that a result could carry.
    """
    loaded = quantified.segmented.aligned.loaded
    source = _first_instance(loaded).path
    header = decoded_header(source)
    return ResultContext(
        quantified=quantified,
        policy=policy,
        provenance=provenance,
        source=source,
        header=header,
        identity=result_identity(quantified, provenance),
        dated=_acquisition_datetime(header, loaded.selection.functional.series_instance_uid),
    )


def blank_source(context: ResultContext) -> Dataset:
    """A source without patient, as highdicom wants one.

    highdicom rejects values it finds odd (a sex of ``U``) and logs patient names it can't parse; so it gets
    none, and :func:`finish` copies the true attributes afterwards.
    """
    source = anonymous()
    source.StudyInstanceUID = context.loaded.selection.study.study_instance_uid
    source.SeriesInstanceUID = context.functional.series_instance_uid
    source.SOPClassUID = context.header.SOPClassUID
    source.SOPInstanceUID = context.header.SOPInstanceUID
    source.Modality = context.functional.modality
    source.FrameOfReferenceUID = context.frame_of_reference_uid
    return source


def anonymous() -> Dataset:
    """Patient and study attributes that highdicom wants to be there, all empty."""
    source = Dataset()
    for keyword in (*PATIENT_KEYWORDS, "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(source, keyword, "")
    return source


def equipment(software_version: str) -> dict[str, Any]:
    """highdicom's arguments on what made an object; each is alone in its series."""
    return {
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": DEVICE_NAME,
        "software_versions": software_version,
        "device_serial_number": DEVICE_SERIAL_NUMBER,
    }


def finish(result: hd.base.SOPClass, context: ResultContext) -> None:
    """Put in patient, study and dates, and take out what the clock or chance put in."""
    copy_header(result, context.header)
    result.StudyInstanceUID = context.loaded.selection.study.study_instance_uid
    stamp(result, context.dated)


def copy_header(result: hd.base.SOPClass, source: Dataset) -> None:
    """Patient, study and institution, as the source has them."""
    with tolerant():  # what a source holds is copied as it is, longer than allowed or not
        result.copy_patient_and_study_information(source)
        for keyword in ("SpecificCharacterSet", "TimezoneOffsetFromUTC"):
            if keyword in source:
                result[keyword] = source[keyword]
        if source.get("InstitutionName"):
            result["InstitutionName"] = source["InstitutionName"]
        for tag in source.keys() & result.keys():  # elements of their own, which a later change stays in
            if result.get_item(tag) is source.get_item(tag):
                result[tag] = copy.deepcopy(source[tag])


def stamp(result: Dataset, dated: datetime) -> None:
    """Every date of the object, and none of the clock's."""
    date, time = DA(dated.date()), TM(dated.time())
    result.SeriesDate, result.SeriesTime = date, time
    result.ContentDate, result.ContentTime = date, time
    result.InstanceCreationDate, result.InstanceCreationTime = date, time
    for item in result.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime


def reference(sop_class_uid: str, sop_instance_uid: str, *more: DataElement) -> Dataset:
    """An item that refers to an instance. There are hundreds, so its elements are put in as they are, and
    encoded without looking for values whose VR hangs on others.
    """
    elements = (
        DataElement(REFERENCED_CLASS, "UI", sop_class_uid),
        DataElement(REFERENCED_INSTANCE, "UI", sop_instance_uid),
        *more,
    )
    return plain_item(*elements)


def plain_item(*elements: DataElement) -> Dataset:
    """An item of elements that may stand in others too."""
    item = Dataset({element.tag: element for element in elements})
    item.set_original_encoding(False, True, "iso8859")
    return item


def coded(code: Code) -> hd.sr.CodedConcept:
    """A domain code as highdicom's."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def plain(text: str) -> str:
    """Our own text in ASCII, which every Specific Character Set holds, so the source's can be kept."""
    spelled = unicodedata.normalize("NFKD", text.translate(READABLE_IN_ASCII))
    kept = "".join(char for char in spelled if not unicodedata.combining(char))
    return kept.encode("ascii", "replace").decode("ascii")


def _first_instance(loaded: Loaded) -> Instance:
    """Of the selected series, that of the first slice which comes from it."""
    series = loaded.selection.functional
    known = {instance.sop_instance_uid: instance for instance in series.instances}
    for uid in loaded.slice_sop_instance_uids:
        if uid in known:
            return known[uid]
    raise ValueError(f"no slice comes from series {series.series_instance_uid}")


def decoded_header(path: Path) -> Dataset:
    """A file's header with its values decoded, so that odd ones are met here, once."""
    with tolerant():
        header = read_header(path)
        header.decode()
    return header


def _acquisition_datetime(header: Dataset, series_instance_uid: str) -> datetime:
    for date_keyword, time_keyword in DATE_KEYWORDS:
        try:
            date = DA(str(header.get(date_keyword) or ""))
            time = TM(str(header.get(time_keyword) or "000000"))
        except ValueError:
            continue  # not a date: the next pair may be one
        if date is not None and time is not None:
            return datetime.combine(date, time)
    found, expected = "no date in Series, Acquisition, Content or Study Date", "at least one of them"
    advice = "results carry the acquisition's date; keep one date when de-identifying"
    code = RefusalCode.SERIES_TIME_MISSING
    raise UnusableStudyError(Reason(code, "SeriesDate", found, expected, advice, series_instance_uid))
