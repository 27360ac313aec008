"""The estimate of GPU memory is what a real forward pass holds; the way that fits is chosen from it."""

from __future__ import annotations

import json
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.inference.models.network import build_network
from app.inference.policy import SHIPPED_MODELS
from app.inference.running.gpu_memory import (
    FRAGMENTATION,
    HALF_BYTES,
    RESERVE_BYTES,
    SMALLEST_BOTTLENECK,
    NetworkShape,
    bytes_needed,
    first_fitting,
    live_features,
    network_shape,
    sum_bytes,
    tile_bytes,
    ways,
    weight_bytes,
)
from tests.inference.tiny_model import CONFIGURATION, DATASET, plans

MIB = 2**20
UNET = "dynamic_network_architectures.architectures.unet."


class LiveBytes(TorchDispatchMode):  # type: ignore[misc]  # PyTorch's class has no types
    """Adds up the storages that every operation makes, for as long as a tensor holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.peak: int = 0
        self._held: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        return result

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        held = self._held.setdefault(storage._cdata, [storage.nbytes(), 0])
        self.now += held[0] if held[1] == 0 else 0
        held[1] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._drop, storage._cdata)

    def _drop(self, storage: int) -> None:
        held = self._held[storage]
        held[1] -= 1
        if held[1] == 0:
            self.now -= held[0]
            del self._held[storage]


def planned(kind: str, tile: tuple[int, ...], **arguments: object) -> dict[str, Any]:
    """Plans like those of the tiny model, with another network."""
    made = plans()
    configuration = made["configurations"][CONFIGURATION]
    configuration["patch_size"] = list(tile)
    configuration["architecture"]["network_class_name"] = UNET + kind
    kept = configuration["architecture"]["arch_kwargs"]
    if kind == "ResidualEncoderUNet":
        kept.pop("n_conv_per_stage")
    stages = len(arguments["features_per_stage"])  # type: ignore[arg-type]
    kept |= {"n_stages": stages, "kernel_sizes": [[3, 3, 3]] * stages, **arguments}
    return made


def halving(stages: int) -> list[list[int]]:
    return [[1, 1, 1], *([[2, 2, 2]] * (stages - 1))]


NETWORKS = {
    "one convolution a stage": planned(
        "PlainConvUNet", (32, 64, 64), features_per_stage=[8, 16, 32],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]], n_conv_per_stage=1, n_conv_per_stage_decoder=1,
    ),
    "nnU-Net's default": planned(
        "PlainConvUNet", (128, 128, 128), features_per_stage=[32, 64, 128, 256, 320, 320],
        strides=halving(6), n_conv_per_stage=[2] * 6, n_conv_per_stage_decoder=[2] * 5,
    ),
    "ResEnc L": planned(
        "ResidualEncoderUNet", (160, 160, 160), features_per_stage=[32, 64, 128, 256, 320, 320],
        strides=halving(6), n_blocks_per_stage=[1, 3, 4, 6, 6, 6], n_conv_per_stage_decoder=[1] * 5,
    ),
    "a wide residual bottleneck": planned(
        "ResidualEncoderUNet", (16, 16, 16), features_per_stage=[4, 200], strides=halving(2),
        n_blocks_per_stage=[1, 2], n_conv_per_stage_decoder=[1],
    ),
}  # fmt: skip


def shape_and_network(made: dict[str, Any], dataset: dict[str, Any]) -> tuple[NetworkShape, torch.nn.Module]:
    """The shape that memory is estimated from, and the network itself, in half precision, without memory."""
    configuration = made["configurations"][CONFIGURATION]
    with torch.device("meta"):
        network = build_network(made, dataset, CONFIGURATION).half().eval()
    shape = network_shape(
        configuration["architecture"]["arch_kwargs"], configuration["patch_size"],
        channels=len(dataset["channel_names"]), heads=2,
        parameters=sum(weight.numel() for weight in network.parameters()),
    )  # fmt: skip
    return shape, network


def measured_peak(shape: NetworkShape, network: torch.nn.Module) -> int:
    """Bytes that one forward pass holds at its peak, beside its input."""
    tile = torch.empty((1, shape.channels, *shape.tile), device="meta", dtype=torch.half)
    with torch.inference_mode(), LiveBytes() as live:
        network(tile)
    peak: int = live.peak
    return peak


@pytest.mark.parametrize("made", NETWORKS.values(), ids=list(NETWORKS))
def test_the_estimate_is_what_a_forward_pass_holds(made: dict[str, Any]) -> None:
    shape, network = shape_and_network(made, DATASET)
    measured = measured_peak(shape, network)
    assert measured <= live_features(shape) * HALF_BYTES <= 1.05 * measured


@pytest.mark.parametrize("folder", sorted(path.parent for path in SHIPPED_MODELS.glob("*/plans.json")))
def test_the_estimate_holds_for_the_shipped_models(folder: Path) -> None:
    made, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    shape, network = shape_and_network(made, dataset)
    measured = measured_peak(shape, network)
    assert measured <= live_features(shape) * HALF_BYTES <= 1.05 * measured


@pytest.mark.parametrize(
    ("name", "needs_gib"), [("nnU-Net's default", [2.39, 1.96]), ("ResEnc L", [3.61, 3.17])]
)
def test_the_needs_that_the_documentation_tells_are_the_estimates(name: str, needs_gib: list[float]) -> None:
    """Both ways with the trained tile; two channels, two outputs."""
    shape, _ = shape_and_network(NETWORKS[name], DATASET)
    found = ways(shape, (500, 200, 250))[:2]
    assert [round(way.bytes_needed / 2**30, 2) for way in found] == needs_gib
    page = (Path(__file__).parents[2] / "docs" / "reference" / "gpu.md").read_text(encoding="utf-8")
    told = f"tiles of {shape.tile[0]}³: {needs_gib[0]:.2f} GiB (way 2: {needs_gib[1]:.2f})"
    assert told in " ".join(page.split())


def test_the_peak_counts_what_is_held_at_one_time_alone() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000, dtype=torch.half, device="meta")
        first = first + 1
        del first
    assert (live.peak, live.now) == (4000, 0)


def test_weights_tile_and_sums_by_hand() -> None:
    shape = NetworkShape(
        parameters=10, channels=2, heads=3, features=(4,), strides=((1, 1, 1),), residual=False,
        decoder_convolutions=(), tile=(2, 2, 2),
    )  # fmt: skip
    assert weight_bytes(shape) == 10 * 2
    # input as it is, in half precision and reordered; output as it comes, widened, its difference; three maps
    # of the block, workspace of input and output
    assert tile_bytes(shape) == 8 * (2 * (4 + 2 + 2) + 3 * (2 + 4 + 4) + 3 * 4 * 2 + (2 + 4) * 2)
    # the image of 2 voxels height is padded to nothing more; image, sums, weights; Gaussian, answer to air
    assert sum_bytes(shape, (2, 5, 6)) == 60 * (2 + 2 + 1) * 4 + 8 * (1 + 2) * 4
    assert sum_bytes(shape, (1, 1, 1)) == 8 * 20 + 8 * 12
    single = replace(shape, number_bytes=4)
    assert weight_bytes(single) == 10 * 4
    assert tile_bytes(single) == 8 * (2 * (4 + 4 + 4) + 3 * (4 + 4 + 4) + 3 * 4 * 4 + (2 + 4) * 4)
    whole = weight_bytes(shape) + tile_bytes(shape) + sum_bytes(shape, (2, 5, 6))
    assert bytes_needed(shape, (2, 5, 6), True) == math.ceil(whole * FRAGMENTATION) + RESERVE_BYTES


def test_mirroring_needs_the_flipped_tile_and_more_outputs() -> None:
    shape, _ = shape_and_network(NETWORKS["one convolution a stage"], DATASET)
    more = tile_bytes(replace(shape, mirrored=True)) - tile_bytes(shape)
    assert more == math.prod(shape.tile) * (2 * 2 + 2 * 1 * 4)


def test_the_ways_go_from_all_on_the_gpu_over_sums_in_main_memory_to_halved_tiles() -> None:
    shape, _ = shape_and_network(NETWORKS["nnU-Net's default"], DATASET)
    found = ways(shape, (400, 200, 200))
    assert [(way.tile, way.sums_on_gpu) for way in found] == [
        ((128, 128, 128), True), ((128, 128, 128), False), ((64, 128, 128), False), ((64, 64, 128), False),
        ((64, 64, 64), False),
    ]  # fmt: skip


def test_a_half_that_is_no_multiple_of_the_strides_is_taken_up_to_one() -> None:
    shape, _ = shape_and_network(NETWORKS["ResEnc L"], DATASET)
    assert [way.tile for way in ways(shape, (200, 200, 200))][2] == (96, 160, 160)


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_the_first_way_that_fits_is_taken(number: int) -> None:
    shape, _ = shape_and_network(NETWORKS["nnU-Net's default"], DATASET)
    found = ways(shape, (400, 200, 200))
    assert first_fitting(found, found[number].bytes_needed) == number
    assert first_fitting(found, found[number].bytes_needed - 1) == number + 1


def test_a_slice_wise_network_keeps_the_whole_image_and_halves_in_the_plane() -> None:
    flat = NetworkShape(100, 2, 2, (8, 16), ((1, 1), (2, 2)), False, (1,), tile=(64, 32))
    found = ways(flat, (90, 60, 40))
    assert found[2].tile == (32, 32)
    assert sum_bytes(flat, (90, 60, 40)) == (90 * 64 * 40 * (2 + 1 + 1) + 64 * 32 * (1 + 1)) * 4


NETWORK = st.builds(
    lambda features, last, several, residual, mirrored: NetworkShape(
        parameters=1000, channels=2, heads=2, features=tuple(features),
        strides=((1, 1, 1), *[(2, 2, 2)] * (len(features) - 2), (1, 2, 2)), residual=residual,
        decoder_convolutions=(several,) * (len(features) - 1),
        tile=tuple(4 * n * 2 ** (len(features) - 2) for n in last), mirrored=mirrored,
    ),
    st.lists(st.integers(1, 320), min_size=2, max_size=6), st.tuples(*[st.integers(1, 12)] * 3),
    st.integers(1, 3), st.booleans(), st.booleans(),
)  # fmt: skip
IMAGE = st.tuples(*[st.integers(1, 700)] * 3)


@given(NETWORK, IMAGE)
def test_every_way_needs_less_than_the_one_before_and_fits_the_network(
    shape: NetworkShape, image: tuple[int, int, int]
) -> None:
    found = ways(shape, image)
    needs = [way.bytes_needed for way in found]
    assert needs == sorted(set(needs), reverse=True)
    for way in found:
        for length, trained, stride in zip(way.tile, shape.tile, shape.total_stride, strict=True):
            assert length % stride == 0
            assert min(trained, SMALLEST_BOTTLENECK * stride) <= length <= trained


@given(NETWORK, IMAGE, st.integers(0, 2**40))
def test_the_choice_fits_and_nothing_before_it_does(
    shape: NetworkShape, image: tuple[int, int, int], free_bytes: int
) -> None:
    found = ways(shape, image)
    chosen = first_fitting(found, free_bytes)
    assert all(way.bytes_needed > free_bytes for way in found[:chosen])
    assert all(way.bytes_needed <= free_bytes for way in found[chosen : chosen + 1])
