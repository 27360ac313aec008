"""A study as its headers tell it: what the selection decides on, without any pixel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from app.domain.clocks import Clocks, LoneOffset
from app.domain.refusal import Reason, RefusalCode

SNOMED_RT_SCHEMES = frozenset({"SRT", "SNM3", "99SDM"})
"""One coding scheme under three designators: PS3.16 8.1 (SRT, SNM3), and 99SDM of older scanners."""


class StudyKind(StrEnum):
    """The pairs this node segments."""

    PET_CT = "PET/CT"
    SPECT_CT = "SPECT/CT"


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str = ""

    def same_as(self, other: Code) -> bool:
        """Equal value and scheme (designators of SNOMED RT are one); the meaning is only text."""
        if self.value != other.value:
            return False
        return self.scheme == other.scheme or {self.scheme, other.scheme} <= SNOMED_RT_SCHEMES


@dataclass(frozen=True)
class Radiopharmaceutical:
    """Radiopharmaceutical Information Sequence (0054,0016), as found.

    ``injected_activity_header`` is the number as written: Bq in PET, MBq in NM (PS3.3 C.8.4.10,
    C.8.9.2); :mod:`app.domain.quantities.administration` decides what it means. ``start_time`` is the time of
    day, since midnight. ``lone_offset`` is set where injection and scan are not known to be in one time zone;
    ``start_datetime`` then is by its own clock; ``private_start`` is GE's. ``set_aside`` names further items
    that are no radiopharmaceuticals. ``site_radionuclide`` and ``site_tracer`` are the site's entry for the
    study.
    """

    name: str = ""
    drug_code: Code | None = None
    radionuclide_code: Code | None = None
    half_life_s: float | None = None
    injected_activity_header: float | None = None
    start_datetime: datetime | None = None
    private_start: datetime | None = None
    start_time: timedelta | None = None
    lone_offset: LoneOffset | None = None
    set_aside: tuple[str, ...] = ()
    site_radionuclide: str = ""
    site_tracer: str = ""


@dataclass(frozen=True)
class Instance:
    """One SOP instance on disk, headers only. Positions in LPS mm; ``None`` where absent.

    ``pixel_spacing_mm`` is (between rows, between columns), as in PS3.3 10.7.1.3.
    For NM the position and orientation come from Detector Information Sequence (0054,0022), and
    A frame of an Enhanced PET or CT is an instance by itself: ``frame_number`` counts from 1 in its file.
    ``slice_numbers`` is Slice Vector (0054,0080), one number a frame; empty when absent.
    """

    sop_instance_uid: str
    sop_class_uid: str
    path: Path
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    image_position_mm: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    spacing_between_slices_mm: float | None = None
    transfer_syntax_uid: str = ""
    slice_numbers: tuple[int, ...] = ()
    frame_number: int | None = None


@dataclass(frozen=True)
class Series:
    """One series; attributes of the series come from its instances and must agree among them.

    ``series_type`` is Series Type (0054,1000) of PET. ``expected_instance_count`` is what the headers
    announce. ``acquired_at`` is the earliest acquisition; ``series_datetime`` often is the time of a later
    processing. ``is_lossy``: an image was compressed with loss at some time. ``faults`` are reasons found in
    reading for which the whole series must not be used: instances that disagree, two contents under one UID.
    ``timezone_offset`` is Timezone Offset From UTC (0008,0201); ``clocks`` are further witnesses of when it
    was made. ``study_texts`` are what the headers call study and procedure, by keyword.
    ``reconstruction_method`` is (0054,1103), ``convolution_kernel`` (0018,1210); ``energy_windows_kev`` are
    those of NM, each from lowest to highest. ``set_aside`` names images of another kind under its UID.
    """

    series_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]
    sop_class_uid: str = ""
    frame_of_reference_uid: str = ""
    image_type: tuple[str, ...] = ()
    corrected_image: tuple[str, ...] = ()
    units: str = ""
    description: str = ""
    radiopharmaceutical: Radiopharmaceutical | None = None
    series_datetime: datetime | None = None
    acquired_at: datetime | None = None
    manufacturer: str = ""
    model_name: str = ""
    station_name: str = ""
    expected_instance_count: int | None = None
    is_lossy: bool = False
    series_type: tuple[str, ...] = ()
    faults: tuple[Reason, ...] = ()
    timezone_offset: str = ""
    clocks: Clocks = field(default_factory=Clocks)
    protocol_name: str = ""
    study_texts: tuple[tuple[str, str], ...] = ()
    reconstruction_method: str = ""
    convolution_kernel: str = ""
    energy_windows_kev: tuple[tuple[float, float], ...] = ()
    set_aside: tuple[str, ...] = ()

    def reason(
        self, code: RefusalCode, attribute: str, found: str, expected: str, advice: str = ""
    ) -> Reason:
        """A reason that is about this series."""
        return Reason(code, attribute, found, expected, advice, self.series_instance_uid)

    @property
    def when(self) -> datetime | None:
        """To order and to match studies, never to compute with: acquisition, else Series Date and Time."""
        return self.acquired_at or self.series_datetime


PLACEHOLDERS = frozenset({
    "blank", "confidential", "deid", "deidentified", "default", "doejane", "doejohn", "empty", "hidden", "id",
    "inconnu", "janedoe", "johndoe", "masked", "mrn", "na", "name", "nan", "nil", "noid", "noname", "none",
    "nopatientid", "notavailable", "notset", "null", "patientid", "pid", "qa", "qc", "redacted",
    "removed", "service", "unbekannt", "undefined", "unidentified", "unk",
})  # fmt: skip
"""What anonymisers and modalities write where an identifier or a name is due, in plain letters."""

_STEMS = (
    r"(an[oó]n([iyí]m[^\W\d]*+)?|pseudo(n[iy]m[^\W\d]*+)?|demo|dummy|emergenc[^\W\d]*+|notfall|urgence"
    r"|patient|paciente|paziente|phantom|sample|te?mp|test|unassigned|unknown)"
)
"""Words that are also written together and with endings, as a pattern."""

PLACEHOLDER_BIRTH_DATES = frozenset({"00010101", "19000101", "19700101"})


@dataclass(frozen=True)
class Patient:
    """Identity for matching studies; never printed, never logged.

    Identifier and issuer are what studies are matched by; ``name`` and ``birth_date`` (DA) are further
    witnesses, and not looked at by ``==``.
    """

    patient_id: str = field(repr=False)
    issuer: str = field(default="", repr=False)
    name: str = field(default="", repr=False, compare=False)
    birth_date: str = field(default="", repr=False, compare=False)

    @property
    def unidentified(self) -> str:
        """Why studies can't be matched by this identity, without naming anybody; empty when they can."""
        if not self.patient_id.strip():
            return "PatientID is empty"
        if is_placeholder(self.patient_id):
            return "PatientID is a placeholder"
        witnessed = _family_name(self.name) not in ("", _plain(self.patient_id)) or (
            self.birth_date not in PLACEHOLDER_BIRTH_DATES | {""}
        )
        if witnessed or not _is_first_to_hand(_plain(self.patient_id)):
            return ""
        return "PatientID is a number that anybody may have, and neither name nor birth date tells whose"

    def contradiction(self, other: Patient) -> str:
        """What shows that two records under one identifier are two people; empty when nothing does.

        Names change and are spelled in several ways, so they count only where no birth date is known.
        """
        born = {self.birth_date, other.birth_date} - PLACEHOLDER_BIRTH_DATES - {""}
        if len(born) == 2:
            return "PatientBirthDate differs under one PatientID"
        known = self.birth_date == other.birth_date and born
        family = {_family_name(self.name), _family_name(other.name)} - {""}
        return "PatientName differs under one PatientID" if len(family) == 2 and not known else ""


