"""The dry run says of each pair what the chain says: it fits, is warned of, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.cli.folder import inspect
from app.dicom.reading.inspection import PairVerdict, StudyInspection, inspect_folder
from app.dicom.reading.policy import LoadPolicy
from app.domain.refusal import RefusalCode
from app.domain.selection.policy import SelectionPolicy
from tests.defects.agreement import DEFECTS
from tests.defects.damage import Damage
from tests.defects.studies import body_pet_ct, outcome
from tests.dicom.reading import tiny

DAMAGE = {defect.name: defect.damage for defect in DEFECTS}


def inspected(folder: Path, damage: Damage | None = None) -> StudyInspection:
    """A study in ``folder``; what the dry run says of it agrees with what the chain does with it."""
    images = body_pet_ct()
    if damage is not None:
        damage(images)
    chain = outcome(images, folder)
    (study,) = inspect_folder(folder, SelectionPolicy(), LoadPolicy()).studies
    [pair] = study.checked
    assert (pair.rejection is None) is (chain.loaded is not None)
    assert set(pair.rejection.reasons if pair.rejection else ()) <= set(chain.reasons)
    assert chain.loaded is None or pair.decisions[-1] == chain.loaded.decisions[-1]
    return study


def printed(folder: Path, *options: str) -> str:
    app = typer.Typer()
    app.command()(inspect)
    result = CliRunner().invoke(app, [str(folder), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_pair_that_fits_is_one_to_analyse(tmp_path: Path) -> None:
    study = inspected(tmp_path)
    assert (study.pairs, study.checked[0].verdict) == (1, PairVerdict.TAKEN)
    shown = printed(tmp_path)
    assert "1 pair(s) to analyse" in shown
    assert "the image lies on its CT" in shown


def test_a_pair_that_lies_off_its_ct_gets_a_warning(tmp_path: Path) -> None:
    study = inspected(tmp_path, DAMAGE["the PET 40 mm above its CT"])
    assert (study.pairs, study.checked[0].verdict) == (1, PairVerdict.WARNED)
    assert "to analyse, with warnings" in printed(tmp_path)
    assert "mm (head-feet) beside its CT" in printed(tmp_path)


@pytest.mark.parametrize("name", ["the CT mirrored left to right", "the PET 80 mm above its CT"])
def test_a_pair_that_the_chain_refuses_is_none_to_analyse(tmp_path: Path, name: str) -> None:
    study = inspected(tmp_path, DAMAGE[name])
    [pair] = study.checked
    assert (study.pairs, pair.verdict) == (0, PairVerdict.REFUSED)
    assert pair.rejection is not None
    assert [reason.code for reason in pair.rejection.reasons] == [RefusalCode.CT_MISPLACED]
    shown = printed(tmp_path)
    assert ": rejected" in shown
    assert "[ct-misplaced]" in shown
    [told] = json.loads(printed(tmp_path, "--json"))["studies"][0]["checked"]
    assert (told["verdict"], told["rejection"]["reasons"][0]["code"]) == ("refused", "ct-misplaced")


def test_a_pair_without_suv_is_refused_for_that(tmp_path: Path) -> None:
    def weightless(dataset: object, index: int) -> None:
        dataset.PatientWeight = None  # type: ignore[attr-defined]

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=weightless))
    tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(), series_uid="1.2.3.2"))
    (study,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies
    assert study.pairs == 0
    assert study.checked[0].rejection is not None
    assert [reason.code for reason in study.checked[0].rejection.reasons] == [RefusalCode.WEIGHT_MISSING]
