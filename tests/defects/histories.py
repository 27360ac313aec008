"""What a patient's earlier studies may be: what changes nothing, stops the comparison, or is stated with it.

The patient is a column along z with lesions of 1 ml voxels, whose numbers are counted here by hand. The two
CTs are not registered but known to lie on each other, with the share of the body that they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from app.domain.analysis import Aligned, Quantified, RegistrationFit
from app.domain.findings.measurements import measure
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient, StudyKind
from app.domain.volume import Grid, LabelMap, Unit, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import EarlierReport, EarlierResult
from app.imaging.registration.registration import RigidRegistration

NOW = datetime(2026, 3, 4, 9, 30)
DAYS_AGO = 91
PERSON = Patient("ID-1", "clinic", "DOE^ADAM", "19500102")
WHOLE_BODY_MM = (0, 1000)

Lesions = dict[int, tuple[int, float]]
"""z of its first voxel in mm: voxels along z, SUV."""

DISEASE: Lesions = {100: (8, 10.0), 600: (20, 28.8), 900: (6, 6.0)}
"""34 ml; 8 of them in the pelvis."""

FITTING = RegistrationFit(
    bone_dice=0.9,
    translation_mm=3.0,
    rotation_deg=1.0,
    overlap_fraction=1.0,
    soft_tissue_correlation=0.95,
    bone_distance_mm=2.0,
    side_correlation=0.8,
    stretch=0.001,
    thickness_difference_mm=1.0,
    rival_overlap=0.2,
)


@dataclass(frozen=True, eq=False)
class Scan:
    """A functional image, its lesions and its CT on one grid of 10 mm voxels."""

    suv: Volume
    labels: LabelMap
    ct: Volume


def scan(mm: tuple[int, int] = WHOLE_BODY_MM, lesions: Lesions | None = None) -> Scan:
    """What a field of view from ``mm[0]`` to ``mm[1]`` shows of the patient."""
    first, end = mm[0] // 10, mm[1] // 10
    suv = np.full((100, 9, 9), 0.5, np.float32)
    labels = np.zeros(suv.shape, np.uint16)
    hu = np.full(suv.shape, -1000.0, np.float32)
    hu[:, 2:7, 2:7] = 40.0
    all_of_them = (lesions or DISEASE).items()
    seen = {z: each for z, each in all_of_them if z // 10 < end and z // 10 + each[0] > first}
    for number, (z, (length, uptake)) in enumerate(seen.items(), start=1):
        suv[z // 10 : z // 10 + length, 4, 4] = uptake
        labels[z // 10 : z // 10 + length, 4, 4] = number
    grid = Grid.axis_aligned((end - first, 9, 9), (10.0, 10.0, 10.0), (0.0, 0.0, 10.0 * first))
    part = slice(first, end)
    return Scan(
        Volume(suv[part], grid, Unit.SUVBW),
        LabelMap(labels[part], grid),
        Volume(hu[part], grid, Unit.HU),
    )


def study(
    template: Quantified, shown: Scan, uptake_min: float | None = 60.0, patient: Patient = PERSON
) -> Quantified:
    """The template's study, of this patient, with these images."""
    segmented = template.segmented
    loaded = segmented.aligned.loaded
    functional = replace(
        loaded.selection.functional,
        series_datetime=NOW,
        manufacturer="MAKER",
        model_name="ONE",
        reconstruction_method="OSEM",
    )
    selection = replace(
        loaded.selection, functional=functional, study=replace(loaded.selection.study, patient=patient)
    )
    uptake_s = None if uptake_min is None else 60.0 * uptake_min
    loaded = replace(
        loaded,
        selection=selection,
        uptake=shown.suv,
        ct=shown.ct,
        activity=None,
        quantification=replace(loaded.quantification, uptake_s=uptake_s),
    )
    aligned = Aligned(loaded)
    found = measure(shown.labels, shown.suv, None)
    return Quantified(replace(segmented, aligned=aligned, labels=shown.labels), found)


