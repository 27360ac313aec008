"""Every kind of result that the node can send, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from app.dicom.results.policy import SegType, SrClass, WritePolicy
from app.dicom.results.read_back import Result
from app.dicom.results.withdrawal import write_withdrawal
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Provenance, Quantified, SupersededReport
from app.domain.codes import SuvUnitSpelling
from app.domain.decision import Decision
from app.domain.findings.findings import ActivityInstant, DoseEstimate, InstantKind, Site
from app.domain.outcome import StandingResult
from app.domain.quantities.body_size import OtherSuv
from app.domain.study import StudyKind
from app.domain.volume import Unit
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE

PLAIN = WritePolicy(rtstruct=True)
OTHER = WritePolicy(
    seg_type=SegType.LABELMAP,
    sr_class=SrClass.COMPREHENSIVE,
    suv_unit=SuvUnitSpelling.ANNOTATION_FIRST,
    rtstruct=True,
)
PROCESSED = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
"""Written without a zone where this machine's is UTC: DCMTK does not know +0000."""
DECIDED = (Decision.warning("receive", "did not wait longer than 3600 s for the PET/CT, which is queued"),)
BINARY_AND_COMPREHENSIVE = replace(OTHER, seg_type=SegType.BINARY)


@dataclass(frozen=True, eq=False)
class Case:
    """An analysis and the results written of it."""

    name: str
    quantified: Quantified
    results: tuple[Result, ...]

    def of_kind(self, kind: ResultKind) -> Result:
        """The result of that kind."""
        return next(result for result in self.results if result.kind is kind)


def make_cases(folder: Path) -> Iterator[Case]:
    """PET, NM and SPECT stored as PT; BINARY and LABELMAP; both SR classes; empty; replacing; withdrawn."""
    pet = _with_every_item(sources.pet(folder / "pet"))
    spect = _with_every_item(sources.spect(folder / "nm"))
    yield _case("PET", pet)
    yield _case("PET, other choices", pet, OTHER)
    yield _case("PET, Comprehensive SR", pet, BINARY_AND_COMPREHENSIVE)
    yield _case("NM", spect)
    yield _case("NM, other choices", spect, OTHER)
    yield _case("SPECT as PT", sources.spect_as_pt(folder / "spect-pt"))
    yield _case("no lesion", sources.without_lesions(pet))
    first = _case("PET", pet)
    yield _case("replacing", pet, PLAIN, replacing(first.of_kind(ResultKind.SR)))
    yield Case("withdrawn", pet, _withdrawn(first.of_kind(ResultKind.SR), folder))


def _with_every_item(quantified: Quantified) -> Quantified:
    """With what the stages quantify and load add: activities' instant, dose and its range, uptake, SUVs."""
    aligned, findings = quantified.segmented.aligned, quantified.findings
    others = (OtherSuv(Unit.SUL, 0.7), OtherSuv(Unit.SUVBSA, 250.0))
    used = replace(aligned.loaded.quantification, uptake_s=3600.0, other_suv=others)
    loaded = replace(aligned.loaded, quantification=used)
    lesions, dose = findings.lesions, None
    if loaded.selection.kind is StudyKind.SPECT_CT:
        lesions = tuple(
            replace(x, absorbed_dose_gy=4.0, site=Site.BONE, site_reason="a rule") for x in lesions
        )
        dose = DoseEstimate(48.0, lowest=0.93, highest=1.43)
    instant = ActivityInstant(InstantKind.SCAN_START, used.reference_datetime)
    return replace(
        quantified,
        segmented=replace(quantified.segmented, aligned=replace(aligned, loaded=loaded)),
        findings=replace(findings, lesions=lesions, dose=dose, activity_instant=instant),
    )


def replacing(report: Result) -> Provenance:
    """Of the revision after a report's."""
    return replace(PROVENANCE, revision=2, supersedes=(_superseded(report),))


def _case(
    name: str, quantified: Quantified, policy: WritePolicy = PLAIN, provenance: Provenance = PROVENANCE
) -> Case:
    """As made with settings of its own, so that no two cases share a UID."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    made_with = replace(provenance, settings_digest=digest, processed_at=PROCESSED, decisions=DECIDED)
    return Case(name, quantified, write_results(quantified, policy, made_with).results)


def _withdrawn(report: Result, folder: Path) -> tuple[Result, ...]:
    file = folder / report.file_name
    file.write_bytes(report.content)
    standing = StandingResult(_superseded(report), file)
    return write_withdrawal(standing, "[slice-gap] a slice is missing", PLAIN, replacing(report))


def _superseded(report: Result) -> SupersededReport:
    dataset = report.dataset
    return SupersededReport(
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPClassUID, dataset.SOPInstanceUID,
        1, f"{sources.ROOT}.3",
    )  # fmt: skip
