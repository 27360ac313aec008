"""A training as nnU-Net leaves it: found in its results folder or exported zip, its checkpoints converted.

A checkpoint is a pickle. A process with no rights reads it once and writes its weights as safetensors.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import MisconfiguredError
from app.inference.importing.confinement import EVERYTHING
from app.inference.importing.install import member_names, read_json, unpack
from app.inference.models.card import DATASET_FILE, PLANS_FILE
from app.inference.models.store import sha256_of

FINAL_CHECKPOINT = "checkpoint_final.pth"
FOLD = re.compile(r"fold_(\d{1,3}|all)")


@dataclass(frozen=True)
class TrainingChoice:
    """Which training of a source is meant.

    Attributes:
        configuration: ``3d_fullres``; empty for the only one.
        folds: ``0``, ``all``; several are an ensemble; none for the only one.
        checkpoint: the file's name in each fold's folder.
    """

    configuration: str = ""
    folds: tuple[str, ...] = ()
    checkpoint: str = FINAL_CHECKPOINT


@dataclass(frozen=True)
class TrainedModel:
    """One training (or several folds of it) as nnU-Net left it."""

    plans: dict[str, Any]
    dataset: dict[str, Any]
    checkpoints: tuple[tuple[str, Path], ...]
    """Name (``fold_0/checkpoint_final.pth``) and file of each."""


def in_folder(folder: Path, choice: TrainingChoice) -> TrainedModel:
    """The training in ``folder`` or below it.

    Raises:
        MisconfiguredError: none is there, or it is not clear which is meant.
    """
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    members = _members(folder, files, choice)
    return _trained({name: folder / member for name, member in members.items()})


def in_zip(path: Path, choice: TrainingChoice, work: Path) -> TrainedModel:
    """The training in nnU-Net's exported zip; only the files that are needed are unpacked, below ``work``.

    Raises:
        MisconfiguredError: as :func:`in_folder`, or the zip is not what nnU-Net exports.
    """
    members = _members(path, member_names(path), choice)
    places = {name: work / name.replace("/", "-") for name in members}
    unpack(path, {member: places[name] for name, member in members.items()})
    return _trained(places)


def _members(source: Path, files: Iterable[str], choice: TrainingChoice) -> dict[str, str]:
    """For each file needed its path in the source: plans, data set, and a checkpoint for each fold."""
    present = set(files)
    root = _root(source, present, choice)
    trained = {fold for file in present if (fold := _fold_of(file, root, choice.checkpoint))}
    folds = _folds(source, sorted(trained), choice)
    wanted = [PLANS_FILE, DATASET_FILE, *(f"fold_{fold}/{choice.checkpoint}" for fold in folds)]
    return {name: str(root / name) for name in wanted}


def _root(source: Path, files: set[str], choice: TrainingChoice) -> PurePosixPath:
    """The folder of the training, named ``trainer__plans__configuration``."""
    found = sorted({PurePosixPath(file).parent for file in files if PurePosixPath(file).name == PLANS_FILE})
    roots = [root for root in found if str(root / DATASET_FILE) in files]
    if choice.configuration:
        roots = [root for root in roots if root.name.split("__")[-1] == choice.configuration]
    if not roots:
        wanted = f" for {choice.configuration}" if choice.configuration else ""
        raise MisconfiguredError(
            f"{source}: no {PLANS_FILE} with {DATASET_FILE} in one folder{wanted}; give the zip of "
            "nnUNetv2_export_model_to_zip or a results folder (…/nnUNetTrainer__nnUNetPlans__3d_fullres)"
        )
    if len(roots) > 1:
        raise MisconfiguredError(
            f"{source}: holds {', '.join(map(str, roots))}; say which with --configuration, "
            "or give the folder of one"
        )
    return roots[0]


def _fold_of(file: str, root: PurePosixPath, checkpoint: str) -> str:
    path = PurePosixPath(file)
    match = FOLD.fullmatch(path.parent.name)
    return match.group(1) if match and path.name == checkpoint and path.parent.parent == root else ""


def _folds(source: Path, present: Sequence[str], choice: TrainingChoice) -> tuple[str, ...]:
    if not present:
        raise MisconfiguredError(f"{source}: no fold has a {choice.checkpoint}; has the training ended?")
    if choice.folds:
        missing = [fold for fold in choice.folds if fold not in present]
        if missing:
            raise MisconfiguredError(
                f"{source}: no {choice.checkpoint} for fold {', '.join(missing)}; found {', '.join(present)}"
            )
        return tuple(dict.fromkeys(choice.folds))
    if "all" in present:
        return ("all",)
    if len(present) > 1:
        each = " ".join(f"--fold {fold}" for fold in present)
        raise MisconfiguredError(
            f"{source}: holds the folds {', '.join(present)}; choose one (--fold {present[0]}), or several "
            f"({each}): their outputs are then averaged, as nnU-Net does, at the price of as many runs"
        )
    return tuple(present)


def _trained(places: dict[str, Path]) -> TrainedModel:
    checkpoints = tuple((name, path) for name, path in places.items() if name.startswith("fold_"))
    return TrainedModel(read_json(places[PLANS_FILE]), read_json(places[DATASET_FILE]), checkpoints)


WAIT_S = 1200.0
"""Beyond the processor time that the process may use."""

ANSWER_BYTES = 1 << 16
PROGRAM = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from app.inference.importing.checkpoint_worker import main
main(int(sys.argv[2]))
"""


