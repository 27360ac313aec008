"""A GPU that is demanded and absent ends every command; two GPUs mean two chains, each with its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from app.chain import application
from app.chain.folder import process_folder
from app.cli import operate, options
from app.cli.main import app
from app.cli.options import ComputePlan, compute_plan, device_cautions
from app.errors import MisconfiguredError
from app.inference import devices
from app.inference.devices import VisibleGpus
from app.node.policy import NodePolicy
from app.node.watch.health import CheckResult
from app.settings import load_settings

TWO = VisibleGpus(("Test A", "Test B"), "2.13.0+cu130", "13.0")
NONE = VisibleGpus((), "2.13.0+cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, TWO)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, NONE)


def see(monkeypatch: pytest.MonkeyPatch, found: VisibleGpus) -> None:
    """PyTorch sees these GPUs, and each computes."""
    for module in (devices, options):
        monkeypatch.setattr(module, "visible_gpus", lambda: found)
    monkeypatch.setattr(devices, "_refuse_broken", lambda device, seen: None)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("words", "bound_to"),
    [
        ([], ["cuda:0", "cuda:1"]),
        (["node.workers=3"], ["cuda:0", "cuda:1", "cuda:0"]),
        (["node.workers=1"], ["cuda:0"]),
        (["segment.device=cuda:1"], ["cuda:1"]),
        (["segment.device=cuda:1", "node.workers=2"], ["cuda:1", "cuda:1"]),
        (["segment.device=cpu"], ["cpu"]),
    ],
)
def test_each_chain_of_the_node_has_one_gpu_in_turn(
    words: list[str], bound_to: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def chain(settings: Any, *rest: object) -> Any:
        made.append(settings)
        return settings

    monkeypatch.setattr(application, "ChainProcessor", chain)
    settings = load_settings(overrides=words)
    stores: Any = SimpleNamespace()
    models: Any = SimpleNamespace(shadows=(), wants_prior=True)
    plan = operate._plan(compute_plan(settings), models, True, stores)
    assert plan.processors().size == len(bound_to)
    assert [chain.segment.device for chain in made] == bound_to
    # where a chain runs is no setting of its results
    assert {chain.digest for chain in made} == {settings.digest}


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_there_is_one_chain_on_the_cpu_and_it_says_so() -> None:
    plan = compute_plan(load_settings())
    assert (plan.devices, plan.workers) == (("cpu",), 1)
    assert str(plan) == (
        "the networks run on the CPU (segment.device is auto; "
        "no GPU: PyTorch 2.13.0+cpu is a build without CUDA)"
    )


def test_gpus_are_named() -> None:
    printed = str(ComputePlan(load_settings(), ("cuda:0", "cuda:1"), TWO))
    assert printed == "the networks run on cuda:0 (Test A), cuda:1 (Test B), 2 worker(s)"


def test_a_number_of_workers_below_zero_is_refused() -> None:
    assert NodePolicy().workers == 0
    with pytest.raises(ValueError, match="workers: found -1, expected 0 to 64"):
        NodePolicy(workers=-1)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_folder_mode_refuses_before_it_reads_and_its_outcome_says_why(device: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    settings = load_settings(overrides=[f"segment.device={device}"])
    with pytest.raises(MisconfiguredError, match=rf"segment\.device is {device}: expected"):
        process_folder(tmp_path / "in", tmp_path / "out", settings)
    outcome = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert outcome["status"] == "failed"
    assert "build without CUDA" in outcome["message"]


@pytest.mark.usefixtures("no_gpu")
def test_the_node_refuses_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.node.watch.log.configure_logging", lambda *where: None)
    overrides = ["segment.device=cuda", f"node.data_dir={tmp_path / 'data'}"]
    with pytest.raises(MisconfiguredError, match=r"segment\.device is cuda: expected a GPU"):
        operate._started(None, overrides, receive=False)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def other_checks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CheckResult("models", True, "right")
    monkeypatch.setattr("app.cli.operate._check_models", lambda settings: right)
    monkeypatch.setattr("app.node.watch.health.node_checks", lambda *policies: ())


@pytest.mark.usefixtures("no_gpu", "other_checks_pass")
def test_check_tells_the_device_and_ends_with_2_where_a_gpu_is_demanded_in_vain() -> None:
    fine = CliRunner().invoke(app, ["check"])
    assert fine.exit_code == 0
    assert "device    the networks run on the CPU (segment.device is auto; no GPU" in fine.output
    refused = CliRunner().invoke(app, ["check", "--set", "segment.device=cuda"])
    assert refused.exit_code == 2
    assert "FAILED  device    segment.device is cuda: expected a GPU, found no GPU" in refused.output
    assert "ok      models" in refused.output


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("words", "caution"),
    [
        ([], ""),
        (["resources.gpu=1", "segment.device=cpu"], ""),
        (["resources.gpu=1"], "resources.gpu asks for 1 GPU(s), but found no GPU"),
        (["segment.device=cuda"], ""),
    ],
)
def test_a_package_that_asks_for_gpus_and_runs_without_is_cautioned(words: list[str], caution: str) -> None:
    cautions = device_cautions(load_settings(overrides=words))
    assert len(cautions) == (1 if caution else 0)
    assert caution in "".join(cautions)
