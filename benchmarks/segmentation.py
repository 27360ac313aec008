"""The node's segmentation against stock ``nnUNetPredictor``: image to mask, same weights, same tiles.

    python -m benchmarks.segmentation                    # all: the shipped models and the large networks
    python -m benchmarks.segmentation --networks small   # the shipped models and the 20 patients alone

Each run is a process of its own, with its model loaded and its image in memory before the clock starts: of a
shipped model five in turns, on a simulated patient in full size; of a large network one. Beside speed and
memory: the overlap of the masks (Dice) on these images and, for the shipped models, on 20 simulated patients
of normal size.

``standard`` and ``resencl`` have random weights, and tiles that don't overlap (step 1.0), which the peer has
too. They look at the middle of the patient: two tiles and one, for the peer needs minutes for each. Their
masks are noise, in air as well, so that their Dice shows the most that rounding can do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import (
    MIN_RUNS,
    ROOT,
    Measure,
    Result,
    Row,
    Table,
    forget_peak,
    interleaved,
    keep,
    peak_mb,
)
from benchmarks.full_study import PATIENT, stock_predictor

NAME = "segmentation"
HOME = ROOT / ".cache" / NAME
SMALL = {"M1": "PET/CT", "M2": "SPECT/CT", "M4": "SPECT/CT with prior"}
LARGE = {
    "standard": "random weights, 6 stages 32-320, tile 192 x 112 x 112",
    "resencl": "random weights, ResEnc L, tile 192 x 192 x 192",
}
MIDDLE = {"standard": (403, 117, 117), "resencl": (211, 143, 143)}
"""Voxels of the PET/CT that the large networks are shown."""

COHORT = tuple((centre, number) for centre in "AB" for number in range(100, 110))
"""Simulated patients that no shipped model was trained on: theirs are the first of centre A."""

EVERY = ",".join(["small", *LARGE])
FASTER, SMALLER, EQUAL = 5.0, 0.5, 0.999

Run = dict[str, Any]


def channels_of(role: str, patient: Any) -> tuple[Any, tuple[float, ...]]:
    """A simulated patient as a model sees him, with the spacing in mm; M4 is shown the truth."""
    from app.domain.decision import ModelRole
    from app.inference.models.channels import build_input, canonical

    scan = patient.pet if role == "M1" else patient.spect
    prior = scan.truth.array > 0 if role == "M4" else None
    channels, orientation = canonical(build_input(ModelRole(role), scan.functional, scan.ct, prior))
    return channels, orientation.spacing_zyx_mm


def simulated(centre: str, number: int, size: str) -> Any:
    """The patient of that number."""
    from app.phantom.centres import Centre, Size
    from app.phantom.patient import simulate_patient

    return simulate_patient(number, Centre(centre), Size(size))


def image(role: str) -> Path:
    """The channels of the patient in full size, made when they are not there."""
    path = HOME / f"{role}.npy"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        channels, spacing = channels_of(role, simulated("A", PATIENT, "full"))
        path.with_suffix(".json").write_text(json.dumps([float(length) for length in spacing]))
        np.save(path.with_suffix(".part.npy"), channels)
        path.with_suffix(".part.npy").rename(path)
    return path


def model(name: str) -> Path:
    """A model's folder: a shipped one, or one with random weights, made when it is not there."""
    if name in SMALL:
        return ROOT / "models" / f"psma-{name.lower()}-simulated"
    folder = HOME / name
    if not folder.exists():
        _write_random(name, folder)
    return folder


