"""How long a training step of the small network computes: forward and backward, on one thread.

    python -m benchmarks.training_step --pairs 5

Contiguous and channels-last memory in turn, for the features of each recipe; batch and patch are those of
:mod:`app.training.planning`, bfloat16 is used where the processor has it. CPU seconds of the thread, least,
median and greatest; the ratio is that of the pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from app.inference.devices import has_bfloat16
from app.training.planning import BATCH_SIZE, PATCH_SIZE
from benchmarks.training_recipes import RECIPES


def network(features: Sequence[int]) -> Any:
    """As :func:`app.training.planning.small_plans` has it."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn

    stages = len(features)
    return PlainConvUNet(
        2, stages, list(features), nn.Conv3d, [[3] * 3] * stages, [[1] * 3] + [[2] * 3] * (stages - 1),
        [1] + [2] * (stages - 1), 2, [1] * (stages - 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def step_s(trained: Any, batch: Any) -> float:
    """CPU seconds of one forward and backward pass."""
    import torch

    begun_s = time.thread_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        outputs = trained(batch)
    sum(output.float().square().mean() for output in outputs).backward()
    return time.thread_time() - begun_s


def line(features: Sequence[int], pairs: int) -> str:
    """The table's line for these features; the first pair only warms up."""
    import torch

    torch.manual_seed(0)
    last = torch.channels_last_3d
    plain, other = network(features), network(features).to(memory_format=last)
    batch = torch.randn(BATCH_SIZE, 2, *PATCH_SIZE)
    found = [
        (step_s(plain, batch), step_s(other, batch.contiguous(memory_format=last))) for _ in range(pairs + 1)
    ]
    columns = ([p for p, _ in found[1:]], [o for _, o in found[1:]], [p / o for p, o in found[1:]])
    cells = (f"{min(each):.2f} / {median(each):.2f} / {max(each):.2f}" for each in columns)
    return f"| {', '.join(map(str, features))} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write("| features | contiguous s | channels-last s | ratio |\n| --- | --- | --- | --- |\n")
    for features in dict.fromkeys(features for _, features in RECIPES.values()):
        sys.stdout.write(line(features, options.pairs) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
