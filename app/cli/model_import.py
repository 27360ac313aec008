"""``psma-node models import``: nnU-Net's training, or another node's package, becomes a model."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError

if TYPE_CHECKING:
    from app.inference.importing.model_import import ImportRequest
    from app.inference.importing.nnunet_results import TrainingChoice
    from app.inference.models.card import ModelCard

_SPECT_KEYS = {ModelRole.M2: "spect_model_without_prior", ModelRole.M4: "spect_model_with_prior"}

SourceArgument = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="nnU-Net's exported zip or results folder, or a package.")
]
RoleOption = Annotated[ModelRole | None, typer.Option("--role", help="M1 to M4: what it is to be used for.")]
IdOption = Annotated[str, typer.Option("--id", help="What to call it; the name of its folder.")]
FoldOption = Annotated[
    list[str] | None, typer.Option("--fold", help="0 to 4 or all; repeat it for an ensemble.")
]
CardOption = Annotated[
    Path | None, typer.Option("--card", help="YAML: channels, training_data, licence, intended_use, …")
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Read the pickle that nnU-Net's checkpoint is.")]
UseOption = Annotated[
    bool | None,
    typer.Option("--demonstration-only/--not-demonstration-only", help="Whether it may touch patients."),
]


def import_model(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: SourceArgument,
    role: RoleOption = None,
    model_id: IdOption = "",
    tracers: Annotated[str, typer.Option(help="Comma separated, as 68Ga-PSMA-11.")] = "",
    card: CardOption = None,
    training_data: Annotated[str, typer.Option(help="In words; instead of the card's.")] = "",
    demonstration_only: UseOption = None,
    configuration: Annotated[str, typer.Option(help="3d_fullres; where SOURCE holds several.")] = "",
    fold: FoldOption = None,
    checkpoint: Annotated[str, typer.Option(help="File in each fold's folder.")] = "checkpoint_final.pth",
    lesion_label: Annotated[str, typer.Option(help="What dataset.json calls the lesions.")] = "",
    trust: TrustOption = False,
    replace: Annotated[bool, typer.Option("--replace", help="Of a model that has this id.")] = False,
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
    _import_training(source, choice, request, Target(models_dir, replace))


@dataclass(frozen=True)
class Target:
    """Where the model goes."""

    models: Path
    replace: bool


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


def _import_training(source: Path, choice: TrainingChoice, request: ImportRequest, target: Target) -> None:
    from app.inference.importing.install import new_model
    from app.inference.importing.model_import import import_training
    from app.inference.importing.nnunet_results import in_folder, in_zip

    with (
        tempfile.TemporaryDirectory(prefix="psma-import-") as work,
        new_model(target.models, request.model_id, target.replace) as folder,
    ):
        is_folder = source.is_dir()
        trained = in_folder(source, choice) if is_folder else in_zip(source, choice, Path(work))
        imported = import_training(trained, request, folder)
    typer.echo("the checkpoint was read by a process of its own; enforced there:")
    for words in imported.enforced:
        typer.echo(f"  {words}")
    for words in imported.not_enforced:
        typer.echo(f"  NOT on this machine: {words}")
    _print_card(imported.card, target.models)


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
    if not card.metrics:
        from app.inference.models.store import settings_to_measure

        words = (f"segment.models_dir={models}", *settings_to_measure(card))
        options = " ".join(f"--set {shlex.quote(word)}" for word in words)
        typer.echo(f"not evaluated yet: psma-node evaluate --node COHORT --update-cards {options}")
    key = "pet_model" if card.role in (ModelRole.M1, ModelRole.M3) else _SPECT_KEYS[card.role]
    setting = f"segment.{key}: {card.id}"
    typer.echo(f"to use it, name it in app.yaml, for example {setting} (docs/how-to/models.md)")
