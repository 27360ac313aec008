"""``psma-node models``: what is installed, is it what its cards say, and how it comes and goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.model_import import import_model
from app.cli.shadows import shadow
from app.inference.policy import MAP_MODEL_PATH

if TYPE_CHECKING:
    from app.inference.models.card import ModelCard

WIDTH_IN_FILES = 200
"""Of a table that goes to a file or another program."""

app = typer.Typer(no_args_is_help=True, help="The models: list, verify, import, export; shadow models.")

FolderOption = Annotated[
    Path,
    typer.Option("--models-dir", envvar=MAP_MODEL_PATH, help="Folder of the models, one folder each."),
]


@app.command("list")
def list_models(models_dir: FolderOption = Path("models")) -> None:
    """Every model with its role, version, tracers, and Dice coefficient by group of patients."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from app.inference.models.store import ModelStore

    cards = ModelStore(models_dir).cards()
    longest = max((len(card.id) for card in cards), default=0)
    of_ids = Column("id", min_width=longest, no_wrap=True, overflow="fold")  # an id is there to be typed
    rest = ("role", "version", "tracers", "mean DSC (the card has more)", "use")
    table = Table(of_ids, *(Column(name, overflow="fold") for name in rest))
    for card in cards:
        use = "demonstration only" if card.demonstration_only else "see the card's intended use"
        measured = "\n".join(_dice(card)) or "not evaluated yet"
        row = (card.id, card.role.value, card.version, ", ".join(card.tracers), measured, use)
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES).print(table)


def _dice(card: ModelCard) -> list[str]:
    return [
        f"{metric.mean:.2f} {metric.modality}, n = {metric.n} ({metric.cohort})"
        for metric in card.metrics
        if metric.name == "DSC" and metric.mean is not None
    ]


@app.command()
def verify(models_dir: FolderOption = Path("models")) -> None:
    """Compare every file of every model with the SHA-256 in its card, and name each one that differs.

    Exit code: 0 all is as the cards say, 1 something differs, 2 no such folder.
    """
    from app.inference.models.store import ModelStore

    checks = ModelStore(models_dir).checks()
    for check in checks:
        if check.sound:
            typer.echo(f"{check.model_id}: {check.files} files as in its card")
        for problem in check.problems:
            typer.echo(f"{check.model_id}: {problem}", err=True)
    raise typer.Exit(0 if all(check.sound for check in checks) else 1)


@app.command()
def export(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="As in `psma-node models list`.")],
    out: Annotated[Path, typer.Option("--out", help="The zip file to write.")],
    models_dir: FolderOption = Path("models"),
) -> None:
    """Write one model as a zip that `psma-node models import` takes; the same model gives the same bytes."""
    from app.inference.importing.model_package import export_package
    from app.inference.models.store import ModelStore, sha256_of

    card = export_package(ModelStore(models_dir), model_id, out)
    typer.echo(f"{out}: {card.id} ({card.role}, version {card.version}), SHA-256 {sha256_of(out)}")


app.command("import")(import_model)
app.command()(shadow)
