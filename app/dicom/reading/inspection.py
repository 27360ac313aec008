"""The dry run: what every series in a folder is, where it lies, what its numbers mean, what becomes of it.

A pair is loaded as the stage ``load`` does it: it is taken, taken with warnings, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from app.dicom.reading.loading import ct_image, load_first_usable, read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_studies
from app.domain.decision import Decision, Severity
from app.domain.quantities.suv_scale import Quantification
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.identification import describe, identify_tracer, with_site_entries
from app.domain.selection.pair import Selection, SeriesVerdict
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.screening import CT_IMAGE, MODALITY_OF_CLASS, NM_IMAGE
from app.domain.selection.selection import select
from app.domain.stack.geometry import Stack, stack_series
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import Unit, Volume
from app.errors import UnusableStudyError

STAGE = "load"

PARTS_ARE_JOINED = (
    "parts of a SPECT are joined when they are processed, if they overlap or abut on one lattice"
)


class PairVerdict(StrEnum):
    """What becomes of a pair."""

    TAKEN = "to analyse"
    WARNED = "to analyse, with warnings"
    REFUSED = "refused"


@dataclass(frozen=True)
class PairInspection:
    """A functional series with its CT.

    Attributes:
        decisions: of selection and loading, how the image lies on its CT among them; empty when refused.
    """

    kind: StudyKind
    functional_series_instance_uid: str
    ct_series_instance_uid: str
    verdict: PairVerdict
    rejection: Rejection | None = None
    decisions: tuple[Decision, ...] = ()


def inspect_pair(selection: Selection, policy: LoadPolicy) -> PairInspection:
    """Load a pair as the chain would, or its first alternative that loads; its volumes are let go again."""
    found = load_first_usable(selection, policy)
    used = selection if isinstance(found, Rejection) else found.selection
    functional, ct = used.roles
    if isinstance(found, Rejection):
        return PairInspection(selection.kind, functional, ct, PairVerdict.REFUSED, found)
    decisions = (*used.told, *found.decisions)
    if used.part and policy.join_parts and used.kind is StudyKind.SPECT_CT:
        decisions = (*decisions, Decision(STAGE, PARTS_ARE_JOINED))
    warned = any(decision.severity is Severity.WARNING for decision in decisions)
    verdict = PairVerdict.WARNED if warned else PairVerdict.TAKEN
    return PairInspection(selection.kind, functional, ct, verdict, None, decisions)


FILE_SUFFIX = {
    Unit.SUVBW: "SUVbw", Unit.BQML: "Bqml", Unit.HU: "HU", Unit.SUL: "SUL", Unit.SUVBSA: "SUVbsa",
    Unit.COUNTS: "counts",
}  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """Grid of a series: voxels and spacing (x, y, z), opposite corners in LPS mm, distances of its slices."""

    size_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_voxel_mm: tuple[float, ...]
    last_voxel_mm: tuple[float, ...]
    step_range_mm: tuple[float, float]

    @classmethod
    def of(cls, stack: Stack) -> Geometry:
        """From a stack."""
        z, y, x = stack.grid.shape
        corners = stack.grid.corners_mm()
        first, last = (tuple(round(float(v), 3) for v in corners[i]) for i in (0, -1))
        return cls((x, y, z), stack.grid.spacing_mm, first, last, stack.step_range_mm)


@dataclass(frozen=True)
class Statistics:
    """Smallest, largest and mean value of a volume in its unit, and the file it was written to."""

    unit: str
    minimum: float
    maximum: float
    mean: float
    file: str = ""


@dataclass(frozen=True)
class SeriesInspection:
    """One series, as far as it can be understood."""

    verdict: SeriesVerdict
    instances: int
    units: str
    tracer: str
    geometry: Geometry | None = None
    quantification: Quantification | None = None
    statistics: tuple[Statistics, ...] = ()
    problems: tuple[Reason, ...] = ()
    """Why geometry or a unit is missing; the verdict's reason is not repeated."""
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class StudyInspection:
    """One study: every series, and why nothing can be analysed, if so.

    Attributes:
        pairs: how many would be analysed.
        rejection: why no series make a pair.
        checked: every pair that the selection makes, and what loading says of it.
    """

    study_instance_uid: str
    pairs: int
    rejection: Rejection | None
    series: tuple[SeriesInspection, ...]
    checked: tuple[PairInspection, ...] = ()


@dataclass(frozen=True)
class FolderInspection:
    """All studies in a folder, and the files that are no usable DICOM."""

    studies: tuple[StudyInspection, ...]
    unreadable: tuple[Reason, ...]


