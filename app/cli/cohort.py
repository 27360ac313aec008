"""``psma-node cohort``: patients and truths become a cohort to train and validate on."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import CommandGroup, ConfigOption, SetOption, end_on_sigterm, log_to_terminal
from app.phantom.centres import Centre, TruthFileForm

if TYPE_CHECKING:
    from app.cohort.manifest import CohortManifest, Exclusion

app = typer.Typer(
    name="cohort",
    cls=CommandGroup,
    no_args_is_help=True,
    help="Patients with their truths, for training and validation.",
)

JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Patients at once, one process each.")]


@app.command()
def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of DICOM, nested or not.")],
    truth: Annotated[
        Path, typer.Option("--truth", help="Folder of SEG, RTSTRUCT or NIfTI, with truth.csv if needed.")
    ],
    centre: Annotated[str, typer.Option("--centre", help="Its name begins every pseudonym: A, B, …")],
    out: Annotated[Path, typer.Option("--out", metavar="COHORT", help="The cohort to make or to add to.")],
    roi: Annotated[
        str,
        typer.Option(
            "--roi", metavar="REGEX", help="Names of segments or ROIs that are lesions; default: all."
        ),
    ] = "",
    key: Annotated[
        Path | None, typer.Option("--key", help="Write pseudonym and Patient ID here; not in the cohort.")
    ] = None,
    jobs: JobsOption = 1,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Read, check and register patients as the node would; goes on where an earlier run stopped."""
    from app.cohort.build import CohortRequest, build_cohort
    from app.cohort.source import CohortPolicy
    from app.settings import load_settings

    log_to_terminal()
    end_on_sigterm()
    if not re.fullmatch(r"[A-Za-z][A-Za-z-]*", centre):
        raise typer.BadParameter("a centre is letters and hyphens, such as A", param_hint="--centre")
    try:
        re.compile(roi)
    except re.error as error:
        raise typer.BadParameter(f"not a regular expression: {error}", param_hint="--roi") from error
    settings = load_settings(config, overrides or [])
    policy = CohortPolicy(settings.select, settings.load, settings.align, roi)
    manifest = build_cohort(CohortRequest(source, truth, centre, out, policy, key, jobs))
    _print(manifest)


@app.command()
def show(cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="Folder of a cohort.")]) -> None:
    """Show patients, exclusions with their reasons, warnings, and how many patients each centre has."""
    from app.cohort.manifest import read_manifest

    _print(read_manifest(cohort))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", help="Folder for dicom/ and truth/; made if missing.")],
    patients: Annotated[int, typer.Option("--patients", min=1, help="How many.")] = 48,
    centre: Annotated[Centre, typer.Option("--centre", help="Simulated centre.")] = Centre.A,
    first: Annotated[int, typer.Option("--first", min=0, help="Number of the first: its seed.")] = 0,
    truth_form: Annotated[
        TruthFileForm, typer.Option("--truth-form", help="What the simulated reader saves.")
    ] = TruthFileForm.SEG,
    jobs: JobsOption = 1,
) -> None:
    """Write simulated patients as a clinic would bring its own; goes on where an earlier run stopped."""
    from app.cohort.simulation import Simulation, simulate_cohort

    log_to_terminal()
    end_on_sigterm()
    simulate_cohort(Simulation(centre, range(first, first + patients), out, truth_form, jobs))


def _print(manifest: CohortManifest) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if manifest.simulated:
        console.print("[bold]Simulated patients[/bold]")
    table = Table("patient", "scan", "acquired", "lesions", "ml", "truth", "registered")
    for row in _rows(manifest):
        table.add_row(*row)
    console.print(table)
    for centre, count in _counts(manifest):
        console.print(f"centre {centre}: {count}")
    for heading, lines in (("Excluded", _excluded(manifest)), ("Warnings", _warnings(manifest))):
        if lines:
            console.print(f"[bold]{heading}[/bold] ({len(lines)})")
        for line in lines:
            console.print(f"  {escape(line)}")


def _rows(manifest: CohortManifest) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for patient in manifest.patients:
        registered = ""
        if patient.registration is not None:
            registered = "yes" if patient.registration.fits else "; ".join(patient.registration.reasons)
        for scan in patient.scans:
            day = scan.acquired_at.date().isoformat() if scan.acquired_at else "unknown"
            numbers = (str(scan.lesions), f"{scan.tumour_ml:.1f}")
            rows.append((patient.id, scan.kind.value, day, *numbers, scan.truth_form.value, registered))
            registered = ""
    return rows


def _counts(manifest: CohortManifest) -> list[tuple[str, str]]:
    counts = []
    for centre in manifest.centres:
        patients = manifest.of_centre(centre)
        both = sum(len(patient.scans) == 2 for patient in patients)
        without = sum(scan.lesions == 0 for patient in patients for scan in patient.scans)
        summary = f"{len(patients)} patients, {both} with both scans, {without} scans without lesions"
        counts.append((centre, summary))
    return counts


def _excluded(manifest: CohortManifest) -> list[str]:
    return [
        f"{each.patient or each.centre}: {each.what}: {each.reason}{_place(each)}"
        for each in manifest.exclusions
    ]


def _place(exclusion: Exclusion) -> str:
    """The folder below the source, if there is one to show."""
    if exclusion.folder in ("", exclusion.source):
        return ""
    folder = Path(exclusion.folder)
    below = folder.is_relative_to(exclusion.source)
    return f" ({folder.relative_to(exclusion.source) if below else folder})"


def _warnings(manifest: CohortManifest) -> list[str]:
    of_patients = [f"{each.id}: {choice}" for each in manifest.patients for choice in each.choices]
    of_scans = [
        f"{each.id} {scan.kind}: {warning}"
        for each in manifest.patients
        for scan in each.scans
        for warning in scan.warnings
    ]
    return [*manifest.warnings, *of_patients, *of_scans]
