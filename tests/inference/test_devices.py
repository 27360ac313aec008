"""Which devices the setting means, on machines that have them and on machines that don't."""

from __future__ import annotations

import warnings

import pytest
import torch

from app.errors import MisconfiguredError
from app.inference import devices
from app.inference.devices import VisibleGpus, choose_device, choose_devices, usable_devices, visible_gpus
from app.inference.policy import SegmentPolicy

TWO = VisibleGpus(("Test A", "Test B"), "2.13.0+cu130", "13.0")
NONE = VisibleGpus((), "2.13.0+cu130", "13.0", "the driver is too old")
CPU_BUILD = VisibleGpus((), "2.13.0+cpu")


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("auto", TWO, ("cuda:0", "cuda:1")),
        ("auto", NONE, ("cpu",)),
        ("auto", CPU_BUILD, ("cpu",)),
        ("cuda", TWO, ("cuda:0", "cuda:1")),
        ("cuda:1", TWO, ("cuda:1",)),
        ("cpu", TWO, ("cpu",)),
    ],
)
def test_the_setting_means_these_devices(wanted: str, found: VisibleGpus, expected: tuple[str, ...]) -> None:
    assert usable_devices(wanted, found) == expected


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ("cuda", CPU_BUILD, ["expected a GPU", "+cpu is a build without CUDA", "install PyTorch's CUDA"]),
        ("cuda", CPU_BUILD, ["in a container", "-cuda"]),
        ("cuda", NONE, ["for CUDA 13.0, sees none (the driver is too old)", "--gpus all", "nvidia-smi"]),
        ("cuda", NONE, ["--device nvidia.com/gpu=all", "compose.gpu.yaml", "nvidia.com/gpu in its limits"]),
        ("cuda:2", TWO, ["expected GPU 2", "2 GPU(s) (0: Test A, 1: Test B)", "one of cuda:0, cuda:1"]),
        ("cuda:0", NONE, ["expected GPU 0", "or set segment.device to auto or cpu"]),
    ],
)
def test_a_demanded_gpu_that_is_absent_is_an_error_with_advice(
    wanted: str, found: VisibleGpus, said: list[str]
) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        usable_devices(wanted, found)
    assert str(refused.value).startswith(f"segment.device is {wanted}: ")
    assert [words for words in said if words not in str(refused.value)] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_seen_but_does_not_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: TWO)
    for wanted in ("auto", "cuda", "cuda:1"):
        with pytest.raises(MisconfiguredError, match=r"cuda:\d does not compute .* or set"):
            choose_devices(wanted)
    assert choose_devices("cpu") == ("cpu",)


def test_where_one_gpu_is_used_the_others_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(devices, "visible_gpus", lambda: TWO)
    monkeypatch.setattr(devices, "_refuse_broken", lambda device, found: tried.append(device))
    assert choose_device("auto") == torch.device("cuda:0")
    assert tried == ["cuda:0"]
    assert choose_devices("auto") == ("cuda:0", "cuda:1")
    assert tried == ["cuda:0", "cuda:0", "cuda:1"]


def test_a_gpu_is_tried_with_a_convolution_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cpu:0`` is none of the names that are taken untried."""
    devices._refuse_broken("cpu:0", TWO)

    def without_engines(numbers: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        assert (numbers.dtype, kernel.dtype) == (torch.half, torch.half)
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(torch.nn.functional, "conv3d", without_engines)
    with pytest.raises(MisconfiguredError, match=r"does not compute \(GET was unable to find an engine"):
        devices._refuse_broken("cpu:0", TWO)


def test_what_pytorch_says_of_cuda_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: the driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(devices, "_pytorch_build", lambda: vars(torch.version))
    found = visible_gpus()
    assert found.problem == "CUDA initialization: the driver is too old"
    assert (found.names, found.pytorch) == ((), torch.__version__)


def test_the_build_is_known_without_loading_pytorch() -> None:
    found, expected = devices._pytorch_build(), vars(torch.version)
    assert {key: found[key] for key in torch.version.__all__} == {
        key: expected[key] for key in torch.version.__all__
    }
    assert str(found["__version__"]) == str(torch.__version__)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_that_is_known_is_taken(device: str) -> None:
    assert SegmentPolicy(device=device).device == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:0,1", "CPU", "mps"])
def test_a_device_that_is_unknown_is_a_wrong_setting(device: str) -> None:
    with pytest.raises(ValueError, match=r"segment\.device is auto, cpu, cuda, or one GPU as cuda:0"):
        SegmentPolicy(device=device)
