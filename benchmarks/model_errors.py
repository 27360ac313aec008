"""What the shipped models have not learnt: the table ``errors`` of :mod:`benchmarks.model_limits`.

M4 gets M1's lesions, the true ones or none, moved by the simulator's own poses (no registration, no check).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from app.domain.decision import ModelRole
from app.domain.volume import Grid, LabelMap
from app.imaging.labels import label_lesions
from app.imaging.resampling import resample_mask
from app.inference.models.channels import Orientation, build_input
from app.inference.policy import SegmentPolicy
from app.phantom.acquisition import Acquisition
from app.phantom.anatomy.anatomy import Anatomy, build_anatomy
from app.phantom.anatomy.body import Tissue
from app.phantom.anatomy.lesions import SimulatedLesion, draw_lesions
from app.phantom.anatomy.shapes import Pose, Shape, stencil
from app.phantom.centres import CENTRES, Centre, Modality
from app.phantom.patient import VERSION, SimulatedPatient, simulate_patient

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
VOLUMES_ML = (0.5, 1.0, 2.0, 5.0)
NEAR_VOXELS = 2
"""A false component beside an organ is its spill-out."""

Mask = NDArray[np.bool_]


@lru_cache(maxsize=2)
def patient_of(number: int, centre: Centre) -> SimulatedPatient:
    """A simulated patient."""
    return simulate_patient(number, centre)


def dice(found: Mask, truth: Mask) -> float | None:
    """DSC; ``None`` when both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else None


def probabilities(folder: Path, channels: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """A model's probability of lesion, ``(z, y, x)`` on the functional grid, by nnU-Net itself."""
    predictor = _predictor(folder)
    way = Orientation.of(grid)
    turned = np.ascontiguousarray(way.apply(channels), dtype=np.float32)
    _, both = predictor.predict_single_npy_array(
        turned, {"spacing": list(way.spacing_zyx_mm)}, None, None, True
    )
    return np.asarray(way.revert(both[1]), dtype=np.float32)


@lru_cache(maxsize=3)
def _predictor(folder: Path):  # type: ignore[no-untyped-def]
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from safetensors.torch import load_file

    from app.inference.models.card import WEIGHTS_FILE
    from app.inference.models.network import build_network, load_weights

    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    network = build_network(plans, dataset, "3d_fullres")
    load_weights(network, load_file(str(folder / WEIGHTS_FILE)))
    predictor = nnUNetPredictor(
        tile_step_size=0.75,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "PsmaSmallTrainer", None
    )
    return predictor


@dataclass(frozen=True, eq=False)
class Result:
    """A model on a scan."""

    name: str
    probability: NDArray[np.float32]
    scan: Acquisition
    organs: dict[str, Mask]


def lesions_at(probability: NDArray[np.float32], grid: Grid, threshold: float) -> LabelMap:
    """As the node makes them: components of at least its smallest lesion."""
    return label_lesions(probability > threshold, grid, SegmentPolicy().minimum_lesion_ml).labels


def results(options: argparse.Namespace) -> Iterator[Result]:
    """M1 on every PET, M2 on every SPECT, M4 on every SPECT with three priors."""
    folders = {role: next(options.models.glob(f"psma-{role.lower()}-*")) for role in options.roles}
    for centre in map(Centre, options.centres):
        for number in range(options.first, options.first + options.patients):
            patient = patient_of(number, centre)
            organs = {m: organ_masks(number, centre, m) for m in Modality}
            found = None
            for role, folder in folders.items():
                for name, scan, prior in _inputs(ModelRole(role), patient, found):
                    channels = build_input(ModelRole(role), scan.functional, scan.ct, prior)
                    probability = probabilities(folder, channels.channels, channels.grid)
                    if role == ModelRole.M1:
                        found = lesions_at(probability, channels.grid, 0.5)
                    yield Result(f"{name} {centre.value}", probability, scan, organs[scan.scanner.modality])


def _inputs(
    role: ModelRole, patient: SimulatedPatient, found: LabelMap | None
) -> Iterator[tuple[str, Acquisition, Mask | None]]:
    if role is ModelRole.M1:
        yield "M1", patient.pet, None
    elif role is ModelRole.M2:
        yield "M2", patient.spect, None
    elif role is ModelRole.M4:
        grid = patient.spect.functional.grid
        moved = patient.pet.pose @ np.linalg.inv(patient.spect.pose)
        if found is not None and found.count:
            yield "M4, prior of M1", patient.spect, resample_mask(found, grid, moved).mask
        yield "M4, true prior", patient.spect, resample_mask(patient.pet.truth, grid, moved).mask
        yield "M4, no prior", patient.spect, np.zeros(grid.shape, np.bool_)


def organ_masks(number: int, centre: Centre, modality: Modality) -> dict[str, Mask]:
    """Where uptake is that is no drawn lesion: by organ, on the functional grid, without the soft warp."""
    seed = np.random.SeedSequence((VERSION, list(Centre).index(centre), number))
    body, disease, *_ = (np.random.default_rng(child) for child in seed.spawn(4))
    anatomy = build_anatomy(body)
    lesions = draw_lesions(disease, anatomy, CENTRES[centre].lesion_median_mm)
    patient = patient_of(number, centre)
    scan = patient.pet if modality is Modality.PET else patient.spect
    masks: dict[str, Mask] = {}
    for name, shape in _named_shapes(anatomy, lesions, modality):
        pose = Pose(scan.pose, np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3)))
        placed = stencil(shape, pose, scan.functional.grid)
        if placed is not None:
            mask = masks.setdefault(name, np.zeros(scan.functional.grid.shape, np.bool_))
            mask[placed.box] |= placed.coverage(scan.functional.grid, placed.box) > 0.5
    return masks


