"""On a GPU: the way that fits, the same sums as on the CPU, and an end when nothing fits.

No GPU takes part. The predictor runs on the CPU, its memory is a stand-in, and running out of it is raised
where CUDA would raise it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from app.domain.decision import ModelRole
from app.domain.volume import Grid
from app.errors import MisconfiguredError, RetryLaterError, StartOverError
from app.inference.models.channels import NetworkInput
from app.inference.models.store import ModelStore
from app.inference.policy import Precision
from app.inference.running import gpu_predictor, segmenter
from app.inference.running.gpu_memory import Way, ways
from app.inference.running.gpu_predictor import CudaMemory, GpuPredictor, is_out_of_memory, lock_of
from app.inference.running.preprocessing import Prepared
from tests.inference.tiny_model import write_tiny_model

IMAGE = (32, 20, 24)
LARGE = 10**12
OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@dataclass
class FakeMemory:
    """A GPU's memory that a test sets."""

    free: int = LARGE
    total: int = LARGE
    name: str = "Test GPU"
    spoilt: bool = False
    measured: list[int] = field(default_factory=list)

    def measure(self) -> tuple[int, int]:
        self.measured.append(self.free)
        return self.free, self.total

    def computes(self) -> bool:
        return not self.spoilt


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model; :func:`image` takes several of its tiles."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder)
    return folder


@pytest.fixture
def predictor(models: Path, monkeypatch: pytest.MonkeyPatch) -> GpuPredictor:
    return made(models, monkeypatch)


def made(models: Path, monkeypatch: pytest.MonkeyPatch) -> GpuPredictor:
    """The product's predictor for a GPU, which is the CPU here."""
    monkeypatch.setattr(gpu_predictor, "CudaMemory", lambda device: FakeMemory())
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    found = segmenter._predictor(ModelStore(models).load(ModelRole.M2), torch.device("cuda:0"))
    assert isinstance(found, GpuPredictor)
    found.device = torch.device("cpu")
    return found


def memory_of(predictor: GpuPredictor) -> FakeMemory:
    memory = predictor._memory
    assert isinstance(memory, FakeMemory)
    return memory


def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).standard_normal((2, *IMAGE)).astype(np.float32))


def prepared() -> Prepared:
    """The image on the network's own grid, with something of the body everywhere."""
    spacing_mm, box = (4.0, 4.0, 4.0), tuple(slice(0, length) for length in IMAGE)
    return Prepared(image(), np.ones(IMAGE, dtype=np.bool_), spacing_mm, box, IMAGE)


def outputs(predictor: GpuPredictor) -> torch.Tensor:
    with torch.inference_mode():
        return predictor.differences(prepared())[0]


def network_input() -> NetworkInput:
    return NetworkInput(image().numpy(), Grid.axis_aligned(IMAGE, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0)))


def every_way(predictor: GpuPredictor) -> tuple[Way, ...]:
    return ways(predictor._shape, IMAGE)


def on_the_cpu(models: Path, mirrored: tuple[int, ...] = ()) -> torch.Tensor:
    """What the product's predictor for the CPU gives."""
    plain = segmenter._predictor(ModelStore(models).load(ModelRole.M2), torch.device("cpu"))
    assert not isinstance(plain, GpuPredictor)
    plain.networks = replace(plain.networks, mirrored=mirrored)
    with torch.inference_mode():
        return plain.differences(prepared())[0]


@pytest.mark.parametrize("mirrored", [(), (0, 2)])
@pytest.mark.parametrize("number", [0, 1], ids=["all on the GPU", "sums in main memory"])
def test_the_outputs_are_those_of_the_cpu_wherever_the_sums_are(
    models: Path, monkeypatch: pytest.MonkeyPatch, number: int, mirrored: tuple[int, ...]
) -> None:
    expected = on_the_cpu(models, mirrored)
    predictor = made(models, monkeypatch)
    predictor.networks = replace(predictor.networks, mirrored=mirrored)
    predictor.device = torch.device("cpu:0")  # another name than that of main memory
    memory_of(predictor).free = every_way(predictor)[number].bytes_needed
    places = note_places(monkeypatch)
    found = outputs(predictor)
    assert predictor.way == every_way(predictor)[number]
    assert places == [torch.device(["cpu:0", "cpu"][number])]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)  # other kernels on the CPU
    memory_of(predictor).free = every_way(predictor)[1 - number].bytes_needed
    assert torch.equal(outputs(predictor), found)


