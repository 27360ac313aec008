"""``psma-node evaluate``: a validation's report again, or the node's own chain on a labelled cohort."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ConfigOption, SetOption
from app.errors import MisconfiguredError

NODE_FOLDER = Path("node-evaluation")
REPORT_FILE = Path("report.html")


def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|SCORES_CSV",
            exists=True,
            help="An experiment's folder or its scores.csv; with --node a cohort's folder.",
        ),
    ],
    node: Annotated[
        bool, typer.Option("--node", help="Run the node's chain, as app.yaml sets it, on the cohort.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The report, default report.html; with --node a folder, default node-evaluation."),
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of the patients' images; default: FOLDER/cohort."
        ),
    ] = None,
    centre: Annotated[
        str,
        typer.Option(help="With --node: only this centre's patients, such as one that trained no model."),
    ] = "",
    cards: Annotated[
        bool, typer.Option("--update-cards", help="With --node: write the metrics into the models' cards.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the study's table beside ours, every patient and figures into one HTML file.

    With --node every patient's DICOM goes through folder mode with the site's settings and models, and the
    SEG that comes out is compared with the truth: what is validated is what runs. It says which models may
    have been trained on these patients. Stopped, it goes on where it was. Exit code 1: a scan of the cohort
    gave no result; the report names it. 2: it can't be done, and why.
    """
    _refuse_what_would_be_ignored(
        {"--centre": centre, "--update-cards": cards, "--config": config, "--set": overrides}, cohort, node
    )
    if not node:
        _write_again(source, out or REPORT_FILE, cohort)
        return
    from app.node.watch.stop_signals import block_stop_signals

    block_stop_signals()
    from app.cli.evaluate_node import evaluate_and_report, run_node

    with _told(out or NODE_FOLDER):
        run = run_node(source, centre, (config, overrides or []))
        evaluate_and_report(run, (out or NODE_FOLDER).resolve(), cards)


def _refuse_what_would_be_ignored(of_node: dict[str, object], cohort: Path | None, node: bool) -> None:
    given = [name for name, value in of_node.items() if value]
    if given and not node:
        raise typer.BadParameter("only with --node", param_hint=", ".join(given))
    if cohort is not None and node:
        raise typer.BadParameter("not with --node: FOLDER is the cohort", param_hint="--cohort")


def _write_again(source: Path, report: Path, cohort: Path | None) -> None:
    from app.validation.report import report_from

    if report.is_dir():
        raise typer.BadParameter(f"{report} is a folder; give the file to write", param_hint="--out")
    with _told(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        lacking = report_from(source, report, cohort)
    typer.echo(f"written: {report}")
    for line in lacking:
        typer.echo(line)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """What the disk refuses is a sentence, not a traceback.

    Raises:
        MisconfiguredError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise MisconfiguredError(f"{error.filename or place}: {error.strerror or error}") from error