def _named_shapes(
    anatomy: Anatomy, lesions: Sequence[SimulatedLesion], modality: Modality
) -> Iterator[tuple[str, Shape]]:
    for lesion in lesions:
        seen = lesion.on_pet if modality is Modality.PET else lesion.on_spect
        name = "lesion that the reader does not draw" if seen else "lesion without uptake on this scan"
        yield from ((name, part) for part in lesion.parts)
    yield from (("benign focus", shape) for shape in anatomy.benign)
    # a multiple of a tissue's uptake keeps its ratio of PET to SPECT, which is the patient's own
    ratios = {tissue: uptake.pet / uptake.spect for tissue, uptake in anatomy.physiology.items()}
    for shape in anatomy.interior:
        if shape.uptake is not None:
            ratio = shape.uptake.pet / shape.uptake.spect
            tissue = next((t for t, r in ratios.items() if np.isclose(r, ratio, rtol=1e-9)), None)
            if tissue not in (None, Tissue.MUSCLE):
                yield str(tissue), shape


def place_of(component: Mask, organs: dict[str, Mask]) -> str:
    """What a false component lies on or beside; the first that touches it in the order of the masks."""
    near = binary_dilation(component, iterations=NEAR_VOXELS)
    touched = [name for name, mask in organs.items() if (mask & near).any()]
    return touched[0] if touched else "elsewhere"


MENDED: dict[str, Callable[[Mask, LabelMap, LabelMap], Mask]] = {
    "as it is": lambda found, labels, truth: found,
    "no false lesions": lambda found, labels, truth: (
        found & np.isin(labels.array, np.unique(labels.array[truth.mask]))
    ),
    "no missed lesions": lambda found, labels, truth: (
        found | (truth.mask & ~np.isin(truth.array, np.unique(truth.array[found])))
    ),
    "exact outlines": lambda found, labels, truth: (
        (found & ~np.isin(labels.array, np.unique(labels.array[truth.mask])))
        | (truth.mask & np.isin(truth.array, np.unique(truth.array[found])))
    ),
}


