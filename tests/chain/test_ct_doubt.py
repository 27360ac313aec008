"""A PET that lies off its CT, through the chain: a warning and nothing read from that CT, or a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from app.dicom.results.page.page import WARNINGS_TOP
from app.domain.analysis import Loaded
from app.domain.findings.findings import Site
from app.domain.outcome import Status, StudyOutcome
from app.domain.refusal import RefusalCode
from app.domain.stack.ct_agreement import CtAgreement, CtAgreementPolicy, Flip
from app.imaging.registration import ct_agreement
from app.imaging.registration.ct_agreement import check_ct
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from tests.chain.conftest import processor
from tests.dicom.results import sources


def processed(patient: WrittenPatient, by_mm: float, folder: Path, settings: Settings) -> StudyOutcome:
    """The PET/CT with its PET so far to the patient's left; results in ``folder``."""
    images = folder / "images"
    images.mkdir()
    moved = []
    for number, path in enumerate(patient.pet.functional):
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [float(x) + by_mm, y, z]
        dataset.save_as(images / f"{number}.dcm")
        moved.append(images / f"{number}.dcm")
    return processor(settings).process((*moved, *patient.pet.ct), folder / "out", revision=1)


def test_off_its_ct_a_lesion_has_no_site_no_organ_is_named_and_report_and_page_warn(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    outcome = processed(patient, 40.0, tmp_path, settings)
    [pair] = outcome.pairs
    assert outcome.status is Status.DONE
    assert pair.findings.lesions
    assert {lesion.site for lesion in pair.findings.lesions} == {Site.UNSPECIFIED}
    assert all("(left-right) beside its CT" in lesion.site_reason for lesion in pair.findings.lesions)
    assert all(lesion.to_liver is None and lesion.to_parotid is None for lesion in pair.findings.lesions)
    assert [reference.suv_mean for reference in pair.findings.references] == [None, None]
    files = {file.kind: pydicom.dcmread(tmp_path / "out" / file.path) for file in pair.files}
    [told] = [text for text in texts(files["SR"]) if text.startswith("load: warning: ")]
    assert "(left-right) beside its CT" in told
    assert "sites and reference organs are not told" in told
    band = files["PAGE"].pixel_array[WARNINGS_TOP + 4, 40:1000]
    assert (band == (255, 226, 122)).all()


def test_far_off_its_ct_a_pet_is_refused(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    outcome = processed(patient, 80.0, tmp_path, settings)
    assert outcome.status is Status.REJECTED
    assert RefusalCode.CT_MISPLACED in {reason.code for reason in outcome.reasons}
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_a_spect_is_judged_by_the_limit_for_spect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CtAgreement((40.0, 0.0, 0.0), (0.015, 0.0, 0.0), 0.8, 0.9, Flip.HEAD_FEET, -0.1, 0.5)
    monkeypatch.setattr(ct_agreement, "measure_ct_agreement", lambda suv, source: found)
    (tmp_path / "pet").mkdir()
    (tmp_path / "spect").mkdir()
    doubts = [
        checked(loaded.segmented.aligned.loaded).ct_doubt
        for loaded in (sources.pet(tmp_path / "pet"), sources.spect(tmp_path / "spect"))
    ]
    assert "40 mm (left-right) beside its CT" in doubts[0]
    assert doubts[1] == ""


def checked(loaded: Loaded) -> Loaded:
    result = check_ct(replace(loaded, decisions=()), CtAgreementPolicy())
    assert isinstance(result, Loaded)
    assert result.ct_agreement is not None
    assert len(result.decisions) == 1
    return result


def texts(item: pydicom.Dataset) -> list[str]:
    """Every text of a report."""
    own = [str(item.TextValue)] if "TextValue" in item else []
    return own + [text for child in item.get("ContentSequence", []) for text in texts(child)]