def note_places(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Where each image's sums are made."""
    places: list[torch.device] = []
    sums = GpuPredictor._sums

    def noted(self: GpuPredictor, tiles: Any, place: torch.device, number: torch.dtype) -> torch.Tensor:
        places.append(place)
        return sums(self, tiles, place, number)

    monkeypatch.setattr(GpuPredictor, "_sums", noted)
    return places


def test_on_a_gpu_numbers_are_of_half_precision_unless_single_is_asked_for(predictor: GpuPredictor) -> None:
    predictor.device = torch.device("cuda:0")
    assert predictor._number_here is torch.half
    predictor.precision = Precision.FP32
    assert predictor._number_here is torch.float32


def test_the_sums_are_where_the_way_says(predictor: GpuPredictor) -> None:
    predictor.device = torch.device("cuda:1")
    places = []
    for way in every_way(predictor):
        predictor.way = way
        places.append(str(predictor._place_of_sums()))
    assert places == ["cuda:1", *["cpu"] * (len(places) - 1)]


def test_the_weights_on_the_gpu_count_as_free_once(predictor: GpuPredictor) -> None:
    """Between two images, in half precision."""
    memory_of(predictor).free = 1000
    assert predictor._free() == (1000, LARGE)
    predictor.device = torch.device("cuda:0")
    weights: Any = [SimpleNamespace(device=torch.device("cuda:0"))]
    predictor.network = SimpleNamespace(parameters=lambda: iter(weights))
    assert predictor._free() == (1000 + 2 * predictor._shape.parameters, LARGE)


def test_a_tile_is_halved_where_the_trained_one_does_not_fit_and_the_next_image_has_the_choice_again(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    note_tiles(predictor, monkeypatch, seen)
    trained, halved = every_way(predictor)[0], every_way(predictor)[2]
    memory_of(predictor).free = halved.bytes_needed
    outputs(predictor)
    assert set(seen) == {halved.tile}
    assert halved.tile != trained.tile == predictor.networks.tile
    memory_of(predictor).free = LARGE
    seen.clear()
    outputs(predictor)
    assert set(seen) == {trained.tile}


def note_tiles(predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, ...]]) -> None:
    """Every tile that the network looks at is noted."""
    look = predictor.network.forward

    def noted(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tile.shape[2:]))
        result: torch.Tensor = look(tile)
        return result

    monkeypatch.setattr(predictor.network, "forward", noted)


def run_out(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch, too_much: Callable[[Way], bool],
    error: Exception = OOM,
) -> list[Way]:  # fmt: skip
    """The network runs out of memory in the ways that are ``too_much``, at its second tile."""
    look, tried = predictor.network.forward, list[Way]()

    def looked(tile: torch.Tensor) -> torch.Tensor:
        assert predictor.way is not None
        if predictor.way in tried and too_much(predictor.way):
            raise error
        if predictor.way not in tried:
            tried.append(predictor.way)
        result: torch.Tensor = look(tile)
        return result

    monkeypatch.setattr(predictor.network, "forward", looked)
    return tried


