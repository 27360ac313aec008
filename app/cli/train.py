"""``psma-node train`` and ``psma-node evaluate``: the demo models, made and measured."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.domain.analysis import ModelRole

EXIT_TERMINATED = 128 + signal.SIGTERM
"""What a shell reports for a program that SIGTERM ended."""

ModelsOption = Annotated[
    str, typer.Option("--models", metavar="M1,M2,…", help="Which models, in this order.")
]
FolderOption = Annotated[Path, typer.Option("--models-dir", help="Folder of the models, one folder each.")]
ParallelOption = Annotated[int, typer.Option("--parallel", min=1, help="At once, one core each.")]


def train(  # noqa: PLR0913, PLR0917 - one parameter an option
    models: ModelsOption = "M1,M4,M2,M3",
    patients: Annotated[int, typer.Option(min=2, help="Simulated patients 0 to N-1.")] = 80,
    centre: Annotated[str, typer.Option(help="Centre of the simulated patients.")] = "A",
    iterations: Annotated[
        int, typer.Option(min=50, help="Optimiser steps a model, a multiple of 50.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of weights, sampling and priors.")] = 1,
    work: Annotated[Path, typer.Option(help="Folder for cohort, checkpoints and logs.")] = Path(
        ".cache/training/run"
    ),
    models_dir: FolderOption = Path("models"),
    parallel: ParallelOption = 2,
) -> None:
    """Train the models with nnU-Net on simulated patients; goes on where an earlier run stopped."""
    from app.training.experiment import Experiment, TrainingFailedError, run

    _log_to_terminal()
    _end_children_on_sigterm()
    with _usage_errors():
        experiment = Experiment(
            parse_roles(models), patients, centre, iterations, seed, work.resolve(), models_dir, parallel
        )
        experiment.request(experiment.roles[0])  # checks the numbers before hours are spent
    try:
        run(experiment)
    except TrainingFailedError as error:
        typer.echo(f"psma-node: {error}", err=True)
        raise typer.Exit(1) from error


def evaluate(
    models: ModelsOption = "M1,M2,M3,M4",
    patients: Annotated[
        str,
        typer.Option(metavar="CENTRE:FIRST-LAST,…", help="Simulated patients that training has not seen."),
    ] = "A:1000-1014,B:1000-1019",
    models_dir: FolderOption = Path("models"),
    out: Annotated[Path | None, typer.Option(help="CSV file with every patient.")] = None,
    update_cards: Annotated[
        bool, typer.Option("--update-cards", help="Write the metrics into the cards.")
    ] = False,
    parallel: ParallelOption = 2,
) -> None:
    """Measure the models on unseen simulated patients with the product's own segmenter."""
    from app import __version__
    from app.inference.model_card import MetricSource
    from app.training import report
    from app.training.evaluate import Cohort
    from app.training.evaluate import evaluate as run_evaluation

    _log_to_terminal()
    _end_children_on_sigterm()
    with _usage_errors():
        roles = parse_roles(models)
        cohorts = [Cohort.parse(part) for part in patients.split(",")]
    scores = run_evaluation(models_dir, roles, cohorts, parallel)
    if out is not None:
        report.write_csv(scores, out)
    if update_cards:
        command = f"psma-node evaluate --models {shlex.quote(models)} --patients {shlex.quote(patients)}"
        today = datetime.now(UTC).date().isoformat()
        source = MetricSource(command=command, software_version=__version__, date=today)
        report.update_cards(models_dir, scores, source)
    _print_table(["model", "modality", "cohort", "n", *report.MEASURES], report.rows(scores))


def parse_roles(text: str) -> tuple[ModelRole, ...]:
    """``M1,M4`` in the order given.

    Raises:
        ValueError: a name is not a model's.
    """
    return tuple(ModelRole(name.strip()) for name in text.split(","))


@contextmanager
def _usage_errors() -> Iterator[None]:
    """A value that an option can't have is the caller's error, not a traceback."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _end_children_on_sigterm() -> None:
    """An orderly exit, as on Ctrl-C: without it, processes that compute would outlive the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)


def _print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
