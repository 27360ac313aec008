"""Commands that work on a folder.

``psma-node inspect DIR`` shows what the node would make of it, and why, without segmenting anything.
``psma-node process IN OUT`` runs the chain on it, as a MONAI Application Package does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import ConfigOption, SetOption
from app.domain.decision import Decision
from app.errors import ExitCode

if TYPE_CHECKING:
    from app.dicom.reading.inspection import FolderInspection, SeriesInspection, Statistics, StudyInspection


def inspect(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, help="Folder with DICOM files of any names, nested or not."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    volumes: Annotated[
        Path | None,
        typer.Option(
            "--volumes",
            metavar="OUT",
            help="Write <modality>_<SeriesInstanceUID>_<unit>.nii.gz to OUT; unit is SUVbw, Bqml or HU, "
            "and SUL or SUVbsa where load.other_suv asks for them. "
            "Each series whose unit can be established is written, even when its study is rejected.",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Show for every series its role or the reason it has none, its geometry, unit, tracer and values.

    This is a dry run: nothing is segmented or sent, and the command succeeds when a study would be rejected.
    """
    from app.dicom.reading.inspection import inspect_folder
    from app.settings import load_settings

    settings = load_settings(config, overrides or [])
    found = inspect_folder(directory, settings.select, settings.load, volumes)
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=_plain))
    else:
        _print(found)
        if not found.studies:
            typer.echo(f"found no DICOM image in {directory}; give the folder that holds its files")


def _plain(value: object) -> object:
    """What JSON has no form of: records as their fields, decisions as they are printed, the rest as text."""
    if isinstance(value, Decision):
        value = value.printed()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def _print(found: FolderInspection) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from app.domain.selection.pair import rejection_lines

    console = Console()
    for study in found.studies:
        state = f"{study.pairs} pair(s) to analyse" if study.pairs else "rejected"
        console.print(f"[bold]Study {study.study_instance_uid}[/bold]: {state}")
        reasons = study.rejection.reasons if study.rejection else ()
        for line in rejection_lines(reasons, [series.verdict for series in study.series]):
            console.print(f"  {escape(line)}")
        for line in _pair_lines(study):
            console.print(f"  {escape(line)}")
        for series in study.series:
            role = series.verdict.role or "no role"
            title = f"{series.verdict.modality} {series.verdict.description}: {role}"
            table = Table(title=escape(title), title_justify="left", show_header=False, expand=True)
            table.add_column(width=9)
            table.add_column(overflow="fold", ratio=1)
            for label, cell in _rows(series):
                if cell:
                    table.add_row(label, escape(cell))
            console.print(table)
    for reason in found.unreadable:
        console.print(escape(str(reason)))


def _pair_lines(study: StudyInspection) -> list[str]:
    """Each pair with its verdict, then what no series shows: why it is refused, how it lies on its CT."""
    shown = {decision.line for series in study.series for decision in series.decisions}
    lines: list[str] = []
    for pair in study.checked:
        uids = f"{pair.functional_series_instance_uid} on CT {pair.ct_series_instance_uid}"
        lines.append(f"{pair.kind.value} pair, series {uids}: {pair.verdict.value}")
        lines += [f"  {reason}" for reason in (pair.rejection.reasons if pair.rejection else ())]
        lines += [f"  {decision.line}" for decision in pair.decisions if decision.line not in shown]
    return lines


def _rows(series: SeriesInspection) -> tuple[tuple[str, str], ...]:
    verdict = series.verdict
    return (
        ("series", f"{verdict.series_instance_uid}, {series.instances} image(s)"),
        ("why not", str(verdict.reason or "")),
        ("geometry", _geometry(series)),
        ("tracer", series.tracer),
        ("units", "\n".join(dict.fromkeys(filter(None, (series.units, *_factor(series)))))),
        ("times", _times(series)),
        ("values", "\n".join(_values(item) for item in series.statistics)),
        ("files", "\n".join(item.file for item in series.statistics if item.file)),
        ("problems", "\n".join(str(reason) for reason in series.problems)),
        ("decisions", "\n".join(decision.line for decision in series.decisions)),
    )


