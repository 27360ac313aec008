"""Biomarkers in SEG, SR and page: read back, conformant, repeatable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom.sr.utils import collect_evidence
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import Result, numbers_by_group, texts
from app.dicom.results.report.content import change_in_words
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Quantified
from app.domain.decision import Decision
from app.domain.findings.findings import (
    Burden,
    Change,
    DoseEstimate,
    Findings,
    LesionLink,
    LinkKind,
    Organ,
    Recip,
    RecipCategory,
    ReferenceUptake,
    Site,
)
from app.domain.outcome import PairOutcome, Status, StudyOutcome
from app.domain.study import Instance
from app.files.outcome import read_outcome, write_outcome
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE

TOOLS = Path(sys.executable).parent
CHANGE = Change(
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.4",
    acquired_at=datetime(2026, 1, 5, 10, 30),
    burden=Burden(2, 10.0, 50.0, 12.0),
    psma_tv_percent=25.5,
    tl_psma_percent=-3.25,
    suv_max_percent=None,
    links=(
        LesionLink(LinkKind.MERGED, (1, 2), (1,), 12.5, -1.0, 0.0),
        LesionLink(LinkKind.NEW, (), (2,)),
        LesionLink(LinkKind.NOT_SEEN_BEFORE, (), (3,)),
    ),
    registration="CTs laid on each other: Dice of bone 0.90",
    recip=Recip(RecipCategory.PROGRESSIVE_DISEASE, 25.5, 1, "PSMA-TV +25.5 % with 1 new lesion(s)"),
)


def rich(quantified: Quantified) -> Quantified:
    """The analysis with every biomarker there is."""
    sites = (Site.BONE, Site.LYMPH_NODE, Site.UNSPECIFIED)
    lesions = tuple(
        replace(lesion, site=site, site_reason="a rule", to_liver=2.5, to_parotid=0.75, absorbed_dose_gy=1.5)
        for lesion, site in zip(quantified.findings.lesions, sites, strict=True)
    )
    references = (
        ReferenceUptake(Organ.LIVER, 4.75, "a sphere", 14.1, ((1.0, 2.0, 3.0),)),
        ReferenceUptake(Organ.PAROTID, None, "not told: no lung in view"),
    )
    findings = replace(
        quantified.findings, lesions=lesions, references=references, change=CHANGE, dose=DoseEstimate(72.0)
    )
    return replace(quantified, findings=findings)


@pytest.fixture(scope="module")
def quantified(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return rich(sources.spect(tmp_path_factory.mktemp("spect")))


@pytest.fixture(scope="module")
def results(quantified: Quantified) -> dict[ResultKind, Result]:
    written = write_results(quantified, WritePolicy(), PROVENANCE).results
    return {result.kind: result for result in written}


@pytest.mark.parametrize("kind", [ResultKind.SEG, ResultKind.SR, ResultKind.PAGE])
def test_dciodvfy_finds_no_error(results: dict[ResultKind, Result], kind: ResultKind, tmp_path: Path) -> None:
    file = tmp_path / "result.dcm"
    file.write_bytes(results[kind].content)
    done = subprocess.run([TOOLS / "dciodvfy", file], check=False, capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert errors == []


def test_the_report_has_every_number(results: dict[ResultKind, Result], quantified: Quantified) -> None:
    groups = numbers_by_group(results[ResultKind.SR].dataset)
    body, lesion = groups["Whole body"], groups["Lesion 1"]
    assert body["PSMA-TV-CHANGE", "", "%"] == 25.5
    assert body["TL-PSMA-CHANGE", "", "%"] == -3.25
    assert ("SUVMAX-CHANGE", "", "%") not in body
    assert body["NEW-LESIONS", "", "{1}"] == 1
    assert body["VANISHED-LESIONS", "", "{1}"] == 0
    assert body["LIVER-UPTAKE", "373098007", "g/ml{SUVbw}"] == 4.75
    assert body["DMAX", "", "mm"] == pytest.approx(quantified.findings.burden.dmax_mm, rel=1e-5)
    assert lesion["TO-LIVER", "", "{1}"] == 2.5
    assert lesion["128513", "373098007", "Gy"] == 1.5
    longest = quantified.findings.lesions[0].longest_diameter_mm
    assert lesion["LONGEST-DIAMETER", "", "mm"] == pytest.approx(longest, rel=1e-5)


def test_the_report_says_it_in_words(results: dict[ResultKind, Result]) -> None:
    said: dict[str, list[str]] = {}
    for concept, text in texts(results[ResultKind.SR].dataset):
        said.setdefault(concept, []).append(text)
    assert said["SITE-REASON"] == [
        "lesion 1: bone (a rule); lesion 2: lymph node (a rule); lesion 3: unspecified (a rule)"
    ]
    assert said["REFERENCE"][0].startswith("liver: SUVmean 4.75 in 14.1 ml, a sphere")
    assert said["REFERENCE"][1] == "parotid gland: not told: no lung in view"
    assert said["CHANGE"][0].startswith(
        "since 2026-01-05: PSMA-TV +25.5 %, TL-PSMA -3.2 %, SUVmax not comparable, 1 merged, 1 new, "
        "1 not seen before"
    )
    assert said["CORRESPONDENCE"] == [
        "merged: previous 1 + 2, current 1 (volume +12.5 %, TL-PSMA -1.0 %, SUVmax +0.0 %); "
        "new: previous -, current 2; not seen before: previous -, current 3"
    ]
    assert said["RECIP"] == ["RECIP-PD (PSMA-TV +25.5 % with 1 new lesion(s))"]
    assert said["DOSE"] == ["research estimate from one SPECT at 72.0 h (Haenscheid 2018)"]


def report_of(quantified: Quantified, findings: Findings) -> tuple[Dataset, tuple[Decision, ...]]:
    written = write_results(replace(quantified, findings=findings), WritePolicy(), PROVENANCE)
    report = next(result.dataset for result in written.results if result.kind is ResultKind.SR)
    return report, written.decisions


def test_a_study_that_could_not_be_compared_has_no_number_of_change_and_a_warning(
    quantified: Quantified,
) -> None:
    passed = ("PET/CT of 2026-01-05 (series 1.2.3.4): Dice of bone 0.1, expected at least 0.5",)
    because = "no earlier result can be compared with this one"
    findings = replace(quantified.findings, change=None, no_change_because=because, not_compared=passed)
    report, decisions = report_of(quantified, findings)
    numbers = numbers_by_group(report)["Whole body"]
    assert not {name for name, _, _ in numbers} & {"PSMA-TV-CHANGE", "SUVMAX-CHANGE", "NEW-LESIONS"}
    assert [text for concept, text in texts(report) if concept == "CHANGE"] == [f"not reported: {because}"]
    assert Decision.warning("quantify", f"not compared with {passed[0]}") in decisions


def test_what_differs_between_the_studies_stands_next_to_each_number(quantified: Quantified) -> None:
    told = "time after injection 60 min then, 80 min now"
    change = replace(CHANGE, cautions=(told,), region="over the region that both show")
    report, _ = report_of(quantified, replace(quantified.findings, change=change))
    remark = f"caution: {told}; over the region that both show"
    assert comments_by_number(report) == dict.fromkeys(
        ("PSMA-TV-CHANGE", "TL-PSMA-CHANGE", "NEW-LESIONS", "VANISHED-LESIONS"), remark
    )
    assert change_in_words(change).startswith(f"since 2026-01-05: caution: {told}, over the region")


def comments_by_number(report: Dataset) -> dict[str, str]:
    found: dict[str, str] = {}

    def look(item: Dataset) -> None:
        for child in item.get("ContentSequence", []):
            if item.get("ValueType") == "NUM" and child.ConceptNameCodeSequence[0].CodeValue == "121106":
                found[item.ConceptNameCodeSequence[0].CodeValue] = child.TextValue
            look(child)

    look(report)
    return found


def test_segments_and_groups_bear_the_site_where_it_is_known(results: dict[ResultKind, Result]) -> None:
    segments = results[ResultKind.SEG].dataset.SegmentSequence
    regions = [
        segment.AnatomicRegionSequence[0].CodeValue if "AnatomicRegionSequence" in segment else ""
        for segment in segments
    ]
    assert regions == ["272673000", "59441001", ""]
    assert list(_finding_sites(results[ResultKind.SR].dataset)) == ["38266002", "272673000", "59441001"]


def _finding_sites(item: Dataset) -> Iterator[str]:
    for child in item.get("ContentSequence", []):
        if child.ValueType == "CODE" and child.ConceptNameCodeSequence[0].CodeValue == "363698007":
            yield str(child.ConceptCodeSequence[0].CodeValue)
        yield from _finding_sites(child)


def test_the_same_previous_study_gives_the_same_bytes_another_one_other_uids(quantified: Quantified) -> None:
    first = write_results(quantified, WritePolicy(), PROVENANCE).results
    again = write_results(quantified, WritePolicy(), PROVENANCE).results
    assert [result.content for result in first] == [result.content for result in again]
    changed = replace(CHANGE, series_instance_uid="1.2.3.5")
    other = replace(quantified, findings=replace(quantified.findings, change=changed))
    others = write_results(other, WritePolicy(), PROVENANCE).results
    uids = {result.dataset.SOPInstanceUID for result in others}
    assert uids.isdisjoint(result.dataset.SOPInstanceUID for result in first)


def test_a_page_with_the_change_differs_and_one_without_lesions_has_it_too(quantified: Quantified) -> None:
    def page(findings: Findings, of: Quantified) -> bytes:
        written = write_results(replace(of, findings=findings), WritePolicy(), PROVENANCE).results
        return bytes(next(r.dataset.PixelData for r in written if r.kind is ResultKind.PAGE))

    with_change = page(quantified.findings, quantified)
    assert with_change != page(replace(quantified.findings, change=None), quantified)
    empty = sources.without_lesions(quantified)
    assert page(replace(empty.findings, change=CHANGE), empty) != page(empty.findings, empty)


def pair_of(quantified: Quantified, *decisions: Decision) -> PairOutcome:
    segmented = quantified.segmented
    return PairOutcome(
        kind=segmented.aligned.loaded.selection.kind,
        functional_series_instance_uid="1.2",
        ct_series_instance_uid="1.3",
        tracer="177Lu-PSMA-617",
        model=segmented.model,
        prior_used=True,
        no_prior=(),
        findings=quantified.findings,
        decisions=decisions,
        files=(),
    )


def test_the_outcome_file_keeps_every_biomarker(quantified: Quantified, tmp_path: Path) -> None:
    pair = pair_of(quantified)
    write_outcome(StudyOutcome("1", Status.DONE, pairs=(pair,)), tmp_path)
    assert read_outcome(tmp_path).pairs[0].findings == quantified.findings
    assert np.isfinite(quantified.findings.burden.psma_tv_ml)


def test_the_outcome_file_has_decisions_as_they_are_printed(quantified: Quantified, tmp_path: Path) -> None:
    decisions = (
        Decision.warning("load", "slice 4 is 3 times its neighbours"),
        Decision("load", "no warning: b"),
    )
    outcome = StudyOutcome("1", Status.DONE, pairs=(pair_of(quantified, *decisions),))
    path = write_outcome(outcome, tmp_path)
    content = json.loads(path.read_text())
    assert content["pairs"][0]["decisions"] == [
        {"stage": "load", "text": "warning: slice 4 is 3 times its neighbours", "severity": "warning"},
        {"stage": "load", "text": "no warning: b", "severity": "note"},
    ]
    assert read_outcome(tmp_path) == outcome
    for decision in content["pairs"][0]["decisions"]:
        del decision["severity"]  # as version 0.1.0 wrote it
    path.write_text(json.dumps(content))
    assert read_outcome(tmp_path) == outcome


def test_references_are_those_that_highdicom_makes(tmp_path: Path) -> None:
    """Image library and evidence are put in without it: byte for byte what its own classes give."""
    quantified = sources.pet(tmp_path)
    results = write_results(quantified, WritePolicy(), PROVENANCE).results
    written = {each.kind: each.dataset for each in results}
    report, segmentation = written[ResultKind.SR], written[ResultKind.SEG]
    images = [
        source_header(report.StudyInstanceUID, series.series_instance_uid, each)
        for series in quantified.segmented.aligned.loaded.selection.study.series
        for each in sorted(series.instances, key=lambda each: each.sop_instance_uid)
    ]
    assert len({each.SeriesInstanceUID for each in images}) == 2
    inputs = [*images, segmentation]
    same_study, other_studies = collect_evidence(inputs, report, report.StudyInstanceUID)
    assert list(report.CurrentRequestedProcedureEvidenceSequence) == same_study
    assert other_studies == []
    (found,) = (each for each in report.ContentSequence if is_named(each, "111028"))
    library = [
        each for group in found.ContentSequence for each in group.ContentSequence if each.ValueType == "IMAGE"
    ]
    expected = [
        hd.sr.ImageContentItem(
            hd.sr.CodedConcept("260753009", "SCT", "Source"),
            each.SOPClassUID,
            each.SOPInstanceUID,
            relationship_type="CONTAINS",
        )
        for each in images
    ]
    assert [as_bytes(each) for each in library] == [as_bytes(each) for each in expected]


def source_header(study_instance_uid: str, series_instance_uid: str, instance: Instance) -> Dataset:
    """An image as highdicom wants it where a report refers to it."""
    header = Dataset()
    header.StudyInstanceUID, header.SeriesInstanceUID = study_instance_uid, series_instance_uid
    header.SOPClassUID, header.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    return header


def is_named(item: Dataset, code_value: str) -> bool:
    return str(item.ConceptNameCodeSequence[0].CodeValue) == code_value


def as_bytes(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    content: bytes = buffer.getvalue()
    return content
