"""Every kind of result that the node can send, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from app.dicom.result_writer import Result, ResultKind, WritePolicy, write_results
from app.dicom.withdrawal_writer import write_withdrawal
from app.dicom.write_policy import SegType, SrClass
from app.domain.analysis import Provenance, Quantified, SupersededReport
from app.domain.codes import SuvUnitSpelling
from app.domain.revision import StandingResult
from tests.results import sources
from tests.results.sources import PROVENANCE

PLAIN = WritePolicy(rtstruct=True)
OTHER = WritePolicy(
    seg_type=SegType.LABELMAP,
    sr_class=SrClass.COMPREHENSIVE,
    suv_unit=SuvUnitSpelling.ANNOTATION_FIRST,
    rtstruct=True,
)
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
    pet = sources.pet(folder / "pet")
    spect = sources.spect(folder / "nm")
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


def replacing(report: Result) -> Provenance:
    """Of the revision after a report's."""
    return replace(PROVENANCE, revision=2, supersedes=(_superseded(report),))


def _case(
    name: str, quantified: Quantified, policy: WritePolicy = PLAIN, provenance: Provenance = PROVENANCE
) -> Case:
    """As made with settings of its own, so that no two cases share a UID."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    made_with = replace(provenance, settings_digest=digest)
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