def _values(item: Statistics) -> str:
    from app.domain.volume import Unit

    unit = "HU" if item.unit == Unit.HU else item.unit  # UCUM's name for it is for machines
    return f"{item.minimum:.4g} … {item.maximum:.4g}, mean {item.mean:.4g} {unit}"


def _geometry(series: SeriesInspection) -> str:
    place = series.geometry
    if place is None:
        return ""
    size = " x ".join(str(n) for n in place.size_xyz)
    spacing = " x ".join(f"{mm:.3f}" for mm in place.spacing_mm)
    low, high = place.step_range_mm
    uneven = f"\nslices {low:.3f} to {high:.3f} mm apart" if high - low > 1e-3 else ""
    return (
        f"{size}\n{spacing} mm\nfrom {_point(place.first_voxel_mm)}\nto {_point(place.last_voxel_mm)}{uneven}"
    )


def _point(position_mm: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{mm:.1f}" for mm in position_mm) + ")"


def _factor(series: SeriesInspection) -> list[str]:
    """How stored values become numbers with a unit."""
    used: Any = series.quantification
    if used is None:
        return []
    lines = [used.source]
    if used.suv_per_bqml is not None:
        lines.append(
            f"SUV = Bq/ml x {used.suv_per_bqml:.6g} ({used.injected_activity_bq / 1e6:.1f} MBq, "
            f"{used.weight_kg:g} kg, T½ {used.half_life_s:g} s)"
        )
    if used.administered_at and used.reference_datetime:
        lines.append(f"injected {used.administered_at}, activity at {used.reference_datetime}")
    if used.uptake_s is not None:
        lines.append(f"uptake time {used.uptake_s / 60:.0f} min ({used.uptake_s / 3600:.1f} h)")
    return lines


def _times(series: SeriesInspection) -> str:
    """What each clock says of the instant that the image is decay corrected to, and which was taken."""
    witnesses = series.quantification.time_witnesses if series.quantification else ()
    return "\n".join(one.line for one in witnesses)


def process(
    input_folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="IN", envvar="HOLOSCAN_INPUT_PATH", help="Folder with DICOM files of any names."
        ),
    ] = None,
    output_folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", envvar="HOLOSCAN_OUTPUT_PATH", help="Folder for the results; it is created."
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Segment every PSMA PET/CT and 177Lu SPECT/CT study in IN; write SEG, SR, page, outcome.json to OUT.

    Studies are taken in order of time, so that a PET/CT in IN serves as the prior of a later SPECT/CT.
    The exit code is that of the most urgent study: failed, try again later, done, rejected.
    """
    from app.node.stop_signals import block_stop_signals, end_process, run_unless_stopped

    block_stop_signals()
    if input_folder is None or output_folder is None:
        raise typer.BadParameter("give IN and OUT, or set HOLOSCAN_INPUT_PATH and HOLOSCAN_OUTPUT_PATH")
    from app.files.outcome import remove_earlier_outcomes

    remove_earlier_outcomes(output_folder)
    from app.cli.options import device_cautions
    from app.node.watch.log import configure_logging
    from app.settings import load_settings

    settings = load_settings(config, overrides or [])
    configure_logging(None, "WARNING")
    for caution in (*settings.write.cautions, *device_cautions(settings)):
        logging.getLogger(__name__).warning(caution)
    from app.chain.folder import process_folder

    outcome = run_unless_stopped(lambda: process_folder(input_folder, output_folder, settings))
    if outcome is None:
        typer.echo("psma-node: stopped; only studies with an outcome.json of their own are whole", err=True)
        end_process(ExitCode.STOPPED)
    for line in outcome.lines():
        typer.echo(line)
    raise typer.Exit(ExitCode[outcome.status.name])
