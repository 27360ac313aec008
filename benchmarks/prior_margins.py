"""How far right and wrong priors lie apart: the fits that the defaults of ``AlignPolicy`` stand between.

    python -m benchmarks.prior_margins --patients 5

Simulated patients of both centres (:mod:`app.phantom.patient`); for each, the SPECT/CT against

* ``same``: his own PET/CT, weeks earlier in another pose (centre B: arms up, then down);
* ``other``: the PET/CTs of two other patients of the same centre;
* ``mirrored``: his own PET/CT flipped left to right;
* ``lesions off``: his own, the lesions 40 mm beside where they lie on their PET;
* ``PET off``: his own, PET and lesions 40 mm beside their CT;

with whole-body SPECTs, and with short ones. Prints the range of every number of the fit and how many pairs
the default limits accept, as the tables of docs/explanation/registration.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import median_low

import numpy as np

from app.domain.analysis import RegistrationFit
from app.domain.volume import Grid, LabelMap, Volume
from app.imaging.registration.policy import AlignPolicy, broken_limits, broken_uptake_limits
from app.imaging.registration.registration import RigidRegistration, register_rigid
from app.imaging.registration.uptake_agreement import measure_uptake_agreement
from app.imaging.resampling import resample_mask
from app.phantom.centres import Centre
from app.phantom.patient import simulate_patient

REGIONS = {
    "whole body": (0.0, 1.0),
    "pelvis": (0.08, 0.40),
    "abdomen": (0.30, 0.62),
    "lumbar spine": (0.42, 0.54),
}
"""Part of the SPECT/CT's length that is kept, from the feet."""

KINDS = ("same", "other", "mirrored", "lesions off", "PET off")

OFF_MM = 40.0


@dataclass(frozen=True, eq=False)
class Scan:
    """One hybrid scan."""

    ct: Volume
    suv: Volume
    lesions: LabelMap


@dataclass(frozen=True, eq=False)
class Trial:
    """A SPECT/CT and a PET/CT offered to it."""

    region: str
    kind: str
    spect: Scan
    pet: Scan


@dataclass(frozen=True)
class Result:
    """What became of a trial."""

    region: str
    kind: str
    fit: RegistrationFit | None
    broken: tuple[str, ...]


@cache
def scans(number: int, centre: Centre) -> tuple[Scan, Scan]:
    """SPECT/CT and PET/CT of a simulated patient."""
    patient = simulate_patient(number, centre)
    spect, pet = (Scan(scan.ct, scan.functional, scan.truth) for scan in (patient.spect, patient.pet))
    return spect, pet


def trials(patients: int, regions: Sequence[str]) -> Iterator[Trial]:
    """Every pair that is tried, in a fixed order."""
    random = np.random.default_rng(40)
    for centre in Centre:
        for number in range(patients):
            spect, pet = scans(number, centre)
            direction = random.normal(size=3)
            off_mm = OFF_MM * direction / np.linalg.norm(direction)
            for region in regions:
                part = cropped(spect, *REGIONS[region])
                yield Trial(region, "same", part, pet)
                if region == "whole body":
                    yield Trial(region, "lesions off", part, replace(pet, lesions=moved(pet.lesions, off_mm)))
                    off = replace(pet, lesions=moved(pet.lesions, off_mm), suv=displaced(pet.suv, off_mm))
                    yield Trial(region, "PET off", part, off)
                for step in (1, 2):
                    yield Trial(region, "other", part, scans((number + step) % patients, centre)[1])
                yield Trial(region, "mirrored", part, mirrored(pet))


def cropped(scan: Scan, start: float, stop: float) -> Scan:
    """The part of a scan between two shares of its length."""

    def part(volume: Volume) -> Volume:
        depth = volume.grid.shape[0]
        first, last = int(depth * start), int(depth * stop)
        affine = volume.grid.affine.copy()
        affine[:3, 3] = volume.grid.to_lps(np.array([[0.0, 0.0, first]]))[0]
        grid = Grid((last - first, *volume.grid.shape[1:]), affine)
        return Volume(volume.array[first:last], grid, volume.unit)

    return Scan(part(scan.ct), part(scan.suv), scan.lesions)