def error_limits(options: argparse.Namespace) -> list[str]:
    """The tables of ``errors``."""
    mended: dict[tuple[str, str], list[float]] = defaultdict(list)
    swept: dict[tuple[str, float], list[float]] = defaultdict(list)
    sizes: dict[str, list[float]] = defaultdict(list)
    missed: dict[str, Counter[str]] = defaultdict(Counter)
    false_ml: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results(options):
        grid = result.scan.functional.grid
        truth = label_lesions(result.scan.truth.mask, grid, 0.0).labels
        labels = lesions_at(result.probability, grid, 0.5)
        _count_false(result, truth, labels, false_ml[result.name])
        for name, mend in MENDED.items():
            _add(mended[result.name, name], dice(mend(labels.mask, labels, truth), truth.mask))
        for threshold in THRESHOLDS:
            at = lesions_at(result.probability, grid, threshold).mask
            _add(swept[result.name, threshold], dice(at, truth.mask))
        _tell_missed(result, truth, labels, missed[result.name], sizes[result.name])
        sys.stderr.write(f"{result.name}: {mended[result.name, 'as it is'][-1:]}\n")
    return _error_tables(mended, swept, sizes, missed, false_ml, options.patients)


def _count_false(result: Result, truth: LabelMap, labels: LabelMap, false_ml: Counter[str]) -> None:
    hit = np.unique(labels.array[truth.mask])
    for number in set(range(1, labels.count + 1)) - set(hit.tolist()):
        component = labels.array == number
        place = place_of(component, result.organs)
        false_ml[place] += float(component.sum()) * labels.grid.voxel_ml


def _add(values: list[float], value: float | None) -> None:
    if value is not None:
        values.append(value)


def _tell_missed(
    result: Result, truth: LabelMap, labels: LabelMap, missed: Counter[str], sizes: list[float]
) -> None:
    """Count true and missed lesions by volume, and the found volume over the true one of the found ones."""
    grid = truth.grid
    for number in range(1, truth.count + 1):
        lesion = truth.array == number
        volume = float(lesion.sum()) * grid.voxel_ml
        limit = next((f"< {v}" for v in VOLUMES_ML if volume < v), f">= {VOLUMES_ML[-1]}")
        missed[f"{limit} true"] += 1
        touching = np.unique(labels.array[lesion])
        touching = touching[touching > 0]
        if not len(touching):
            missed[f"{limit} missed"] += 1
        else:
            sizes.append(float(np.isin(labels.array, touching).sum()) * grid.voxel_ml / volume)


def _error_tables(mended, swept, sizes, missed, false_ml, patients: int) -> list[str]:  # type: ignore[no-untyped-def]
    names = list(dict.fromkeys(name for name, _ in mended))
    lines = ["| model | " + " | ".join(MENDED) + " |", "| --- |" + " --- |" * len(MENDED)]
    lines += [f"| {n} | " + " | ".join(f"{np.mean(mended[n, m]):.2f}" for m in MENDED) + " |" for n in names]
    lines += ["", "| model | " + " | ".join(f"p > {t}" for t in THRESHOLDS) + " |"]
    lines += ["| --- |" + " --- |" * len(THRESHOLDS)]
    lines += [
        f"| {n} | " + " | ".join(f"{np.mean(swept[n, t]):.2f}" for t in THRESHOLDS) + " |" for n in names
    ]
    limits = [*(f"< {v}" for v in VOLUMES_ML), f">= {VOLUMES_ML[-1]}"]
    lines += [
        "",
        "| model | found/true volume, median | " + " | ".join(f"missed {v} ml" for v in limits) + " |",
    ]
    lines += ["| --- | --- |" + " --- |" * len(limits)]
    for n in names:
        cells = [f"{missed[n][f'{v} missed']} of {missed[n][f'{v} true']}" for v in limits]
        lines.append(f"| {n} | {np.median(sizes[n]):.2f} | " + " | ".join(cells) + " |")
    lines += ["", "| model | false lesions, ml a patient, largest first |", "| --- | --- |"]
    for n in names:
        where = ", ".join(f"{place} {ml / patients:.1f}" for place, ml in false_ml[n].most_common(8))
        lines.append(f"| {n} | {where} |")
    return lines
