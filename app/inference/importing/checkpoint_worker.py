"""The process that reads one nnU-Net checkpoint: a pickle in on standard input, safetensors out.

Nothing that a pickle names is called, but PyTorch's own tensor rebuilders and the number types below: its
restricted unpickler refuses the rest before it does anything. The process has given up its rights besides
(:mod:`app.inference.importing.confinement`), for the case that the unpickler has a fault. Started by
:mod:`app.inference.importing.nnunet_results`, and by nothing else.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from app.inference.importing.confinement import give_up_rights, leave_network
from app.inference.models.network import distinct_weights

MEMORY_FACTOR, MEMORY_RESERVE_BYTES = 4, 2 << 30
"""The weights are in memory up to three times (file, tensors, output)."""
WRITTEN_RESERVE_BYTES = 1 << 20
PROCESSOR_S = 900
NAME_LENGTH = 200
GLOBAL_NAME = re.compile(r"GLOBAL ([\w.]+)")
NUMBER_CODES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


class RefusedCheckpointError(Exception):
    """The file is not what a checkpoint may be; the message may be shown."""


class NumberType:
    """Stands in for ``numpy.dtype`` in a checkpoint: a type of plain numbers, or nothing."""

    def __init__(self, code: object, *_copy: object) -> None:
        if code not in NUMBER_CODES:
            raise RefusedCheckpointError("it holds a numpy value that is no plain number")
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        """Of numpy's state only the byte order is of use."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def number(kind: object, raw: object) -> float:
    """Stands in for ``numpy.core.multiarray.scalar``: nnU-Net logs losses as numpy numbers."""
    if not isinstance(kind, NumberType) or not isinstance(raw, bytes):
        raise RefusedCheckpointError("it holds a numpy value that is no plain number")
    values = np.frombuffer(raw, np.dtype(kind.order + kind.code))
    return float(values[0])


ALLOWED: list[Any] = [
    (NumberType, "numpy.dtype"),
    (number, "numpy.core.multiarray.scalar"),
    (number, "numpy._core.multiarray.scalar"),
]
"""What a checkpoint may name in addition to PyTorch's own tensors, and what stands in for it."""


def main(output_descriptor: int) -> None:
    """Read standard input; write weights to ``output_descriptor``, what they are to standard output."""
    enforced = leave_network()
    size = os.fstat(sys.stdin.fileno()).st_size
    _import_everything()
    enforced += give_up_rights(
        MEMORY_FACTOR * size + MEMORY_RESERVE_BYTES, size + WRITTEN_RESERVE_BYTES, PROCESSOR_S
    )
    answer: dict[str, Any]
    try:
        answer = _converted(sys.stdin.buffer, output_descriptor)
    except RefusedCheckpointError as error:
        answer = {"refused": str(error)}
    except Exception as error:  # noqa: BLE001  whatever a hostile file provokes is an answer too
        answer = {"refused": f"PyTorch can't read it ({type(error).__name__})"}
    sys.stdout.write(json.dumps({**answer, "enforced": enforced}))
    sys.stdout.flush()


def _import_everything() -> None:
    """Once no file can be opened any more, nothing can be imported: go through the motions before."""
    import torch
    from safetensors.torch import save

    torch.set_num_threads(1)
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1), "b": np.float64(1.0)}, buffer)
    buffer.seek(0)
    _load(buffer)
    save({"a": torch.zeros(1)})


def _converted(source: IO[bytes], output_descriptor: int) -> dict[str, Any]:
    from safetensors.torch import save

    try:
        checkpoint = _load(source)
    except RefusedCheckpointError:
        raise
    except Exception as error:
        raise RefusedCheckpointError(_why(error, source)) from error
    weights = _weights(checkpoint)
    content = save({name: tensor.clone() for name, tensor in distinct_weights(weights).items()})
    with os.fdopen(output_descriptor, "wb") as output:
        output.write(content)
    return {"checkpoint": _facts(checkpoint)}


def _load(source: IO[bytes]) -> object:
    import torch

    with torch.serialization.safe_globals(ALLOWED):
        return torch.load(source, map_location="cpu", weights_only=True)


def _why(error: Exception, source: IO[bytes]) -> str:
    """The name that the pickle wanted called; PyTorch reports it, except where it can't read the opcode."""
    named = GLOBAL_NAME.search(str(error))
    name = named.group(1) if named else _stack_global(source)
    if name:
        return f"it names {name[:NAME_LENGTH]}, which no nnU-Net checkpoint needs: loading it could run code"
    return f"PyTorch's restricted reader does not take it ({type(error).__name__})"


def _stack_global(source: IO[bytes]) -> str:
    """The first ``module.name`` that a pickle of protocol 4 asks for; empty when none is found."""
    try:
        source.seek(0)
        with zipfile.ZipFile(source) as archive:
            [member] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            pickle = archive.read(member)
        words: list[str] = []
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "STACK_GLOBAL":
                name = ".".join(words[-2:])
                return name if re.fullmatch(r"[\w.]+", name) else ""
            if isinstance(argument, str):
                words.append(argument)
    except (ValueError, zipfile.BadZipFile, OSError):
        return ""  # only looked at for a better message
    return ""


def _weights(checkpoint: object) -> dict[str, Any]:
    import torch

    weights = checkpoint.get("network_weights") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, Mapping) or not weights:
        raise RefusedCheckpointError("it holds no network_weights, as nnU-Net's checkpoints do")
    for name, value in weights.items():
        plain = isinstance(value, torch.Tensor) and value.layout is torch.strided
        if not isinstance(name, str) or not plain or not value.is_floating_point():
            raise RefusedCheckpointError("its network_weights hold something else than numbers")
    return dict(weights)


def _facts(checkpoint: Any) -> dict[str, Any]:
    """What the model card needs, in plain types."""
    arguments = checkpoint.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    trainer, epochs = checkpoint.get("trainer_name"), checkpoint.get("current_epoch")
    if not isinstance(configuration, str) or not isinstance(trainer, str):
        raise RefusedCheckpointError("it names no trainer or no configuration, as nnU-Net's checkpoints do")
    axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
    return {
        "configuration": configuration[:NAME_LENGTH],
        "trainer": trainer[:NAME_LENGTH],
        "epochs": int(epochs) if isinstance(epochs, int) else None,
        "mirroring_axes": [int(axis) for axis in axes],
    }