def inspect_folder(
    folder: Path, selection: SelectionPolicy, loading: LoadPolicy, volumes: Path | None = None
) -> FolderInspection:
    """Look at every series of every study in ``folder``; nothing is sent or segmented.

    Args:
        folder: with DICOM files of any names, nested or not.
        volumes: folder for ``<modality>_<SeriesInstanceUID>_<unit>.nii.gz``, unit as in ``FILE_SUFFIX``;
            made. One for each unit that can be established, whether or not the study as a whole is
            rejected. ``None``: no files.
    """
    reading = read_studies(folder)
    if volumes is not None:
        volumes.mkdir(parents=True, exist_ok=True)
    studies = tuple(_study(study, selection, loading, volumes) for study in reading.studies)
    return FolderInspection(studies, reading.unreadable)


def _study(
    study: Study, selection: SelectionPolicy, loading: LoadPolicy, volumes: Path | None
) -> StudyInspection:
    study = with_site_entries(study, loading.administrations)
    result = select(study, selection)
    verdict_of = {verdict.series_instance_uid: verdict for verdict in result.verdicts}
    series = tuple(
        _series(item, verdict_of[item.series_instance_uid], (selection, loading), volumes)
        for item in study.series
    )
    checked = tuple(inspect_pair(selection, loading) for selection in result.selections)
    taken = sum(pair.verdict is not PairVerdict.REFUSED for pair in checked)
    return StudyInspection(study.study_instance_uid, taken, result.rejection, series, checked)


def _series(
    series: Series, verdict: SeriesVerdict, policies: tuple[SelectionPolicy, LoadPolicy], volumes: Path | None
) -> SeriesInspection:
    selection, loading = policies
    tracer, decisions = _tracer(series, selection)
    looked_at = SeriesInspection(verdict, len(series.instances), series.units, tracer, decisions=decisions)
    if series.sop_class_uid not in MODALITY_OF_CLASS or series.faults:
        return replace(looked_at, problems=series.faults[1:])
    stack = stack_series(series)
    if isinstance(stack, Reason):
        return replace(looked_at, problems=_new((stack,), verdict))
    looked_at = replace(looked_at, geometry=Geometry.of(stack))
    if verdict.reason is not None and verdict.reason.code is RefusalCode.NOT_RECONSTRUCTED:
        return looked_at
    return _with_values(looked_at, series, loading, volumes)


def _with_values(
    looked_at: SeriesInspection, series: Series, loading: LoadPolicy, volumes: Path | None
) -> SeriesInspection:
    try:
        if series.sop_class_uid == CT_IMAGE:
            ct = ct_image(series)
            statistics = _statistics(series, [ct.volume], volumes)
            return replace(looked_at, units="HU", statistics=statistics, decisions=ct.decisions)
        image = read_functional(series, loading)
    except UnusableStudyError as error:
        return replace(looked_at, problems=_new(error.rejection.reasons, looked_at.verdict))
    found = [volume for volume in (image.suv, image.activity, image.counts) if volume is not None]
    if image.suv is not None:
        found += [image.suv.scaled(item.per_suvbw, item.unit) for item in image.quantification.other_suv]
    return replace(
        looked_at,
        units=looked_at.units or image.quantification.source,
        quantification=image.quantification,
        statistics=_statistics(series, found, volumes),
        problems=(image.no_suv,) if image.no_suv else (),
        decisions=(*looked_at.decisions, *image.decisions),
    )


def _new(reasons: Sequence[Reason], verdict: SeriesVerdict) -> tuple[Reason, ...]:
    return tuple(reason for reason in reasons if reason != verdict.reason)


def _tracer(series: Series, policy: SelectionPolicy) -> tuple[str, tuple[Decision, ...]]:
    """The tracer in words, and how it was identified."""
    if series.modality not in ("PT", "NM") and series.sop_class_uid != NM_IMAGE:
        return "", ()
    found = identify_tracer(series, policy)
    if not isinstance(found, Reason):
        return found.tracer.key, found.decisions
    stated = series.radiopharmaceutical
    return f"none usable ({describe(stated)})" if stated else "not stated", ()


def _statistics(series: Series, found: Sequence[Volume], volumes: Path | None) -> tuple[Statistics, ...]:
    return tuple(
        Statistics(
            str(volume.unit),
            float(volume.array.min()),
            float(volume.array.max()),
            float(volume.array.mean(dtype="float64")),
            _write_nifti(series, volume, volumes) if volumes is not None else "",
        )
        for volume in found
    )


def _write_nifti(series: Series, volume: Volume, folder: Path) -> str:
    """The UID is of digits and dots only, as the reader made sure, so it is safe in a name."""
    from app.imaging.nifti import SUFFIX, write_array

    name = f"{series.modality}_{series.series_instance_uid}_{FILE_SUFFIX[volume.unit]}{SUFFIX}"
    write_array(folder / name, volume.array, volume.grid)
    return name