def _write_random(name: str, folder: Path) -> None:
    """M1's plans with another network, step and tile; weights as PyTorch draws them."""
    import torch
    from safetensors.torch import save_file

    from app.inference.models.card import (
        CARD_FILE,
        read_card,
        read_description,
        write_card,
        write_description,
    )
    from app.inference.models.network import build_network, distinct_weights
    from app.inference.models.store import sha256_of

    card = read_card(model("M1"))
    plans, dataset = read_description(model("M1"))
    configuration = plans["configurations"][card.inference.configuration]
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments.update(
        n_stages=6,
        features_per_stage=[32, 64, 128, 256, 320, 320],
        kernel_sizes=[[3, 3, 3]] * 6,
        strides=[[1, 1, 1], *[[2, 2, 2]] * 4, [2, 1, 1]],
        n_conv_per_stage=[2] * 6,
        n_conv_per_stage_decoder=[2] * 5,
    )
    configuration.update(patch_size=[192, 112, 112], spacing=[3.27, 2.8646, 2.8646])
    if name == "resencl":
        configuration["architecture"]["network_class_name"] = (
            "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
        )
        del arguments["n_conv_per_stage"]
        arguments.update(
            n_blocks_per_stage=[1, 3, 4, 6, 6, 6],
            strides=[[1, 1, 1], *[[2, 2, 2]] * 5],
            n_conv_per_stage_decoder=[1] * 5,
        )
        configuration.update(patch_size=[192, 192, 192], spacing=[3.0, 2.0364, 2.0364])
    folder.mkdir(parents=True)
    write_description(folder, plans, dataset)
    torch.manual_seed(1)
    network = build_network(plans, dataset, card.inference.configuration)
    save_file(distinct_weights(network.state_dict()), str(folder / "weights.safetensors"))
    files = {path.name: sha256_of(path) for path in folder.iterdir() if path.name != CARD_FILE}
    settings = card.inference.model_copy(update={"tile_step_size": 1.0})
    write_card(card.model_copy(update={"id": name, "files": files, "inference": settings}), folder)


def runner(which: str, name: str) -> Any:
    """``(channels, spacing) -> (mask, numbers)``, model loaded, by the node or by nnU-Net's own predictor.

    ``numbers`` is the type of the network's activations, such as "float32".
    """
    folder = model(name)
    if which == "peer":
        predictor = stock_predictor(folder)
        return lambda channels, spacing: (
            predictor.predict_single_npy_array(channels, {"spacing": list(spacing)}, None, None, False) == 1,
            "float32",
        )
    from app.domain.volume import Grid
    from app.inference.models.card import read_card
    from app.inference.models.channels import NetworkInput
    from app.inference.models.store import VerifiedModel
    from app.inference.running.segmenter import Segmenter

    segmenter = Segmenter(VerifiedModel(read_card(folder), folder), "cpu")

    def run(channels: Any, spacing: Sequence[float]) -> Any:
        z, y, x = spacing
        grid = Grid.axis_aligned(channels.shape[1:], (x, y, z), (0.0, 0.0, 0.0))
        found = segmenter.run(NetworkInput(channels, grid))
        return found.mask, str(found.computed.number).removeprefix("torch.")

    return run


def child(which: str, name: str) -> Run:
    """One run in this process: seconds, the most memory, what of it was there before, and the numbers."""
    path = image(name if name in SMALL else "M1")
    channels, spacing = middle(np.load(path), name), json.loads(path.with_suffix(".json").read_text())
    run = runner(which, name)
    forget_peak()
    before = peak_mb()
    begun = time.perf_counter()
    mask, numbers = run(channels, spacing)
    seconds = time.perf_counter() - begun
    np.savez_compressed(HOME / f"{name}-{which}.npz", mask=mask)
    figures = {"s": seconds, "mb": peak_mb(), "before_mb": before}
    return {**figures, "voxels": int(mask.sum()), "numbers": numbers}


