"""Is a PET or SPECT beside its CT noticed, and is a right one left alone? What the limits stand between.

    python -m benchmarks.ct_agreement --patients 3

Simulated patients of both centres (:mod:`app.phantom.patient`), PET/CT and SPECT/CT each:

* right ones: as scanned; ``arms``: the CT made with the arms elsewhere; ``breath``: the CT's organs around
  the diaphragm 25 mm lower, the skin as it was; ``narrow CT``: the CT's field of view 400 mm; short views;
* wrong ones: the image shifted along each axis, the CT reversed along each axis, the CT of another patient of
  that centre (placed as his scanner placed him).

Prints, for each, how many fit, are warned of and refused by the default limits, and the numbers behind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy.ndimage import gaussian_filter

from app.domain.stack.ct_agreement import CtAgreement, CtAgreementPolicy, CtVerdict, judge_ct_agreement
from app.domain.volume import Grid, Volume
from app.imaging.registration.ct_agreement import measure_ct_agreement
from app.imaging.registration.working_ct import working_ct
from app.phantom.acquisition import acquire
from app.phantom.anatomy.anatomy import build_anatomy
from app.phantom.anatomy.body import Arms
from app.phantom.anatomy.lesions import draw_lesions
from app.phantom.centres import CENTRES, Centre, Modality
from app.phantom.patient import VERSION

SHORT_VIEWS = {"pelvis": (0.08, 0.40), "abdomen": (0.30, 0.62), "chest": (0.50, 0.82)}
"""Part of the scan's length that is kept, from the feet: 35 cm."""

SHIFTS_MM = (5.0, 10.0, 20.0, 30.0, 40.0, 80.0)
AXES = ("x", "y", "z")
BREATH_MM = 25.0
NARROW_MM = 400.0


@dataclass(frozen=True, eq=False)
class Scan:
    """One hybrid scan."""

    suv: Volume
    ct: Volume


@dataclass(frozen=True)
class Result:
    """One pair, and what was measured."""

    modality: Modality
    kind: str
    found: CtAgreement | None


def scanned(number: int, centre: Centre, modality: Modality, arms_moved: bool = False) -> Scan:
    """A simulated patient's scan, as :func:`app.phantom.patient.simulate_patient` draws it, or with the arms
    where that scanner does not have them."""
    seed = np.random.SeedSequence((VERSION, list(Centre).index(centre), number))
    body, disease, pet, spect = (np.random.default_rng(child) for child in seed.spawn(4))
    profile = CENTRES[centre]
    anatomy = build_anatomy(body)
    lesions = draw_lesions(disease, anatomy, profile.lesion_median_mm)
    random, scanner = (pet, profile.pet) if modality is Modality.PET else (spect, profile.spect)
    if arms_moved:
        scanner = replace(scanner, arms=Arms.DOWN if scanner.arms is Arms.RAISED else Arms.RAISED)
    made = acquire(random, anatomy, lesions, scanner)
    return Scan(made.functional, made.ct)


def trials(patients: int) -> Iterator[tuple[Modality, str, Scan]]:
    """Every pair that is tried, in a fixed order."""
    for centre in Centre:
        for modality in Modality:
            for number in range(patients):
                scan = scanned(number, centre, modality)
                for kind, tried in _of_one(scan):
                    yield modality, kind, tried
                other = scanned(number, centre, modality, arms_moved=True)
                yield modality, "right: arms", Scan(scan.suv, other.ct)
                other = scanned((number + 1) % patients, centre, modality)
                yield modality, "another patient's CT", Scan(scan.suv, other.ct)


def _of_one(scan: Scan) -> Iterator[tuple[str, Scan]]:
    yield "right", scan
    yield "right: breath", Scan(scan.suv, breathed_in(scan.ct))
    yield "right: narrow CT", Scan(scan.suv, narrowed(scan.ct))
    for name, (start, stop) in SHORT_VIEWS.items():
        short = Scan(cropped(scan.suv, start, stop), cropped(scan.ct, start, stop))
        yield f"right: {name}", short
        for axis in (0, 2):
            yield f"{name}, {AXES[axis]} 40 mm", Scan(displaced(short.suv, axis, 40.0), short.ct)
        yield f"{name}, CT reversed along x", Scan(short.suv, reversed_along(short.ct, 0))
    for axis in range(3):
        for shift_mm in SHIFTS_MM:
            yield f"{AXES[axis]} {shift_mm:g} mm", Scan(displaced(scan.suv, axis, shift_mm), scan.ct)
    for axis in range(3):
        yield f"CT reversed along {AXES[axis]}", Scan(scan.suv, reversed_along(scan.ct, axis))