def _family_name(name: str) -> str:
    """In plain letters, of the first spelling (PS3.5 6.2.1); empty for a placeholder."""
    family = re.split("[=^]", name, maxsplit=1)[0]
    return "" if is_placeholder(family) else _plain(family)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def is_placeholder(text: str) -> bool:
    """Nothing but placeholders' words, punctuation, zeros, or one sign over and over.

    ``ANON-017`` is none: a pseudonym with a number of its own tells patients apart.
    """
    plain, words = _plain(text), re.findall(r"[^\W_]+", text.casefold())
    if plain in PLACEHOLDERS or set(plain) <= {"0"} or set(plain) == {"x"} or _is_one_sign(plain):
        return True
    return all(word in PLACEHOLDERS or re.fullmatch(f"{_STEMS}+", word) for word in words)


def _is_first_to_hand(plain: str) -> bool:
    """1234, and the first of a placeholder's numbers: what a person types who has no number."""
    is_sequence = len(plain) > 2 and (plain in "01234567890123456789" or plain in "9876543210")
    return is_sequence or bool(re.fullmatch(f"{_STEMS}+1|te?mp0*1", plain))


def _is_one_sign(plain: str) -> bool:
    return len(plain) > 2 and len(set(plain)) == 1


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        unreadable: what could not be read, as reasons, so that nothing is silent.
        cts_elsewhere: CTs in other studies of the patient, read with this one, that share a frame of
            reference with its functional images: Frame of Reference UID, and which CT in words.
        priority: of the request: STAT, HIGH, ROUTINE, MEDIUM or LOW; empty when the headers say nothing.
    """

    study_instance_uid: str
    patient: Patient
    series: tuple[Series, ...]
    study_datetime: datetime | None = None
    accession_number: str = field(default="", repr=False)
    unreadable: tuple[str, ...] = ()
    cts_elsewhere: tuple[tuple[str, str], ...] = ()
    priority: str = ""