def middle(channels: Any, name: str) -> Any:
    """What a network is shown of ``(c, z, y, x)``: a small one everything."""
    wanted = MIDDLE.get(name, channels.shape[1:])
    starts = [(there - length) // 2 for there, length in zip(channels.shape[1:], wanted, strict=True)]
    box = (slice(start, start + length) for start, length in zip(starts, wanted, strict=True))
    return np.ascontiguousarray(channels[(slice(None), *box)])


def dice(name: str) -> float:
    """Overlap of the last two masks of the runs."""
    ours, peer = (np.load(HOME / f"{name}-{which}.npz")["mask"] for which in ("ours", "peer"))
    return overlap(ours, peer)


def overlap(ours: Any, peer: Any) -> float:
    """Dice; 1 where both masks are empty."""
    both = int(ours.sum()) + int(peer.sum())
    return 2 * int((ours & peer).sum()) / both if both else 1.0


def cohort() -> Table:
    """The overlap on simulated patients, in this process."""
    runners = {name: (runner("ours", name), runner("peer", name)) for name in SMALL}
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in SMALL}
    for centre, number in COHORT:
        patient = simulated(centre, number, "normal")
        for name, both in runners.items():
            image = channels_of(name, patient)
            ours, peer = (run(*image)[0] for run in both)
            found[name].append((overlap(ours, peer), int((ours != peer).sum()), int(peer.sum())))
        print(f"  {centre}{number}: {[masks[-1] for masks in found.values()]}", file=sys.stderr, flush=True)
    lines = []
    for name, masks in found.items():
        dices, changed, marked = zip(*masks, strict=True)
        lines.append((name, f"{len(masks)}", f"{min(dices):.5f}", f"{sum(changed)}", f"{sum(marked)}"))
    columns = ("model", "patients", "lowest Dice", "voxels that differ", "lesion voxels of the peer")
    return Table("The same masks on simulated patients", columns, tuple(lines))


def rows(name: str, runs: int) -> list[Row]:
    """Speed and memory, and the overlap of the masks."""
    kept: dict[str, list[Run]] = {"ours": [], "peer": []}
    image(name if name in SMALL else "M1"), model(name)

    def once(which: str) -> float:
        words = [sys.executable, "-m", f"benchmarks.{NAME}", "--child", which, name]
        done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found: Run = json.loads(done.stdout.splitlines()[-1])
        print(f"  {name} {which}: {found}", file=sys.stderr, flush=True)
        kept[which].append(found)
        return float(found["s"])

    interleaved(lambda: once("ours"), lambda: once("peer"), runs)
    return rows_of(name, kept["ours"], kept["peer"], dice(name))


def rows_of(name: str, ours: Sequence[Run], peer: Sequence[Run], same: float) -> list[Row]:
    """The lines of a network; each says with which numbers both were computed."""
    title = f"{name}: {SMALL[name]}" if name in SMALL else f"PET/CT's middle, {LARGE[name]}"
    numbers = (" or ".join(sorted({run["numbers"] for run in runs})) for runs in (ours, peer))
    note = "ours in {}, the peer in {}; Dice of the masks {:.5f}".format(*numbers, same)
    seconds = (tuple(run["s"] for run in runs) for runs in (ours, peer))
    speed = Row(f"segment {title}", "nnUNetPredictor", Measure.SPEED, *seconds, FASTER, note)
    base = ours[-1]["before_mb"]
    why = f"the whole process; {base:.0f} MB were there before the call: libraries, weights and the image"
    whole = (tuple(run["mb"] for run in runs) for runs in (ours, peer))
    added = (tuple(run["mb"] - run["before_mb"] for run in runs) for runs in (ours, peer))
    by_call = f"memory that the call adds, {title}"
    return [
        speed,
        Row(f"memory, {title}", "nnUNetPredictor", Measure.SHARE, *whole, SMALLER, why),
        Row(by_call, "nnUNetPredictor", Measure.SHARE, *added),
    ]


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help="of a shipped model; of a large one: 1")
    parser.add_argument("--networks", default=EVERY, help=f"some of {EVERY}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    chosen = options.networks.split(",")
    names = [*(SMALL if "small" in chosen else ()), *(name for name in chosen if name != "small")]
    found = [row for name in names for row in rows(name, options.runs if name in SMALL else 1)]
    tables = [cohort()] if "small" in chosen else []
    result = Result.of(NAME, found, tables, packages=("torch", "nnunetv2"))
    arguments = "" if options.networks == EVERY else f"--networks {options.networks}"
    path = keep(replace(result, arguments=arguments))
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
