"""nnU-Net's checkpoint, a pickle, converted once to safetensors by a process with no rights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import MisconfiguredError
from app.inference.importing.confinement import EVERYTHING
from app.inference.models.store import sha256_of

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
