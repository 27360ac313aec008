"""``psma-node demo``, ``phantom``: a simulated patient through scanner, node and PACS, or as DICOM files."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import ExitCode
from app.phantom.centres import Centre, Size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from app.demo.story import StudyShown
    from app.phantom.dicom.writer import WrittenPatient, WrittenScan
    from app.phantom.patient import SimulatedPatient

ROWS_SHOWN = 12


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and results; made if missing.")] = Path(
        "demo-output"
    ),
    patient: Annotated[int, typer.Option(min=0, help="Simulated patient; training saw 0 to 79 of A.")] = 2001,
    centre: Annotated[str, typer.Option(help="Simulated centre: A or B.")] = "A",
    patience_s: Annotated[float, typer.Option(help="Longest wait for a study, seconds.")] = 600.0,
) -> None:
    """Send a simulated PET/CT, then the SPECT/CT weeks later; get SEG, SR and page back from a PACS.

    Starts a PACS (Orthanc where installed) and a node on free ports of this machine, and stops them again.
    """
    from rich.console import Console

    from app.demo.processes import ProgramFailedError
    from app.demo.story import DemoFailedError, DemoRequest, run_demo

    if centre.upper() not in list(Centre):
        raise typer.BadParameter(f"found {centre}, expected A or B", param_hint="--centre")
    console = Console()
    begun = time.monotonic()
    # SIGTERM cleans up as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TerminalNarrator(console) as narrator:
        try:
            shown = run_demo(DemoRequest(out, patient, Centre(centre.upper()), patience_s), narrator)
        except (DemoFailedError, ProgramFailedError, LookupError) as error:
            narrator.fail(str(error))
            raise typer.Exit(ExitCode.FAILED) from error
        except KeyboardInterrupt as stop:
            narrator.fail("stopped; node, PACS and temporary files are gone")
            raise typer.Exit(ExitCode.STOPPED) from stop
    for study in shown:
        _print_study(console, study)
    _print_ending(console, out, time.monotonic() - begun)


class TerminalNarrator:
    """Steps with a spinner, a tick and a time; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = console.status("")
        self._step = ""
        self._begun = 0.0
        self._notes: list[str] = []

    def __enter__(self) -> TerminalNarrator:
        self._spinner.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._tick()
        self._spinner.stop()

    def step(self, text: str) -> None:
        self._tick()
        self._step, self._begun = text, time.monotonic()
        self._spinner.update(text)

    def progress(self, text: str) -> None:
        self._spinner.update(f"{self._step}: {text}")

    def note(self, text: str) -> None:
        self._notes.append(text)

    def fail(self, text: str) -> None:
        self._spinner.stop()
        self._console.print(f"✗ {self._step}", style="red", highlight=False)
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _tick(self) -> None:
        if self._step:
            took = time.monotonic() - self._begun
            self._console.print(f"[green]✓[/] {self._step} [dim]({took:.1f} s)[/]", highlight=False)
        for text in self._notes:
            self._console.print(f"  {text}", style="dim", markup=False, highlight=False)
        self._step, self._notes = "", []


def _print_study(console: Console, study: StudyShown) -> None:
    from app.domain.codes import PRIOR, SUMMARY

    found, shown = study.comparison, (SUMMARY.meaning, PRIOR.meaning)
    console.print()
    console.print(_table(study))
    if len(found.matches) > ROWS_SHOWN:
        console.print(f"  … and {len(found.matches) - ROWS_SHOWN} more, all of them on the page", style="dim")
    lines = [
        f"{found.hit_count} of {found.true_count} lesions found, {found.false_positive_count} false; "
        f"DSC {_text(found.dice, '.2f')}, PPV {_text(found.precision, '.2f')}",
        f"Model: {study.model}",
        *(f"{item.about}: {item.text}" for item in study.statements if item.about in shown),
    ]
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False)


