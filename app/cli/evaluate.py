"""``psma-node evaluate``: the report of an experiment, made again from what the experiment left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES_CSV|FOLDER", exists=True, help="An experiment's folder, or its scores.csv."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The report, one HTML file.")] = Path("report.html"),
    cohort: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of the patients' images; default: FOLDER/cohort."
        ),
    ] = None,
) -> None:
    """Write the validation's report: tables beside the study's, comparisons, figures, every patient."""
    from app.training.study_report import report_from

    report_from(source, out, cohort)
    typer.echo(f"written: {out}")
