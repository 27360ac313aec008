"""``psma-node models``: list, verify, import and export models; list what shadow models found."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.model_import import import_model
from app.cli.options import ConfigOption, SetOption
from app.errors import ExitCode
from app.inference.policy import MAP_MODEL_PATH

if TYPE_CHECKING:
    from app.inference.models.card import ModelCard
    from app.node.records.comparisons import ShadowRow

WIDTH_IN_FILES = 200
"""Width of a table that goes to a file or another program."""

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
    """Compare every file of every model with the SHA-256 in its card; fail and name each one that differs."""
    from app.inference.models.store import ModelStore

    checks = ModelStore(models_dir).checks()
    for check in checks:
        if check.sound:
            typer.echo(f"{check.model_id}: {check.files} files as in its card")
        for problem in check.problems:
            typer.echo(f"{check.model_id}: {problem}", err=True)
    raise typer.Exit(ExitCode.DONE if all(check.sound for check in checks) else ExitCode.FAILED)


@app.command()
def export(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="As in `psma-node models list`.")],
    out: Annotated[Path, typer.Option("--out", help="The zip file to write.")],
    models_dir: FolderOption = Path("models"),
) -> None:
    """Write one model as a zip that `psma-node models import` takes; the same model gives the same bytes."""
    from app.inference.importing.install import export_package
    from app.inference.models.store import ModelStore, sha256_of

    card = export_package(ModelStore(models_dir), model_id, out)
    typer.echo(f"{out}: {card.id} ({card.role}, version {card.version}), SHA-256 {sha256_of(out)}")


app.command("import")(import_model)


@app.command()
def shadow(
    config: ConfigOption = None,
    overrides: SetOption = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Every comparison, for a spreadsheet.")
    ] = None,
) -> None:
    """List every comparison of a shadow model with the model that served, and sum up each pair of models."""
    from app.node.records.stores import open_known_stores
    from app.settings import load_settings

    stores = open_known_stores(load_settings(config, overrides or []).node)
    rows = stores.shadows.all()
    stores.close()
    if csv_file is not None:
        _write_csv(rows, csv_file)
        typer.echo(f"{csv_file}: {len(rows)} comparisons")
        return
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        typer.echo("no comparison yet; name shadow models in segment.shadow_models (docs/how-to/models.md)")
    pairs = sorted({(row.kind, row.serving_id, row.shadow_id) for row in rows})
    for kind, serving, name in pairs:
        of_pair = [r for r in rows if (r.kind, r.serving_id, r.shadow_id) == (kind, serving, name)]
        typer.echo(f"{kind}, {name} beside {serving}: {_summary(of_pair)}")


def _line(row: ShadowRow) -> str:
    head = (
        f"{row.compared_at:%Y-%m-%d %H:%M}  {row.study_instance_uid} r{row.revision}  {row.kind}  "
        f"{row.serving_id} {row.serving_lesions} lesion(s) {row.serving_ml:.1f} ml  {row.shadow_id} "
    )
    if row.problem:
        return f"{head}{row.problem}"
    dice = "both empty" if row.dice is None else f"DSC {row.dice:.3f}"
    return f"{head}{row.shadow_lesions} lesion(s) {row.shadow_ml or 0.0:.1f} ml  {dice}"


def _summary(rows: Sequence[ShadowRow]) -> str:
    """Medians: a few studies with another tumour load would pull means about."""
    done = [row for row in rows if not row.problem]
    dice = [row.dice for row in done if row.dice is not None]
    differences = [row.shadow_ml - row.serving_ml for row in done if row.shadow_ml is not None]
    words = [f"{len(done)} compared, {len(rows) - len(done)} without result"]
    if dice:
        words.append(f"DSC median {statistics.median(dice):.3f}, lowest {min(dice):.3f}")
    if differences:
        words.append(f"tumour volume median {statistics.median(differences):+.1f} ml against what was sent")
    return "; ".join(words)


def _write_csv(rows: Sequence[ShadowRow], path: Path) -> None:
    from app.node.records.comparisons import ShadowRow

    with path.open("w", newline="", encoding="utf-8") as stream:
        names = [item.name for item in fields(ShadowRow) if item.name != "id"]
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**asdict(row), "compared_at": row.compared_at.isoformat()} for row in rows)
