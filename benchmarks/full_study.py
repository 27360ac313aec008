"""What speed is measured on: a simulated patient in full size, made once, and stock nnU-Net as a peer."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import ROOT

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

PATIENT = 10
"""Of centre A: 11 lesions on PET, 7 on SPECT, and M1 finds enough of them for a prior."""

HOME = ROOT / ".cache" / "full-study"


def full_study() -> Path:
    """A folder with the PET/CT in ``pet``, the SPECT/CT weeks later in ``spect``, the truth in ``truth``.

    Made by ``psma-node phantom --size full`` when it is not there: a minute, 440 MB.
    """
    if not HOME.exists():
        part = HOME.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        words = ["--patient", str(PATIENT), "--centre", "A", "--size", "full", "--out", str(part / "made")]
        subprocess.run([sys.executable, "-m", "app", "phantom", *words], cwd=ROOT, check=True)
        for study, folders in {"pet": ("pet", "ct_pet"), "spect": ("spect", "ct_spect")}.items():
            (part / study).mkdir()
            for folder in folders:
                (part / "made" / folder).rename(part / study / folder)
        (part / "made" / "truth").rename(part / "truth")
        (part / "made").rmdir()
        part.rename(HOME)
    return HOME


def stock_predictor(model: Path) -> nnUNetPredictor:
    """nnU-Net's own predictor with a shipped model's weights and its card's step and mirroring, on the CPU.

    Args:
        model: the model's folder.
    """
    import torch
    import yaml
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from safetensors.torch import load_file

    card = yaml.safe_load((model / "model.yaml").read_text(encoding="utf-8"))
    plans, dataset = (json.loads((model / name).read_text()) for name in ("plans.json", "dataset.json"))
    manager, settings = PlansManager(plans), card["inference"]
    configuration = manager.get_configuration(settings["configuration"])
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset["channel_names"]),
        manager.get_label_manager(dataset).num_segmentation_heads,
        deep_supervision=False,
    )
    network.load_state_dict(load_file(model / "weights.safetensors"), strict=False)
    axes = tuple(settings["mirroring_axes"]) or None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints advice about CPUs
        predictor = nnUNetPredictor(
            tile_step_size=settings["tile_step_size"],
            use_mirroring=axes is not None,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
    state = dict(network.state_dict())
    predictor.manual_initialization(network, manager, configuration, [state], dataset, "nnUNetTrainer", axes)
    return predictor
