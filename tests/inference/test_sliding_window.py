"""Our sliding window against nnU-Net's own predictor: the same masks from the same weights.

nnU-Net sums in half precision, which moves a few voxels where two outputs are nearly equal. So the oracle for
equality is nnU-Net's predictor with its sums in single precision; nnU-Net as it is agrees to Dice 0.999.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from app.inference.models.network import build_network, distinct_weights
from app.inference.policy import Precision
from app.inference.running import sliding_window
from app.inference.running.preprocessing import Preprocessing
from app.inference.running.sliding_window import Networks, Predictor
from app.inference.running.zoom import RELATIVE_ERROR
from tests.inference.nnunet_source import SingleSums
from tests.inference.tiny_model import CONFIGURATION, DATASET, plans

SHAPE = (30, 22, 26)
SPACING = (5.0, 3.1, 4.4)


@dataclass
class Case:
    """A model and an image; the defaults are the tiny model's."""

    plans: dict[str, Any]
    shape: tuple[int, int, int] = SHAPE
    spacing: tuple[float, float, float] = SPACING
    folds: int = 1
    mirrored: tuple[int, ...] = ()
    labels: int = 2
    zeros: bool = False

    @property
    def dataset(self) -> dict[str, Any]:
        return {**DATASET, "labels": {"background": 0, **{f"l{n}": n for n in range(1, self.labels)}}}

    @property
    def image(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(5)
        suv = 5 + 30 * gaussian_filter(rng.standard_normal(self.shape), 2)
        hu = 50 + 2000 * gaussian_filter(rng.standard_normal(self.shape), 2)
        made = np.stack([suv, hu]).astype(np.float32)
        if self.zeros:
            made[:, :4] = 0
            made[:, 20:, :, 5:9] = 0
        return made

    def weights(self) -> tuple[dict[str, torch.Tensor], ...]:
        found = []
        for fold in range(self.folds):
            torch.manual_seed(3 + fold)
            found.append(
                distinct_weights(build_network(self.plans, self.dataset, CONFIGURATION).state_dict())
            )
        return tuple(found)

    def ours(self, precision: Precision = Precision.FP32) -> Predictor:
        manager = PlansManager(self.plans)
        configuration = manager.get_configuration(CONFIGURATION)
        with torch.device("meta"):
            network = build_network(self.plans, self.dataset, CONFIGURATION)
        tile = tuple(configuration.patch_size)
        networks = Networks(network, self.weights(), tile, 0.5, self.mirrored)
        return Predictor(networks, Preprocessing(manager, configuration), precision)

    def nnunets(self, kind: type[nnUNetPredictor]) -> NDArray[np.uint8]:
        manager = PlansManager(self.plans)
        states = []
        for weights in self.weights():
            network = build_network(self.plans, self.dataset, CONFIGURATION)
            network.load_state_dict(weights, strict=False)
            states.append({name: value.clone() for name, value in network.state_dict().items()})
        with contextlib.redirect_stdout(io.StringIO()):  # it prints advice about CPUs
            predictor = kind(
                use_mirroring=bool(self.mirrored), perform_everything_on_device=False,
                device=torch.device("cpu"), allow_tqdm=False,
            )  # fmt: skip
        configuration = manager.get_configuration(CONFIGURATION)
        axes = self.mirrored or None
        predictor.manual_initialization(network, manager, configuration, states, self.dataset, "x", axes)
        properties = {"spacing": list(self.spacing)}
        return np.asarray(predictor.predict_single_npy_array(self.image, properties, None, None, False))


def changed(change: Callable[[dict[str, Any], dict[str, Any]], None], **others: Any) -> Case:
    """The tiny model with other plans; ``change`` is given the plans and their configuration."""
    made = copy.deepcopy(plans())
    change(made, made["configurations"][CONFIGURATION])
    return Case(made, **others)


def transposed(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    made["transpose_forward"], made["transpose_backward"] = [2, 0, 1], [1, 2, 0]


def resampled_by_torch(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
        configuration[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "force_separate_z": False}


def normalised_by_image(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["normalization_schemes"] = ["ZScoreNormalization", "RescaleTo01Normalization"]
    configuration["use_mask_for_norm"] = [True, False]


def flat(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration.update(patch_size=[16, 16], spacing=[4.0, 4.0])
    configuration["architecture"]["arch_kwargs"].update(
        conv_op="torch.nn.modules.conv.Conv2d", norm_op="torch.nn.modules.instancenorm.InstanceNorm2d",
        kernel_sizes=[[3, 3]] * 2, strides=[[1, 1], [2, 2]],
    )  # fmt: skip


def residual(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    arguments = configuration["architecture"]["arch_kwargs"]
    del arguments["n_conv_per_stage"]
    arguments.update(
        n_blocks_per_stage=[1, 2], n_conv_per_stage_decoder=[2], conv_bias=False,
        strides=[[1, 1, 1], [1, 2, 2]], kernel_sizes=[[1, 3, 3], [3, 3, 3]],
    )  # fmt: skip


def running_statistics(made: dict[str, Any], configuration: dict[str, Any]) -> None:
    configuration["architecture"]["arch_kwargs"]["norm_op_kwargs"]["track_running_stats"] = True


CASES = {
    "one network": Case(plans()),
    "mirrored": Case(plans(), mirrored=(0, 2)),
    "three folds, mirrored on all axes": Case(plans(), folds=3, mirrored=(0, 1, 2)),
    "smaller than a tile": Case(plans(), shape=(9, 40, 12), spacing=(4.0, 4.0, 4.0)),
    "slices far apart": Case(plans(), shape=(9, 40, 30), spacing=(14.0, 2.0, 3.0)),
    "axes in another order": changed(transposed),
    "four labels": Case(plans(), labels=4, mirrored=(1,)),
    "resampled by PyTorch": changed(resampled_by_torch),
    "normalised by each image, with zeros around it": changed(normalised_by_image, zeros=True),
    "slice by slice": changed(flat, mirrored=(0, 1)),
    "normalised by running statistics": changed(running_statistics),
    "residual encoder, without biases": changed(residual, mirrored=(0, 1)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_mask_is_nnunets(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.running.cpu_network.SLAB_VOXELS", 16 * 16 * 3)  # several slabs a tile
    found, _ = case.ours().run(case.image, case.spacing)
    expected = case.nnunets(SingleSums)
    assert found.dtype == expected.dtype
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)
    as_it_is = case.nnunets(nnUNetPredictor)
    assert float((found == as_it_is).mean()) > 0.998


def test_the_prepared_image_is_nnunets() -> None:
    case = CASES["normalised by each image, with zeros around it"]
    manager = PlansManager(case.plans)
    configuration = manager.get_configuration(CONFIGURATION)
    properties = {"spacing": list(case.spacing)}
    expected, _, told = DefaultPreprocessor(verbose=False).run_case_npy(
        case.image, None, properties, manager, configuration, case.dataset
    )
    found = Preprocessing(manager, configuration).prepare(case.image, case.spacing)
    assert [[part.start, part.stop] for part in found.box] == told["bbox_used_for_cropping"]
    for ours, theirs in zip(found.image.numpy(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE_ERROR * float(np.ptp(theirs)))


def test_an_image_is_not_changed_and_gives_the_same_labels_again() -> None:
    case = CASES["mirrored"]
    predictor, image = case.ours(), case.image
    first, _ = predictor.run(image, case.spacing)
    again, _ = predictor.run(image, case.spacing)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, case.image)


def test_tiles_side_by_side_give_the_bits_of_one_after_the_other() -> None:
    case, before = CASES["three folds, mirrored on all axes"], torch.get_num_threads()
    predictor, outputs = case.ours(), []
    prepared = predictor.preprocessing.prepare(case.image, case.spacing)
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                outputs.append(predictor.differences(prepared)[0].numpy())
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[1], outputs[2])


def test_one_set_of_weights_is_in_memory_for_each_fold() -> None:
    case = CASES["three folds, mirrored on all axes"]
    predictor = case.ours()
    predictor.run(case.image, case.spacing)
    owned = {weight.data_ptr() for fold in predictor.networks.folds for weight in fold.values()}
    assert {weight.data_ptr() for weight in predictor.network.parameters()} <= owned


def in_air() -> tuple[Case, NDArray[np.float32]]:
    """Something with uptake in the middle of clean air."""
    case = Case(plans(), shape=(80, 40, 40), spacing=(4.0, 4.0, 4.0))
    image = np.full((2, 80, 40, 40), -1000, np.float32)
    image[0] = 0
    image[:, 34:40, 10:30, 10:30] = np.array([9.0, 40.0]).reshape(2, 1, 1, 1)
    return case, image


def looking(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, background: bool) -> list[float]:
    """A network that finds uptake, or something in air too; the tiles it is asked about are noted."""
    asked: list[float] = []

    def looked(tile: torch.Tensor) -> torch.Tensor:
        asked.append(float(tile[0, 0].max()))
        return torch.stack([tile[:, 0] * 0, tile[:, 0] + (0.0 if background else 10.0)], dim=1)

    monkeypatch.setattr(predictor.network, "forward", looked)
    return asked


@pytest.mark.parametrize("background", [True, False])
def test_air_is_looked_at_once_and_the_mask_is_that_of_every_tile(
    background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a network that finds something in air: the same air gets the same answer."""
    case, image = in_air()
    predictor = case.ours()
    asked = looking(predictor, monkeypatch, background)
    found, _ = predictor.run(image, case.spacing)
    few = len(asked)
    monkeypatch.setattr(sliding_window, "needless_windows", lambda windows, *others: (False,) * len(windows))
    every, _ = predictor.run(image, case.spacing)
    np.testing.assert_array_equal(found, every)
    assert found.any()
    assert few < (len(asked) - few) * 0.7


def test_air_that_one_fold_alone_calls_background_is_looked_at_by_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mean of the folds decides, and it is background: not the one that finds something there."""
    case, image = in_air()
    case.folds = 2
    predictor = case.ours()

    def looked(tile: torch.Tensor) -> torch.Tensor:
        fold = predictor._in_network[0]
        return torch.stack([tile[:, 0] * 0, tile[:, 0] + (-3.0 if fold == 0 else 2.5)], dim=1)

    monkeypatch.setattr(predictor.network, "forward", looked)
    found, _ = predictor.run(image, case.spacing)
    monkeypatch.setattr(sliding_window, "needless_windows", lambda windows, *others: (False,) * len(windows))
    every, _ = predictor.run(image, case.spacing)
    np.testing.assert_array_equal(found, every)
    assert found.sum() == 6 * 20 * 20


def test_other_air_in_which_the_network_finds_something_is_looked_at() -> None:
    seen, answer = torch.zeros(2, 3, 3, 3), torch.ones(1, 3, 3, 3)
    share = np.ones((3, 3, 3), np.float32)
    found = sliding_window._Air.of(seen, answer, share)
    assert not found.is_background
    assert sliding_window._Air.of(seen, -answer, share).is_background
    assert not sliding_window._Air.of(seen, answer * torch.nan, share).is_background
    corner = answer.numpy().copy()
    corner[0, 1:], corner[0, 0, 1:], corner[0, 0, 0, 1:] = -1, -1, -1  # above 0 in one corner
    for counts, background in ((0.0005, True), (0.002, False)):
        share[0, 0, 0] = counts
        assert sliding_window._Air.of(seen, torch.from_numpy(corner), share).is_background is background
    other = seen.clone()
    assert found.shows(other)
    other[0, 0, 0, 0] = 0.1
    assert not found.shows(other)
    assert not found.shows(torch.full_like(seen, torch.nan))


@pytest.mark.parametrize("agrees", [True, False])
def test_bfloat16_is_used_where_it_gives_the_same_lesions(
    agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not, the result is that of single precision, and the report says why."""
    monkeypatch.setattr(sliding_window, "has_bfloat16", lambda: True)
    monkeypatch.setattr(sliding_window, "ALLOWED_CHANGES", 1.0 if agrees else 0.0)
    monkeypatch.setattr(sliding_window, "FEW_VOXELS", 0)
    case = CASES["mirrored"]
    expected, single = case.ours(Precision.FP32).run(case.image, case.spacing)
    found, computed = case.ours(Precision.AUTO).run(case.image, case.spacing)
    assert single.number is torch.float32
    assert computed.number is (torch.bfloat16 if agrees else torch.float32)
    assert bool(computed.refused) is not agrees
    if agrees:
        assert 0.97 < float((found == expected).mean()) < 1.0  # rounded, so it was bfloat16
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("differs", [True, False])
def test_bfloat16_is_judged_where_it_found_most(
    differs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where uptake is highest, if the network calls that background, as it does bladder and kidneys."""
    monkeypatch.setattr(sliding_window, "has_bfloat16", lambda: True)
    case, image = in_air()
    image[:, 4:20, 4:36, 4:36] = np.array([900.0, 40.0]).reshape(2, 1, 1, 1)
    predictor = case.ours(Precision.AUTO)

    def looked(tile: torch.Tensor) -> torch.Tensor:
        suv = tile[:, 0].float() * 3 + 5  # as the tiny plans normalise it, clipped at 15
        lesion = (suv > 8) & (suv < 10)
        if tile.dtype is torch.bfloat16 and differs:
            lesion[..., ::2] = False
        return torch.stack([tile[:, 0].float() * 0, lesion.float() - 0.5], dim=1)

    monkeypatch.setattr(predictor.network, "forward", looked)
    found, computed = predictor.run(image, case.spacing)
    assert computed.number is (torch.float32 if differs else torch.bfloat16)
    assert bool(computed.refused) is differs
    predictor.precision = Precision.FP32
    np.testing.assert_array_equal(found, predictor.run(image, case.spacing)[0])
    assert found[36, 20, 20]
    assert not found[:30].any()


def test_no_more_threads_are_used_than_by_nnunet() -> None:
    case, before = CASES["one network"], torch.get_num_threads()
    predictor = case.ours()
    try:
        for there, used in ((64, 8), (1, 1)):
            torch.set_num_threads(there)
            predictor.run(case.image, case.spacing)
            assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)


def test_without_bfloat16_in_hardware_single_precision_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_window, "has_bfloat16", lambda: False)
    case = CASES["one network"]
    _, computed = case.ours(Precision.AUTO).run(case.image, case.spacing)
    assert (computed.number, computed.refused) == (torch.float32, "")