class CheckpointFacts(BaseModel):
    """What a checkpoint says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: str
    trainer: str
    epochs: int | None
    mirroring_axes: tuple[int, ...] = Field(max_length=3)


class _Answer(BaseModel):
    """What the process says; it has read a hostile file, so what it says is checked too."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: CheckpointFacts | None = None
    refused: str = ""
    enforced: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A checkpoint whose weights now are in a file that runs no code.

    Attributes:
        sha256: of the checkpoint.
        enforced: what the process that read it was forbidden, in words.
    """

    facts: CheckpointFacts
    sha256: str
    enforced: tuple[str, ...]

    @property
    def not_enforced(self) -> tuple[str, ...]:
        """What this machine did not offer."""
        return tuple(words for words in EVERYTHING if words not in self.enforced)


def convert_checkpoint(checkpoint: Path, weights: Path) -> ConvertedCheckpoint:
    """Read ``checkpoint`` in a process without network, files or environment; write ``weights``.

    Raises:
        MisconfiguredError: it names anything that a checkpoint does not need, is none, or can't be read.
    """
    try:
        sha256, opened = sha256_of(checkpoint), checkpoint.open("rb")
    except OSError as error:
        raise MisconfiguredError(f"{checkpoint}: can't be read ({error.strerror})") from error
    with opened as source, weights.open("wb") as output:
        answer = _answer(source, output, checkpoint.name)
    if answer.checkpoint is None:
        weights.unlink()
        raise MisconfiguredError(
            f"{checkpoint.name} (SHA-256 {sha256}) is refused: {answer.refused}. Nothing in it was run. "
            "If it is yours, load it where it was trained and save it again with nnU-Net 2.8 "
            "(docs/how-to/models.md)"
        )
    return ConvertedCheckpoint(answer.checkpoint, sha256, answer.enforced)


def _answer(source: IO[bytes], output: IO[bytes], name: str) -> _Answer:
    descriptor = output.fileno()
    command = [sys.executable, "-I", "-c", PROGRAM, json.dumps(sys.path), str(descriptor)]
    with tempfile.TemporaryDirectory(prefix="psma-checkpoint-") as empty:
        try:
            ended = subprocess.run(  # noqa: S603  this very program; nothing of the file is in the command
                command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=empty,
                env={"HOME": empty, "OMP_NUM_THREADS": "1"},
                pass_fds=(descriptor,),
                start_new_session=True,
                timeout=WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MisconfiguredError(f"{name}: not read within {WAIT_S:g} s, and given up") from error
    try:
        return _Answer.model_validate_json(ended.stdout[:ANSWER_BYTES])
    except ValidationError:
        refused = f"the process that read it ended with code {ended.returncode} and said nothing of use"
        return _Answer(refused=refused)
