"""Results of a SPECT in counts: volumes and ratios to the liver, marked, and nothing that is an SUV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from app.dicom.results.context import open_context
from app.dicom.results.page.table import columns_of, notes
from app.dicom.results.page.views import window_top
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import numbers_by_group, texts
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import LiverScale, Quantified
from app.domain.decision import Decision
from app.domain.findings.findings import Organ, ReferenceUptake
from app.domain.findings.measurements import measure
from app.domain.quantities.suv_scale import Quantification
from app.domain.volume import Unit
from app.imaging.anatomy.relative_uptake import WHY, relative_findings
from tests.dicom.results import sources
from tests.dicom.results.conformance import errors_of
from tests.dicom.results.sources import PROVENANCE, as_bytes

FORBIDDEN = ("suv", "bq", "126401", "126403", "126405", "110821", "tl-psma", "activity", "dose", "gray")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return in_counts(sources.spect(tmp_path_factory.mktemp("counts")))


@pytest.fixture(scope="module")
def report(counts: Quantified) -> Dataset:
    [found] = [item for item in written(counts) if item.Modality == "SR"]
    return found


def in_counts(quantified: Quantified) -> Quantified:
    """The same, of an image whose liver is 2."""
    segmented = quantified.segmented
    loaded = segmented.aligned.loaded
    uptake = loaded.uptake.scaled(0.5, Unit.TO_LIVER)
    liver = ReferenceUptake(Organ.LIVER, None, "sphere of 3 cm", 14.1, ((1.0, 2.0, 3.0),), to_liver=1.0)
    scale = LiverScale(liver, 1.0, WHY)
    loaded = replace(
        loaded,
        uptake=uptake,
        activity=None,
        quantification=Quantification("not quantified: counts without a calibration"),
        liver_scale=scale,
        decisions=(Decision.warning("load", f"not quantified: {WHY}"),),
    )
    labels = segmented.labels
    segmented = replace(segmented, aligned=replace(segmented.aligned, loaded=loaded))
    return Quantified(segmented, relative_findings(measure(labels, uptake, None), scale))


def written(quantified: Quantified) -> list[Dataset]:
    return [item.dataset for item in write_results(quantified, WritePolicy(), PROVENANCE).results]


def items(parent: Dataset) -> Iterator[Dataset]:
    for item in parent.get("ContentSequence", []):
        yield item
        yield from items(item)


def codes_of(item: Dataset) -> Iterator[str]:
    for element in item:
        if element.keyword.endswith("CodeSequence"):
            for code in element.value:
                value = code.get("CodeValue") or code.LongCodeValue
                yield f"{value} {code.CodeMeaning}".lower()


def test_no_concept_and_no_unit_of_the_report_is_of_an_suv_an_activity_or_a_dose(report: Dataset) -> None:
    seen = 0
    for item in items(report):
        measured = item.get("MeasuredValueSequence", [Dataset()])[0]
        for code in (*codes_of(item), *codes_of(measured)):
            seen += 1
            assert not [word for word in FORBIDDEN if word in code], code
    assert seen > 100


def test_numbers_are_half_of_those_of_the_image_whose_liver_is_two(
    report: Dataset, counts: Quantified, tmp_path: Path
) -> None:
    quantified = sources.spect(tmp_path)
    for lesion in quantified.findings.lesions:
        numbers = numbers_by_group(report)[f"Lesion {lesion.number}"]
        assert lesion.suv_max is not None
        assert lesion.suv_mean is not None
        assert numbers["118565006", "", "ml"] == pytest.approx(lesion.volume_ml, rel=1e-5)
        assert numbers["TO-LIVER-MAX", "", "{1}"] == pytest.approx(lesion.suv_max / 2.0, rel=1e-5)
        assert numbers["TO-LIVER", "", "{1}"] == pytest.approx(lesion.suv_mean / 2.0, rel=1e-5)
    body = numbers_by_group(report)["Whole body"]
    assert body["PSMA-TV", "", "ml"] == pytest.approx(quantified.findings.burden.psma_tv_ml, rel=1e-5)
    assert body["LIVER-UPTAKE", "373098007", "{1}"] == 1.0


def test_the_report_is_marked(report: Dataset) -> None:
    summaries = [text for code, text in texts(report) if code == "121111"]
    assert "not quantified: SPECT in counts" in summaries[0]
    assert "PSMA-TV" in summaries[0]
    assert "TL-PSMA" not in summaries[0]
    assert summaries[1].startswith("1 warning: not quantified")


def test_no_lesion_is_marked_too(counts: Quantified) -> None:
    loaded = counts.segmented.aligned.loaded
    assert loaded.liver_scale is not None
    empty = sources.without_lesions(counts)
    empty = replace(empty, findings=relative_findings(empty.findings, loaded.liver_scale))
    assert empty.findings.burden.tl_psma is None
    [found] = [item for item in written(empty) if item.Modality == "SR"]
    assert "not quantified" in next(text for code, text in texts(found) if code == "121111")


def test_report_and_segmentation_conform(counts: Quantified, tmp_path: Path) -> None:
    results = write_results(counts, WritePolicy(), PROVENANCE).results
    assert [item.kind for item in results] == [ResultKind.SEG, ResultKind.SR, ResultKind.PAGE]
    for result in results[:2]:
        assert errors_of(as_bytes(result.dataset), tmp_path) == []


def test_the_page_has_ratios_in_its_table_and_its_grey_scale(counts: Quantified, tmp_path: Path) -> None:
    context = open_context(counts, WritePolicy(), PROVENANCE)
    headings = [" ".join(column.heading) for column in columns_of(counts.findings.lesions, True)]
    assert headings == ["Volume ml", "Length mm", "Max / liver", "Mean / liver", "Peak / liver"]
    assert "SUV" not in "".join(notes(context))
    assert notes(context)[0].startswith("Not quantified")
    quantified = open_context(sources.spect(tmp_path), WritePolicy(), PROVENANCE)
    assert 0.0 < window_top(context) <= window_top(quantified)