def test_running_out_all_the_same_goes_on_in_the_next_way_with_the_right_outputs(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = on_the_cpu(models)
    predictor = made(models, monkeypatch)
    tried = run_out(predictor, monkeypatch, lambda way: way.sums_on_gpu)
    found = outputs(predictor)
    assert tried == list(every_way(predictor)[:2])
    assert predictor.way == tried[-1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert "GPU memory ran out (OutOfMemoryError)" in caplog.text


@pytest.mark.parametrize("total", [LARGE, 1000])
def test_running_out_in_every_way_is_an_error_and_no_mask(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    memory_of(predictor).total = total
    tried = run_out(predictor, monkeypatch, lambda way: True)
    expected = RetryLaterError if total == LARGE else MisconfiguredError
    with pytest.raises(expected, match=r"in tiles of 4 x 4 x 4 voxels, its smallest; Test GPU has"):
        outputs(predictor)
    assert tried == list(every_way(predictor))


def test_a_gpu_that_is_full_at_the_moment_is_tried_later_and_nothing_is_begun(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    note_tiles(predictor, monkeypatch, seen)
    memory_of(predictor).free = 1000
    with pytest.raises(RetryLaterError, match=r"0\.0 GB free of 1000\.0 GB; end what else uses it"):
        outputs(predictor)
    memory_of(predictor).total = 2000
    with pytest.raises(MisconfiguredError, match="use a larger GPU"):
        outputs(predictor)
    assert not seen


def test_another_fault_is_no_lack_of_memory_and_is_not_tried_again(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = run_out(predictor, monkeypatch, lambda way: True, RuntimeError("an illegal memory access"))
    with pytest.raises(RuntimeError, match="an illegal memory access"):
        outputs(predictor)
    assert len(tried) == 1


def test_a_gpu_that_computes_nothing_any_more_asks_for_a_new_start(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = RuntimeError("CUDA error: an illegal memory access\nCUDA kernel errors might be reported later")
    run_out(predictor, monkeypatch, lambda way: True, fault)
    memory_of(predictor).spoilt = True
    with pytest.raises(StartOverError, match=r"Test GPU failed \(CUDA error: an illegal memory access\)"):
        outputs(predictor)


def test_a_gpu_that_failed_under_another_study_asks_for_a_new_start_before_its_memory_is_known(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(memory: FakeMemory) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(FakeMemory, "measure", failed)
    memory_of(predictor).spoilt = True
    with pytest.raises(StartOverError, match="Test GPU failed"):
        outputs(predictor)


def test_a_device_that_is_not_there_does_not_compute() -> None:
    assert CudaMemory(torch.device("cpu")).computes()
    assert not CudaMemory(torch.device("meta")).computes()  # holds no numbers


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_outputs_that_are_no_numbers_are_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: str
) -> None:
    """Never "no lesion", which is what the largest of NaN would be."""
    if kind == "GPU":
        made_predictor = made(models, monkeypatch)
        monkeypatch.setattr(segmenter, "_predictor", lambda model, device, precision: made_predictor)
    model = segmenter.Segmenter(ModelStore(models).load(ModelRole.M2), "cpu")
    assert isinstance(model._predictor, GpuPredictor) is (kind == "GPU")
    look = model._predictor.network.forward
    monkeypatch.setattr(model._predictor.network, "forward", lambda tile: look(tile) * float(value))
    with pytest.raises(MisconfiguredError, match="not finite"):
        model.run(network_input())


def test_a_failed_run_leaves_no_thread_and_no_number_of_threads_behind(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, computing = threading.active_count(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_out(predictor, monkeypatch, lambda way: True)
        with pytest.raises(RetryLaterError):
            outputs(predictor)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(computing)
    assert threading.active_count() == before


def test_two_chains_on_one_gpu_wait_for_each_other(
    predictor: GpuPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one holds the GPU the other doesn't even measure, or both would count on the same memory."""
    worker = threading.Thread(target=lambda: outputs(predictor))
    with lock_of("cpu"):
        worker.start()
        worker.join(0.2)
        assert memory_of(predictor).measured == []
    worker.join()
    assert memory_of(predictor).measured == [LARGE]
    assert lock_of("cuda:0") is lock_of("cuda:0") is not lock_of("cuda:1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OOM, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), False),
    ],
)
def test_lack_of_memory_is_distinguished_from_other_faults(said: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(said) is expected


def test_a_gpus_convolutions_are_those_that_give_the_same_bits_each_time(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment does one chain let cuDNN try what is fastest: another may be at work on its GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.backends.cuda.matmul.allow_tf32 = True
    monkeypatch.setattr(gpu_predictor, "CudaMemory", lambda device: FakeMemory())
    set_to: list[bool] = []
    flag: Any = type(torch.backends.cudnn).__dict__["benchmark"]

    def note(flags: Any, value: bool) -> None:
        set_to.append(value)
        flag.__set__(flags, value)

    noted = property(lambda flags: flag.__get__(flags, None), note)
    with monkeypatch.context() as patched:
        patched.setattr(type(torch.backends.cudnn), "benchmark", noted)
        found = segmenter._predictor(ModelStore(models).load(ModelRole.M2), torch.device("cuda:0"))
    assert found.device == torch.device("cuda:0")
    assert set_to == [False]
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_shape_is_that_of_the_models_plans(predictor: GpuPredictor, models: Path) -> None:
    shape = predictor._shape
    trained = json.loads((models / "tiny" / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert shape.tile == tuple(trained["patch_size"])
    assert (shape.channels, shape.heads, shape.features, shape.mirrored) == (2, 2, (4, 8), False)
    assert shape.parameters == sum(weight.numel() for weight in predictor.network.parameters())
    assert shape.number_bytes == 2


def test_the_segmenter_tells_gpu_and_halved_tile(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_predictor = made(models, monkeypatch)
    built: Any = lambda model, device, precision: made_predictor  # noqa: E731
    monkeypatch.setattr(segmenter, "_predictor", built)
    model = segmenter.Segmenter(ModelStore(models).load(ModelRole.M2), "cpu")
    run = model.run(network_input())
    assert [decision.line for decision in run.decisions] == [
        "the network ran on a GPU (Test GPU)"  # in half precision, were it one
    ]
    memory_of(made_predictor).free = every_way(made_predictor)[2].bytes_needed
    halved = model.run(network_input())
    assert halved.decisions[1].line.startswith(
        "warning: the network saw tiles of 8 x 16 x 16 voxels instead of 16 x 16 x 16 voxels: the GPU had"
    )
    assert len({run.computed_by, halved.computed_by, ""}) == 3
