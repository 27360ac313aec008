"""Simulated patients as a clinic would bring its own: DICOM in one folder, a reader's truths in another."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from app.cohort.pool import in_processes, progress
from app.cohort.truth import COLUMNS, CSV_FILE
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.files.durable import hold_folder, write_durably
from app.phantom.centres import Centre, Modality, TruthFileForm
from app.phantom.patient import VERSION

_log = logging.getLogger(__name__)
MARK_FILE = "simulation.json"
DICOM_FOLDER, TRUTH_FOLDER = "dicom", "truth"
KINDS = {Modality.PET: StudyKind.PET_CT, Modality.SPECT: StudyKind.SPECT_CT}
Row = tuple[str, str, str]
"""A line of ``truth.csv``."""


@dataclass(frozen=True)
class Simulation:
    """Which patients to simulate: their numbers are seeds. ``folder`` gets ``dicom/`` and ``truth/``."""

    centre: Centre
    numbers: range
    folder: Path
    form: TruthFileForm = TruthFileForm.SEG
    jobs: int = 1


def simulate_cohort(simulation: Simulation) -> None:
    """Write the patients and ``truth.csv``; patients that are complete stay.

    A patient is written under another name and renamed when whole.

    Raises:
        MisconfiguredError: the folder holds another centre's patients, or truths of another form, or is at
            work.
    """
    with hold_folder(simulation.folder, "`psma-node cohort simulate`"):
        (simulation.folder / DICOM_FOLDER).mkdir(exist_ok=True)
        (simulation.folder / TRUTH_FOLDER).mkdir(exist_ok=True)
        _check_folder(simulation)
        rows, total = _rows_before(simulation), len(simulation.numbers)
        written = in_processes(partial(write_one, simulation), simulation.numbers, simulation.jobs)
        with progress("patients", total) as advance:
            for done, (_, found) in enumerate(written, start=1):
                rows |= {(patient, kind): file for patient, kind, file in found}
                _log.info("%d of %d patients written, %s left", done, total, timedelta(seconds=advance(1)))
        _write_table(simulation, rows)


def _check_folder(simulation: Simulation) -> None:
    mark = simulation.folder / MARK_FILE
    wanted = {"centre": simulation.centre.value, "truth": simulation.form.value, "version": VERSION}
    if not mark.is_file():
        write_durably(mark, json.dumps(wanted).encode())
    elif json.loads(mark.read_text(encoding="utf-8")) != wanted:
        expected = f"expected {wanted}; choose another folder"
        raise MisconfiguredError(f"{mark}: found another simulation, {expected}")


def write_one(simulation: Simulation, number: int) -> tuple[Row, ...]:
    """One patient's files, unless they are there; its rows of ``truth.csv``."""
    from app.phantom.dicom.writer import write_patient
    from app.phantom.patient import simulate_patient

    name = f"{simulation.centre.value}{number:04d}"
    home = simulation.folder / DICOM_FOLDER / name
    truths = simulation.folder / TRUTH_FOLDER / name
    if not home.exists():
        part = home.with_name(f".{name}.part")
        for unfinished in (part, truths):
            shutil.rmtree(unfinished, ignore_errors=True)
        patient = simulate_patient(number, simulation.centre)
        written = write_patient(patient, part, truth_form=simulation.form)
        truths.mkdir()
        for modality, scan in ((Modality.PET, written.pet), (Modality.SPECT, written.spect)):
            if scan.truth is not None:
                suffix = "".join(scan.truth.suffixes[-2:]) if scan.truth.name.endswith(".gz") else ".dcm"
                scan.truth.rename(truths / f"{modality.value}{suffix}")
        shutil.rmtree(part / "truth", ignore_errors=True)
        part.rename(home)
    return tuple((f"SIM-{name}", KINDS[each].value, _truth_file(truths, each)) for each in Modality)


def _truth_file(truths: Path, modality: Modality) -> str:
    """Relative to ``truth.csv``; empty when the simulated reader saw no lesion."""
    found = next(truths.glob(f"{modality.value}.*"), None)
    return "" if found is None else f"{truths.name}/{found.name}"


def _rows_before(simulation: Simulation) -> dict[tuple[str, str], str]:
    path = simulation.folder / TRUTH_FOLDER / CSV_FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["patient_id"], row["kind"]): row["file"] for row in csv.DictReader(file)}


def _write_table(simulation: Simulation, rows: dict[tuple[str, str], str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*who, file] for who, file in sorted(rows.items()))
    write_durably(simulation.folder / TRUTH_FOLDER / CSV_FILE, text.getvalue().encode())