def earlier(
    now: Quantified, shown: Scan, series: str = "baseline", minutes_later: float = 0.0, **facts: Any
) -> EarlierResult:
    """A result of the same patient 91 days ago; ``facts`` replace those of an equal scan."""
    loaded = replace(now.segmented.aligned.loaded, uptake=shown.suv)
    seen = replace(loaded.facts, **facts)
    found = measure(shown.labels, shown.suv, None)
    tracer = loaded.selection.tracer.key
    return EarlierResult(
        study_instance_uid="1.2.3",
        series_instance_uid=series,
        acquired_at=NOW - timedelta(days=DAYS_AGO) + timedelta(minutes=minutes_later),
        kind=StudyKind.PET_CT,
        lesion_count=shown.labels.count,
        segmentation_sop_instance_uid="1.2.3.8",
        report=EarlierReport("1.2.3.9", tracer, now.segmented.model, found),
        may_be_prior=True,
        facts=lambda: seen,
        labels=lambda: shown.labels,
        ct=lambda: shown.ct,
        suv=lambda: shown.suv,
    )


def laid_on(fixed: Volume, moving: Volume) -> RigidRegistration:
    """What a registration of this patient's CTs must find."""
    spans = [(ct.grid.origin_mm[2], ct.grid.origin_mm[2] + 10.0 * ct.grid.shape[0]) for ct in (fixed, moving)]
    shared = min(end for _, end in spans) - max(start for start, _ in spans)
    share = max(0.0, float(shared)) / (spans[0][1] - spans[0][0])
    return RigidRegistration(np.eye(4), replace(FITTING, overlap_fraction=share))


def misfit(fixed: Volume, moving: Volume) -> RigidRegistration:
    return RigidRegistration(np.eye(4), replace(FITTING, bone_dice=0.1))


def no_bone(fixed: Volume, moving: Volume) -> None:
    return None


def gone() -> Volume:
    raise UnusableStudyError(Reason(RefusalCode.PRIOR_UNREADABLE, "", "a series that is gone", "it"))


def whole_body_today(template: Quantified) -> Quantified:
    return study(template, scan())


Past = Callable[[Quantified], Sequence[EarlierResult]]


@dataclass(frozen=True)
class History:
    """One line of the table. The study of today is the whole body of an unchanged patient, after 60 min.

    Attributes:
        past: what was there 91 days ago.
        stopped: no number may be given, and these words must say why.
        told: the numbers may be given, with these words, and no RECIP category.
        percent: the change of PSMA-TV, counted by hand.
        today: what today's study is, where it isn't that.
    """

    name: str
    past: Past
    stopped: str = ""
    told: str = ""
    percent: float = 0.0
    registration: Callable[[Volume, Volume], RigidRegistration | None] = laid_on
    today: Callable[[Quantified], Quantified] = whole_body_today


PELVIS = scan((0, 500), {100: (8, 10.0)})
LATE_DISEASE: Lesions = {**DISEASE, 300: (5, 4.0), 400: (5, 4.0), 500: (3, 4.0), 750: (3, 4.0)}
LATE = scan(lesions=LATE_DISEASE)


def with_baseline(*others: Callable[[Quantified], EarlierResult]) -> Past:
    return lambda now: [earlier(now, scan()), *(other(now) for other in others)]


def alone(shown: Scan | None = None, **changes: Any) -> Past:
    return lambda now: [earlier(now, shown or scan(), **changes)]


def baseline_without(what: str) -> Past:
    return lambda now: [replace(earlier(now, scan()), **{what: gone})]


def unknown_patient(identifier: str) -> Callable[[Quantified], Quantified]:
    return partial(study, shown=scan(), patient=Patient(identifier))


LATE_PELVIS = partial(earlier, shown=PELVIS, series="pelvis", minutes_later=120.0, uptake_s=10800.0)
SAME_TIME_PELVIS = partial(earlier, shown=PELVIS, series="pelvis", minutes_later=5.0, uptake_s=3600.0)
LATE_BODY = partial(earlier, shown=LATE, series="late", minutes_later=120.0, uptake_s=10800.0)
SHARPER = (("scanner", "MAKER ONE"), ("reconstruction method", "PSF"), ("filter", ""))

