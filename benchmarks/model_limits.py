"""What limits the shipped models: the grid, the reader, or what the networks have learnt.

    python -m benchmarks.model_limits grid --patients 10
    python -m benchmarks.model_limits reader --patients 10
    python -m benchmarks.model_limits errors --patients 10 --models models

Simulated patients from number 100 on: none is trained on or tested on by the experiment.

* ``grid``: Dice of the truth after nnU-Net's own way to a coarser grid and back; nothing trained on that grid
  can be better than ``soft``, and nothing that learns what nnU-Net shows it much better than ``hard``.
* ``reader``: Dice of a reader who always cuts at the mean threshold with one who cuts where he happens to;
  no rule can be better.
* ``errors``: the DSC as it is, and as it would be with one kind of error mended; at other thresholds than one
  half; which lesions are missed; where the false ones lie.

As in the report, a patient without lesions counts 0 when something is found in him, and not at all otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from app.phantom import acquisition
from app.phantom.acquisition import Acquisition
from app.phantom.centres import Centre, Modality
from app.phantom.patient import SimulatedPatient, simulate_patient
from benchmarks.model_errors import Mask, dice, error_limits, patient_of

FIRST_PATIENT = 100
GRIDS_MM = (4.8, 4.0, 3.3, 3.0)


def scans(options: argparse.Namespace) -> Iterator[tuple[Centre, int, Modality, Acquisition]]:
    """Every scan of the wanted patients."""
    for centre in map(Centre, options.centres):
        for number in range(options.first, options.first + options.patients):
            found = patient_of(number, centre)
            yield centre, number, Modality.PET, found.pet
            yield centre, number, Modality.SPECT, found.spect


def there_and_back(truth: Mask, spacing_mm: float, wanted_mm: float, *, soft: bool) -> Mask:
    """A truth on an isotropic grid of ``wanted_mm`` and back, by nnU-Net's resampling.

    Args:
        soft: the coarse grid holds each voxel's share of lesion, as a perfect network's probabilities could;
            otherwise the label that nnU-Net would train on.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import (
        compute_new_shape,
        resample_data_or_seg_to_shape,
    )

    here, there = [spacing_mm] * 3, [wanted_mm] * 3
    shape = compute_new_shape(truth.shape, here, there)

    def moved(array: NDArray[np.generic], to: Sequence[int], way: tuple[list[float], list[float]], seg: bool):  # type: ignore[no-untyped-def]
        return resample_data_or_seg_to_shape(array, to, *way, is_seg=seg, order=1, order_z=0)

    if soft:
        share = moved(truth[None].astype(np.float32), shape, (here, there), False)
        lesion = moved(share, truth.shape, (there, here), False)[0]
        return np.asarray(lesion >= 0.5)
    coarse = moved(truth[None].astype(np.int16), shape, (here, there), True)[0] > 0
    both = np.stack([~coarse, coarse]).astype(np.float32)
    back = moved(both, truth.shape, (there, here), False)
    return np.asarray(back[1] > back[0])


def grid_limits(options: argparse.Namespace) -> list[str]:
    """The table of ``grid``."""
    found: dict[tuple[str, float, bool], list[float]] = defaultdict(list)
    for centre, _, modality, scan in scans(options):
        truth = scan.truth.mask
        for wanted in GRIDS_MM:
            for soft in (False, True):
                there = there_and_back(truth, scan.scanner.voxel_mm, wanted, soft=soft)
                value = dice(there, truth)
                if value is not None:
                    found[f"{modality.value} {centre.value}", wanted, soft].append(value)
    names = dict.fromkeys(name for name, _, _ in found)
    lines = ["| scan | " + " | ".join(f"{mm} mm hard / soft" for mm in GRIDS_MM) + " |"]
    lines.append("| --- |" + " --- |" * len(GRIDS_MM))
    for name in names:
        cells = [
            " / ".join(f"{np.mean(found[name, mm, soft]):.2f}" for soft in (False, True)) for mm in GRIDS_MM
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def reader_limits(options: argparse.Namespace) -> list[str]:
    """The table of ``reader``: the same patients, whose reader cuts every lesion at the mean threshold."""
    mean = float(np.mean(acquisition.READER_THRESHOLDS))
    found: dict[str, list[float]] = defaultdict(list)
    for centre, number, modality, scan in scans(options):
        with patch.object(acquisition, "READER_THRESHOLDS", (mean, mean)):  # draws as often as before
            steady = _steady(number, centre)
        other = steady.pet if modality is Modality.PET else steady.spect
        value = dice(other.truth.mask, scan.truth.mask)
        if value is not None:
            found[f"{modality.value} {centre.value}"].append(value)
    lines = ["| scan | DSC, mean ± SD |", "| --- | --- |"]
    return lines + [f"| {name} | {np.mean(v):.2f} ± {np.std(v):.2f} |" for name, v in found.items()]


@lru_cache(maxsize=1)
def _steady(number: int, centre: Centre) -> SimulatedPatient:
    return simulate_patient(number, centre)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("grid", "reader", "errors"))
    parser.add_argument("--patients", type=int, default=10, help="of each centre")
    parser.add_argument("--first", type=int, default=FIRST_PATIENT, help="0: centre A's were trained on")
    parser.add_argument("--centres", nargs="+", default=["A", "B"], choices=["A", "B"])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--roles", nargs="+", default=["M1", "M2", "M4"], choices=["M1", "M2", "M4"])
    options = parser.parse_args(arguments)
    tables = {"grid": grid_limits, "reader": reader_limits, "errors": error_limits}
    sys.stdout.write("\n".join(tables[options.what](options)) + "\n")


if __name__ == "__main__":
    main()
