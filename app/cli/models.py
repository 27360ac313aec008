"""``psma-node models list | verify``: what is installed, and whether it is what its cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The models: list them, verify their files.")

FolderOption = Annotated[Path, typer.Option("--models-dir", help="Folder of the models, one folder each.")]


@app.command("list")
def list_models(models_dir: FolderOption = Path("models")) -> None:
    """Every model with its role, version, tracers and Dice coefficient."""
    from rich.console import Console
    from rich.table import Table

    from app.inference.model_store import ModelStore

    table = Table("id", "role", "version", "tracers", "mean DSC (the card has more)", "use")
    for card in ModelStore(models_dir).cards():
        dice = [metric for metric in card.metrics if metric.name == "DSC" and metric.mean is not None]
        lines = (f"{metric.mean:.2f} {metric.modality}, n = {metric.n}" for metric in dice)
        use = "demonstration only" if card.demonstration_only else "see the card's intended use"
        table.add_row(card.id, card.role.value, card.version, ", ".join(card.tracers), "\n".join(lines), use)
    Console().print(table)


@app.command()
def verify(models_dir: FolderOption = Path("models")) -> None:
    """Compare every file of every model with the SHA-256 in its card; stop at the first that differs."""
    from app.inference.model_store import ModelStore

    store = ModelStore(models_dir)
    for card in store.cards():
        store.verify(card)
        typer.echo(f"{card.id}: {len(card.files)} files as in its card")