def _table(study: StudyShown) -> Table:
    from rich.table import Table

    table = Table(title=f"{study.title}: lesions in the report against the truth", title_justify="left")
    for heading in ("true lesion", "true ml", "found as", "found ml", "SUVmax"):
        table.add_column(heading, justify="right")
    for match in study.comparison.matches[:ROWS_SHOWN]:
        table.add_row(
            _text(match.true_number, "d"),
            _text(match.true_ml, ".1f"),
            "–" if match.found_number is None else f"Lesion {match.found_number}",
            _text(match.found_ml, ".1f"),
            _text(_suv_max(study, match.found_number), ".1f"),
        )
    return table


def _suv_max(study: StudyShown, number: int | None) -> float | None:
    lesion = next((item for item in study.lesions if item.tracking_identifier == f"Lesion {number}"), None)
    found = lesion.numbers if lesion is not None else {}
    return next((value for name, (value, _) in found.items() if "SUV" in name and "Max" in name), None)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _print_ending(console: Console, out: Path, took_s: float) -> None:
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    console.print()
    console.print(f"Pictures and DICOM results: [bold]{out.resolve()}[/]", highlight=False, soft_wrap=True)
    used = f"Took {took_s / 60:.1f} minutes; the node used {peak_gb:.1f} GB of memory at most."
    console.print(f"{used} Research use only.", highlight=False)


def phantom(
    patient: Annotated[int, typer.Option("--patient", min=0, help="Number of the patient: the seed.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; made if missing.")],
    centre: Annotated[
        Centre, typer.Option("--centre", help="Simulated centre, with its own scanners.")
    ] = Centre.A,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Also write anterior MIPs as PNG to this folder.")
    ] = None,
    counts_only: Annotated[
        bool, typer.Option("--counts-only", help="SPECT in counts, without a Real World Value Mapping.")
    ] = False,
    size: Annotated[
        Size, typer.Option("--size", help="full: as large as a clinic's scans; takes a minute and 2.2 GB.")
    ] = Size.NORMAL,
) -> None:
    """Write a simulated patient: PET/CT before therapy, 177Lu SPECT/CT weeks later, and the true lesions."""
    from app.phantom.dicom.writer import write_patient
    from app.phantom.patient import simulate_patient

    simulated = simulate_patient(patient, centre, size)
    written = write_patient(simulated, out, rwvm=not counts_only)
    for line in _lines(simulated, written):
        typer.echo(line)
    if pictures is not None:
        for path in _write_pictures(simulated, pictures):
            typer.echo(f"picture     {path}")


def _lines(patient: SimulatedPatient, written: WrittenPatient) -> list[str]:
    lesions = (patient.pet.truth.count, patient.spect.truth.count)
    return [
        f"patient     SIMULATED^{patient.name}, {patient.weight_kg:g} kg, {patient.height_m:.2f} m",
        f"PET/CT      {_count(written.pet)} instances, {lesions[0]} lesions: {_folders(written.pet)}",
        f"SPECT/CT    {_count(written.spect)} instances, {lesions[1]} lesions: {_folders(written.spect)}",
    ]


def _count(scan: WrittenScan) -> int:
    return len(scan.images) + (scan.truth is not None)


def _folders(scan: WrittenScan) -> str:
    folders = [scan.functional[0].parent, scan.ct[0].parent, *([scan.truth] if scan.truth else [])]
    return ", ".join(str(folder) for folder in folders)


def _write_pictures(patient: SimulatedPatient, folder: Path) -> list[Path]:
    from app.phantom.patient import PET_BLACK_SUV, SPECT_BLACK_SUV, picture, write_row

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, scan, black in (("pet", patient.pet, PET_BLACK_SUV), ("spect", patient.spect, SPECT_BLACK_SUV)):
        path = folder / f"phantom_{patient.name}_{name}.png"
        write_row([picture(scan, black, with_truth) for with_truth in (False, True)], path)
        paths.append(path)
    return paths