def mirrored(scan: Scan) -> Scan:
    """Left and right exchanged, as by a lost sign."""

    def flipped(volume: Volume) -> Volume:
        return Volume(volume.array[:, :, ::-1], volume.grid, volume.unit)

    labels = LabelMap(scan.lesions.array[:, :, ::-1], scan.lesions.grid)
    return Scan(flipped(scan.ct), flipped(scan.suv), labels)


def displaced(volume: Volume, by_mm: np.ndarray) -> Volume:
    """The same image, said to lie elsewhere."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by_mm
    return Volume(volume.array, Grid(volume.grid.shape, affine), volume.unit)


def moved(labels: LabelMap, by_mm: np.ndarray) -> LabelMap:
    """The lesions elsewhere on the same grid."""
    back = np.eye(4)
    back[:3, 3] = -by_mm
    return resample_mask(labels, labels.grid, back)


def run(trial: Trial, policy: AlignPolicy) -> Result | None:
    """Register, measure, check; ``None`` when the patient has no lesion on PET."""
    if trial.pet.lesions.count == 0:
        return None
    registration = _registered(trial.spect.ct, trial.pet.ct)
    if registration is None:
        return Result(trial.region, trial.kind, None, ("no bone in common",))
    placed = resample_mask(trial.pet.lesions, trial.spect.suv.grid, registration.fixed_to_moving)
    uptake = measure_uptake_agreement(
        trial.spect.suv, trial.pet.suv, trial.pet.lesions, placed, registration.fixed_to_moving
    )
    fit = replace(
        registration.fit,
        uptake_shift_mm=uptake.shift_mm,
        lesions_on_pet=uptake.lesions_on_pet,
        lesions_on_spect=uptake.lesions_on_spect,
    )
    broken = [
        reason.attribute for reason in (*broken_limits(fit, policy), *broken_uptake_limits(fit, policy))
    ]
    if placed.count == 0:
        broken.append("no lesion in view")
    return Result(trial.region, trial.kind, fit, tuple(broken))


@lru_cache(maxsize=4)
def _registered(fixed: Volume, moving: Volume) -> RigidRegistration | None:
    """Trials that differ in lesions and PET only share their CTs, and so the registration."""
    return register_rigid(fixed, moving)


def table(results: Sequence[Result]) -> str:
    """Markdown: one line a kind and region, minimum, median and maximum of each number."""
    names = [name for name in asdict(_any_fit(results)) if name != "translation_mm"]
    lines = [
        "| SPECT | PET | accepted | " + " | ".join(names) + " |",
        "| --- | --- | --- |" + " --- |" * len(names),
    ]
    for region, kind in dict.fromkeys((result.region, result.kind) for result in results):
        group = [result for result in results if (result.region, result.kind) == (region, kind)]
        accepted = f"{sum(not result.broken for result in group)} of {len(group)}"
        fits = [result.fit for result in group if result.fit is not None]
        cells = [_range([getattr(fit, name) for fit in fits]) for name in names]
        lines.append(f"| {region} | {kind} | {accepted} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _any_fit(results: Sequence[Result]) -> RegistrationFit:
    return next(result.fit for result in results if result.fit is not None)


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return " / ".join(f"{value:.3g}" for value in (min(known), median_low(known), max(known)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every trial, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=5, help="patients of each centre (at least 3)")
    parser.add_argument("--regions", nargs="+", default=list(REGIONS), choices=list(REGIONS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, help="write every fit to this JSON file")
    options = parser.parse_args(arguments)
    results: list[Result] = []
    for trial in trials(max(3, options.patients), options.regions):
        result = run(trial, AlignPolicy()) if trial.kind in options.kinds else None
        if result is not None:
            results.append(result)
            verdict = ", ".join(result.broken) or "accepted"
            sys.stderr.write(f"{len(results):4d} {result.region}, {result.kind}: {verdict}\n")
    if options.out:
        options.out.write_text(json.dumps([asdict(result) for result in results], indent=1))
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