def displaced(volume: Volume, axis: int, by_mm: float) -> Volume:
    """The same image, said to lie elsewhere."""
    affine = volume.grid.affine.copy()
    affine[axis, 3] += by_mm
    return Volume(volume.array, Grid(volume.grid.shape, affine), volume.unit)


def reversed_along(volume: Volume, axis: int) -> Volume:
    """The same geometry, the image reversed along x (0), y (1) or z (2)."""
    return Volume(np.flip(volume.array, 2 - axis), volume.grid, volume.unit)


def cropped(volume: Volume, start: float, stop: float) -> Volume:
    """The part of a volume between two shares of its length."""
    depth = volume.grid.shape[0]
    first, last = int(depth * start), int(depth * stop)
    affine = volume.grid.affine.copy()
    affine[:3, 3] = volume.grid.to_lps(np.array([[0.0, 0.0, first]]))[0]
    return Volume(volume.array[first:last], Grid((last - first, *volume.grid.shape[1:]), affine), volume.unit)


def narrowed(ct: Volume) -> Volume:
    """Air outside a circle of :data:`NARROW_MM`, as beyond a CT's field of view."""
    _, height, width = ct.grid.shape
    x_mm, y_mm = ct.grid.spacing_mm[:2]
    y, x = np.ogrid[:height, :width]
    off_mm = np.hypot((x - width / 2) * x_mm, (y - height / 2) * y_mm)
    return Volume(np.where(off_mm <= NARROW_MM / 2, ct.array, -1024.0), ct.grid, ct.unit)


def breathed_in(ct: Volume) -> Volume:
    """Lungs and organs :data:`BREATH_MM` lower at the diaphragm, fading out by 120 mm and at the skin."""
    working = working_ct(ct)
    lung = working.seen & ~working.body & (working.hu <= -1000.0)
    lung &= np.cumsum(working.body, axis=2) > 0
    lung &= np.cumsum(working.body[:, :, ::-1], axis=2)[:, :, ::-1] > 0
    heights = lung.sum(axis=(1, 2))
    above = np.flatnonzero(heights > 0.5 * heights.max())
    diaphragm_mm = working.grid.origin_mm[2] + above[0] * working.grid.spacing_mm[2]
    z = np.arange(ct.grid.shape[0])
    z_mm = ct.grid.origin_mm[2] + z * ct.grid.affine[2, 2]
    by_voxels = BREATH_MM / ct.grid.affine[2, 2] * np.exp(-(((z_mm - diaphragm_mm) / 120.0) ** 2) * 2)
    inner = gaussian_filter((ct.array > -350.0).astype(np.float32), 20.0 / np.array(ct.grid.spacing_mm[::-1]))
    source = np.clip(np.rint(z + by_voxels).astype(int), 0, len(z) - 1)
    return Volume(np.where(inner > 0.5, ct.array[source], ct.array), ct.grid, ct.unit)


def table(results: Sequence[Result], policy: CtAgreementPolicy) -> str:
    """Markdown, one line a modality and kind: verdicts, and the numbers' minimum / median / maximum."""
    lines = [
        "| image | pair | fits | warned | refused | largest shift (mm) | gain | overlap | gain reversed | "
        "left minus right |",
        "| --- |" + " --- |" * 9,
    ]
    for modality, kind in dict.fromkeys((result.modality, result.kind) for result in results):
        group = [result.found for result in results if (result.modality, result.kind) == (modality, kind)]
        known = [found for found in group if found is not None]
        verdicts = [judge_ct_agreement(each, policy, modality is Modality.SPECT).verdict for each in known]
        counts = [f"{verdicts.count(verdict)}" for verdict in CtVerdict]
        numbers = (
            [max(abs(v) for v in each.shift_mm) for each in known],
            [max(each.gains) for each in known],
            [each.overlap for each in known],
            [each.flip_gain for each in known],
            [each.side_correlation for each in known],
        )
        cells = [_range(each, digits) for each, digits in zip(numbers, (0, 3, 2, 3, 2), strict=True)]
        lines.append(f"| {modality.upper()} | {kind} | " + " | ".join([*counts, *cells]) + " |")
    return "\n".join(lines)


def _range(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    return " / ".join(f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every trial, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=3, help="patients of each centre (at least 2)")
    options = parser.parse_args(arguments)
    results = []
    for modality, kind, scan in trials(max(2, options.patients)):
        results.append(Result(modality, kind, measure_ct_agreement(scan.suv, scan.ct)))
        sys.stderr.write(f"{len(results):4d} {modality} {kind}\n")
    sys.stdout.write(table(results, CtAgreementPolicy()) + "\n")


if __name__ == "__main__":
    main()
