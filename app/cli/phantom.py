"""``psma-node phantom``: write a simulated patient as DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.phantom.centres import Centre

if TYPE_CHECKING:
    from app.phantom.dicom.writer import WrittenPatient, WrittenScan
    from app.phantom.patient import SimulatedPatient


def phantom(
    patient: Annotated[int, typer.Option("--patient", min=0, help="Number of the patient: the seed.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; made.")],
    centre: Annotated[
        Centre, typer.Option("--centre", help="Simulated centre, with its own scanners.")
    ] = Centre.A,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Also write anterior MIPs as PNG to this folder.")
    ] = None,
    counts_only: Annotated[
        bool, typer.Option("--counts-only", help="SPECT in counts, without a Real World Value Mapping.")
    ] = False,
) -> None:
    """Write a simulated patient: PET/CT before therapy, 177Lu SPECT/CT weeks later, and the true lesions."""
    from app.phantom.dicom.writer import write_patient
    from app.phantom.patient import simulate_patient

    simulated = simulate_patient(patient, centre)
    written = write_patient(simulated, out, rwvm=not counts_only)
    for line in _lines(simulated, written):
        typer.echo(line)
    if pictures is not None:
        for path in _write_pictures(simulated, pictures):
            typer.echo(f"picture     {path}")


def _lines(patient: SimulatedPatient, written: WrittenPatient) -> list[str]:
    who = f"{patient.centre.value}{patient.number:04d}"
    lesions = (patient.pet.truth.count, patient.spect.truth.count)
    return [
        f"patient     SIMULATED^{who}, {patient.weight_kg:g} kg, {patient.height_m:.2f} m",
        f"PET/CT      {_count(written.pet)} instances, {lesions[0]} lesions: {_folders(written.pet)}",
        f"SPECT/CT    {_count(written.spect)} instances, {lesions[1]} lesions: {_folders(written.spect)}",
    ]


def _count(scan: WrittenScan) -> int:
    return len(scan.images) + (scan.truth is not None)


def _folders(scan: WrittenScan) -> str:
    folders = [scan.functional[0].parent, scan.ct[0].parent, *([scan.truth] if scan.truth else [])]
    return ", ".join(str(folder) for folder in folders)


def _write_pictures(patient: SimulatedPatient, folder: Path) -> list[Path]:
    from app.phantom.pictures import PET_BLACK_SUV, SPECT_BLACK_SUV, picture, write_row

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, scan, black in (("pet", patient.pet, PET_BLACK_SUV), ("spect", patient.spect, SPECT_BLACK_SUV)):
        path = folder / f"phantom_{patient.centre.value}{patient.number:04d}_{name}.png"
        write_row([picture(scan, black, with_truth) for with_truth in (False, True)], path)
        paths.append(path)
    return paths
