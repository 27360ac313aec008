"""``psma-node models``: list, verify, import and export models; list what shadow models found."""

from __future__ import annotations

import csv
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import CommandGroup, ConfigOption, SetOption
from app.domain.decision import ModelRole
from app.errors import ExitCode, MisconfiguredError
from app.inference.policy import MAP_MODEL_PATH

if TYPE_CHECKING:
    from app.inference.importing.model_import import ImportRequest
    from app.inference.importing.nnunet_results import TrainingChoice
    from app.inference.models.card import ModelCard
    from app.node.records.results import ShadowRow

WIDTH_IN_FILES = 200
"""Width of a table that goes to a file or another program."""

app = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, help="The models: list, verify, import, export; shadow models."
)

FolderOption = Annotated[
    Path, typer.Option("--models-dir", envvar=MAP_MODEL_PATH, help="Folder of the models, one folder each.")
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


_SPECT_KEYS = {ModelRole.M2: "spect_model_without_prior", ModelRole.M4: "spect_model_with_prior"}

SourceArgument = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="nnU-Net's exported zip or results folder, or a package.")
]
RoleOption = Annotated[
    ModelRole | None, typer.Option("--role", help="The role that the model is to have: M1 to M4.")
]
IdOption = Annotated[str, typer.Option("--id", help="Name of the model, and of its folder.")]
FoldOption = Annotated[
    list[str] | None,
    typer.Option("--fold", help="Fold to take, 0 to 4 or all; repeat the option for an ensemble."),
]
CardOption = Annotated[
    Path | None,
    typer.Option("--card", help="YAML file with channels, training_data, licence, intended_use, …"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Read the checkpoint, which is a pickle, in a confined process.")
]
UseOption = Annotated[
    bool | None,
    typer.Option(
        "--demonstration-only/--not-demonstration-only",
        help="For demonstration only, never for patients; or for patients.",
    ),
]


@app.command("import")
def import_model(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: SourceArgument,
    role: RoleOption = None,
    model_id: IdOption = "",
    tracers: Annotated[
        str, typer.Option(help="Tracers that it was trained on, separated by commas, such as 68Ga-PSMA-11.")
    ] = "",
    card: CardOption = None,
    training_data: Annotated[
        str, typer.Option(help="What it was trained on, in words; instead of the card's.")
    ] = "",
    demonstration_only: UseOption = None,
    configuration: Annotated[
        str, typer.Option(help="Configuration to take if SOURCE holds several, such as 3d_fullres.")
    ] = "",
    fold: FoldOption = None,
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint to take from each fold's folder.")
    ] = "checkpoint_final.pth",
    lesion_label: Annotated[str, typer.Option(help="Name of the lesions in dataset.json.")] = "",
    trust: TrustOption = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an installed model of this id.")
    ] = False,
    models_dir: Annotated[Path, typer.Option("--models-dir", help="Folder of the models.")] = Path("models"),
) -> None:
    """Install a model: the weights converted to a format that runs no code, everything checked, with a card.

    A source that is refused leaves nothing behind.
    """
    if not source.exists():
        raise MisconfiguredError(f"{source}: not found")
    if _is_package(source, role, model_id):
        _import_package(source, models_dir, replace)
        return
    if role is None or not model_id:
        raise MisconfiguredError("give --role (M1 to M4) and --id for a training of nnU-Net")
    if not trust:
        raise _untrusted(source)
    from app.inference.importing.model_import import ImportRequest, read_statement
    from app.inference.importing.nnunet_results import TrainingChoice

    options = {
        "tracers": [name.strip() for name in tracers.split(",")] if tracers else None,
        "training_data": training_data or None,
        "demonstration_only": demonstration_only,
    }
    request = ImportRequest(model_id, role, read_statement(role, card, options), lesion_label)
    choice = TrainingChoice(configuration, tuple(fold or ()), checkpoint)
    _import_training(source, choice, request, models_dir, replace)


def _is_package(source: Path, role: ModelRole | None, model_id: str) -> bool:
    from app.inference.importing.install import package_id

    packaged = package_id(source) if source.is_file() else ""
    if packaged and (role is not None or model_id not in ("", packaged)):
        raise MisconfiguredError(
            f"{source} is the package of {packaged}, and its card says what it is; leave out --role and --id"
        )
    return bool(packaged)


def _import_package(source: Path, models: Path, replace: bool) -> None:
    from app.inference.importing.install import import_package, new_model, package_id

    with new_model(models, package_id(source), replace) as folder:
        card = import_package(source, folder)
    _print_card(card, models)


def _import_training(
    source: Path, choice: TrainingChoice, request: ImportRequest, models: Path, replace: bool
) -> None:
    from app.inference.importing.install import new_model
    from app.inference.importing.model_import import import_training
    from app.inference.importing.nnunet_results import in_folder, in_zip

    with (
        tempfile.TemporaryDirectory(prefix="psma-import-") as work,
        new_model(models, request.model_id, replace) as folder,
    ):
        is_folder = source.is_dir()
        trained = in_folder(source, choice) if is_folder else in_zip(source, choice, Path(work))
        imported = import_training(trained, request, folder)
    typer.echo("the checkpoint was read by a process of its own; enforced there:")
    for words in imported.enforced:
        typer.echo(f"  {words}")
    for words in imported.not_enforced:
        typer.echo(f"  NOT on this machine: {words}")
    _print_card(imported.card, models)


def _untrusted(source: Path) -> MisconfiguredError:
    """What --trust would do, and to which bytes."""
    from app.inference.models.store import sha256_of

    files = [source] if source.is_file() else sorted(source.rglob("*.pth"))
    sums = "".join(f"\n  {sha256_of(file)}  {file.name if file == source else file}" for file in files)
    return MisconfiguredError(
        f"{source} is not opened without --trust: nnU-Net's checkpoints are Python pickles, which can hold "
        "code. With --trust it is read once, by a process without network, files and environment, that takes "
        "nothing but tensors and numbers, and refuses the file at the first other name; the weights are then "
        "kept as safetensors, which hold no code, and the pickle is not used again. Compare the SHA-256 with "
        f"what the model's maker says:{sums or ' no checkpoint found'}"
    )


def _print_card(card: ModelCard, models: Path) -> None:
    typer.echo(f"{models / card.id}: {card.role}, version {card.version}, weights {card.weights_sha256}")
    from app.inference.models.store import VerifiedModel
    from app.inference.running.segmenter import compared_numbers

    typer.echo(compared_numbers(VerifiedModel(card, models / card.id)))
    if not card.metrics:
        from app.inference.models.store import settings_to_measure

        words = (f"segment.models_dir={models}", *settings_to_measure(card))
        options = " ".join(f"--set {shlex.quote(word)}" for word in words)
        typer.echo(f"not evaluated yet: psma-node evaluate --node COHORT --update-cards {options}")
    key = "pet_model" if card.role in (ModelRole.M1, ModelRole.M3) else _SPECT_KEYS[card.role]
    setting = f"segment.{key}: {card.id}"
    typer.echo(f"to use it, name it in app.yaml, for example {setting} (docs/how-to/models.md)")


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
        typer.echo(f"{kind}, {name} next to {serving}: {_summary(of_pair)}")


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
    from app.node.records.results import ShadowRow

    with path.open("w", newline="", encoding="utf-8") as stream:
        names = [item.name for item in fields(ShadowRow) if item.name != "id"]
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**asdict(row), "compared_at": row.compared_at.isoformat()} for row in rows)
