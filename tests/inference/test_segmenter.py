"""The product's segmenter against nnU-Net's predictor: same weights, same mask, in any orientation."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from app.domain.decision import ModelRole
from app.domain.volume import Grid
from app.errors import MisconfiguredError
from app.inference.devices import choose_device
from app.inference.models.channels import NetworkInput
from app.inference.models.store import ModelStore, sha256_of
from app.inference.policy import DeviceChoice
from app.inference.running.segmenter import Segmenter, compared_numbers
from tests.inference.tiny_model import CONFIGURATION, write_tiny_model

SHAPE = (30, 22, 26)
SPACING_MM = (4.4, 3.1, 5.0)  # x, y, z: unlike the network's, so that resampling takes part


def image() -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    suv = 5 + 30 * gaussian_filter(rng.standard_normal(SHAPE), 2)
    hu = 50 + 2000 * gaussian_filter(rng.standard_normal(SHAPE), 2)
    return np.stack([suv, hu]).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(models: Path) -> Segmenter:
    return Segmenter(ModelStore(models).load(ModelRole.M2), DeviceChoice.CPU)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * int((first & second).sum()) / int(first.sum() + second.sum())


def plain_nnunet(model: Path, channels: NDArray[np.float32], work: Path) -> NDArray[np.bool_]:
    """nnU-Net by itself: a checkpoint in its results folder, images in files, its own file predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    results = work / "results"
    (results / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(model / name, results / name)
    manager = PlansManager(json.loads((model / "plans.json").read_text()))
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), 2, 2, enable_deep_supervision=False
    )
    network.load_state_dict(load_file(model / "weights.safetensors"), strict=False)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, results / "fold_0" / "checkpoint_final.pth")
    files = [str(work / f"case_000{n}.nii.gz") for n in range(2)]
    for path, channel in zip(files, channels, strict=True):
        written = sitk.GetImageFromArray(channel)
        written.SetSpacing(SPACING_MM)
        sitk.WriteImage(written, path)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), (0,), "checkpoint_final.pth")
    predictor.predict_from_files_sequential([files], [str(work / "result")], save_probabilities=False)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(work / "result.nii.gz"))) == 1


def test_the_mask_is_that_of_a_plain_nnunet_run_on_the_same_weights(
    segmenter: Segmenter, models: Path, tmp_path: Path
) -> None:
    grid = Grid.axis_aligned(SHAPE, SPACING_MM, (-10.0, 20.0, 300.0))
    mask = segmenter.segment(NetworkInput(image(), grid))
    expected = plain_nnunet(models / "tiny", image(), tmp_path)
    assert 0.02 < mask.mean() < 0.98  # else agreement would mean nothing
    assert dice(mask, expected) >= 0.999
    assert dice(~mask, ~expected) >= 0.999


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_permuted_and_flipped_grid_gives_the_same_lesions(
    segmenter: Segmenter, order: tuple[int, int, int]
) -> None:
    grid = Grid.axis_aligned(SHAPE, SPACING_MM, (-10.0, 20.0, 300.0))
    expected = segmenter.segment(NetworkInput(image(), grid))
    flips = list(product((False, True), repeat=3))[1 + sum(order[0:1]) * 2 + order[1]]
    channels, moved = rearranged(image(), grid, order, flips)
    mask = segmenter.segment(NetworkInput(channels, moved))
    back, _ = rearranged(expected[None], grid, order, flips)
    np.testing.assert_array_equal(mask, back[0])


def rearranged(
    channels: NDArray[np.generic], grid: Grid, order: tuple[int, int, int], flips: tuple[bool, ...]
) -> tuple[NDArray[np.generic], Grid]:
    """The same image with its array axes in another order and direction, both given as (z, y, x)."""
    array = channels.transpose(0, *(axis + 1 for axis in order))
    affine = np.array(grid.affine)
    columns = affine[:, [2 - axis for axis in order[::-1]]]  # index columns are (x, y, z)
    affine[:, :3] = columns
    for axis, flip in enumerate(flips):
        if flip:
            size = array.shape[axis + 1]
            array = np.flip(array, axis + 1)
            column = 2 - axis
            affine[:3, 3] += affine[:3, column] * (size - 1)
            affine[:3, column] *= -1
    z, y, x = array.shape[1:]
    return np.ascontiguousarray(array), Grid((z, y, x), affine)


def test_threads_get_the_same_mask_as_the_main_thread(segmenter: Segmenter) -> None:
    network_input = NetworkInput(image(), Grid.axis_aligned(SHAPE, SPACING_MM, (0.0, 0.0, 0.0)))
    expected = segmenter.segment(network_input)
    found: list[NDArray[np.bool_]] = []
    threads = [
        threading.Thread(target=lambda: found.append(segmenter.segment(network_input))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all(np.array_equal(mask, expected) for mask in found)


def test_a_missing_channel_is_a_fault_of_the_caller(segmenter: Segmenter) -> None:
    grid = Grid.axis_aligned(SHAPE, SPACING_MM, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="takes 2 channels, found 1"):
        segmenter.segment(NetworkInput(image()[:1], grid))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path)
    weights = tmp_path / "tiny" / "weights.safetensors"
    kept = load_file(weights)
    kept.pop(min(kept))
    save_file(kept, weights)
    text = (tmp_path / "tiny" / "model.yaml").read_text()
    (tmp_path / "tiny" / "model.yaml").write_text(text.replace(card.weights_sha256, sha256_of(weights)))
    with pytest.raises(MisconfiguredError, match="1 weights do not fit the network"):
        Segmenter(ModelStore(tmp_path).load(ModelRole.M2), DeviceChoice.CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_demanded_without_a_device_is_the_operators_to_solve() -> None:
    with pytest.raises(MisconfiguredError, match=r"segment\.device is cuda"):
        choose_device(DeviceChoice.CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_auto_falls_back_to_the_cpu() -> None:
    assert choose_device(DeviceChoice.AUTO).type == "cpu"


@pytest.mark.parametrize(
    ("there", "allowed", "says"),
    [
        (False, 0.0, "bfloat16 was not checked: this processor has none"),
        (True, 1.0, "bfloat16 marks the same voxels of a tile of noise"),
        (True, 0.0, "warning: in bfloat16 "),
    ],
    ids=["not there", "agrees", "differs"],
)
def test_a_model_that_is_new_is_compared_in_bfloat16(
    models: Path, monkeypatch: pytest.MonkeyPatch, there: bool, allowed: float, says: str
) -> None:
    """``psma-node models import`` says so."""
    monkeypatch.setattr("app.inference.running.segmenter.has_bfloat16", lambda: there)
    monkeypatch.setattr("app.inference.running.sliding_window.ALLOWED_CHANGES", allowed)
    monkeypatch.setattr("app.inference.running.sliding_window.FEW_VOXELS", 0)
    assert compared_numbers(ModelStore(models).load(ModelRole.M2)).startswith(says)