HISTORIES = (
    History("the same whole body", alone()),
    History("a late pelvis with its own CT as well", with_baseline(LATE_PELVIS)),
    History("a pelvis minutes after the whole body as well", with_baseline(SAME_TIME_PELVIS)),
    History("a late whole body as well", with_baseline(LATE_BODY)),
    History(
        "another reconstruction as well",
        with_baseline(partial(earlier, shown=LATE, series="sharp", reconstruction=SHARPER)),
    ),
    History(
        "other voxels as well",
        with_baseline(partial(earlier, shown=LATE, series="fine", voxel_mm=(2.0, 2.0, 2.0))),
    ),
    History("a scan 10 min earlier after the injection", alone(uptake_s=3000.0)),
    History("a name spelled otherwise", alone(patient=replace(PERSON, name="Doe^A"))),
    History("the late pelvis alone", lambda now: [LATE_PELVIS(now)], stopped="180 min then, 60 min now"),
    History(
        "a pelvis alone, less than half of the body",
        alone(scan((0, 490), {100: (8, 10.0)})),
        stopped="share of the body that both CTs show 0.49",
    ),
    History("the late whole body alone", lambda now: [LATE_BODY(now)], stopped="180 min then, 60 min now"),
    History("another tracer", alone(tracer="18F-PSMA-1007"), stopped="another radiopharmaceutical"),
    History(
        "another birth date under one PatientID",
        alone(patient=replace(PERSON, birth_date="19610203")),
        stopped="PatientBirthDate differs",
    ),
    History(
        "another name under one PatientID and no birth date",
        alone(patient=Patient("ID-1", "clinic", "ROE^BERT")),
        stopped="PatientName differs",
    ),
    History("CTs that don't fit", alone(), stopped="Dice of bone 0.1", registration=misfit),
    History("CTs without common bone", alone(), stopped="too little bone", registration=no_bone),
    History("the earlier CT gone", baseline_without("ct"), stopped="a series that is gone"),
    History("the earlier SEG gone", baseline_without("labels"), stopped="a series that is gone"),
    History("the earlier PET gone", baseline_without("facts"), stopped="a series that is gone"),
    *(
        History(
            f"PatientID {identifier or 'empty'}",
            alone(),
            stopped="PatientID is",
            today=unknown_patient(identifier),
        )
        for identifier in ("", " ", "ANON", "anonymous", "Unknown", "0000", "XXXX", "---", "N/A", "No ID")
    ),
    History("a scan 30 min later", alone(uptake_s=5400.0), told="90 min then, 60 min now"),
    History("an unknown time after injection", alone(uptake_s=None), told="time after injection unknown"),
    History("another reconstruction alone", alone(reconstruction=SHARPER), told="PSF then, OSEM now"),
    History(
        "another scanner",
        alone(reconstruction=(("scanner", "MAKER TWO"), *SHARPER[1:])),
        told="another scanner: MAKER TWO then, MAKER ONE now",
    ),
    History(
        "no reconstruction method in the header",
        alone(reconstruction=(SHARPER[0], ("reconstruction method", ""), SHARPER[2])),
        told="not stated then",
    ),
    History("other voxels alone", alone(voxel_mm=(2.0, 2.0, 3.0)), told="other voxels: 2.00 x 2.00 x 3.00"),
    History(
        "a field of view that ended below a lesion",
        alone(scan((0, 800))),
        told="over the region that both show, 100 % of the body in the previous study and 80 %",
    ),
    History(
        "a field of view that cut a lesion in two",
        alone(scan((0, 700))),
        told="over the region that both show",
    ),
    History(
        "a field of view today that cuts a lesion in two, and half as much in the part both show",
        alone(scan(lesions={100: (4, 10.0), 600: (10, 28.8), 900: (6, 6.0)})),
        told="over the region that both show",
        percent=100.0 * (18 - 14) / 14,
        today=partial(study, shown=scan((0, 700))),
    ),
)
