"""Which of several usable images goes first, by rules that a site can read and set; what the others are.

A rule gives each image a number, and the smallest wins; those within its tolerance go on to the next rule.
Only where no rule decides, the Series Instance UID does, and the report says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from app.domain.radionuclides import radionuclide_of
from app.domain.selection.identification import Identified
from app.domain.selection.pair import Coverage
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.screening import ImageRole, is_derived
from app.domain.study import Series
from app.domain.volume import Grid

Item = TypeVar("Item")

SAME_TIME_POINT_MIN = 5.0
"""Reconstructions of one scan may differ by a bed's length in when they say that it began."""

SAME_LENGTH_CM = 1.0
"""Reconstructions of one scan may differ by a slice at an end."""

SAME_FIELD = 0.8
"""Share of the wider transaxial area: reconstructions of one field differ by the rounding of their voxels."""

BODY_FIELD_MM2 = 500.0**2
"""A field of 50 cm, that of a CT, holds the body: what is wider shows no more of it."""

SAME_VOXEL_ML = 1e-5

SAME_STEP_MM = 0.01

SAME_MINUTE = 1.0
"""Of a CT: kernels of one acquisition have one time."""

LONGEST_HALF_LIFE_S = 43200.0
"""Of what is imaged on the day of its injection: a time of injection without a date is of that day."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A series that could play a role, with its place in space."""

    series: Series
    role: ImageRole
    grid: Grid
    identified: Identified | None = None

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.series.series_instance_uid

    @property
    def length_cm(self) -> float:
        """Along the slice normal."""
        return self.grid.shape[0] * self.grid.spacing_mm[2] / 10.0

    @property
    def field_mm(self) -> tuple[float, float]:
        """Across the slice: along a row, along a column."""
        _, rows, columns = self.grid.shape
        return columns * self.grid.spacing_mm[0], rows * self.grid.spacing_mm[1]

    @property
    def narrowness(self) -> float:
        """Grows as the field of view shrinks, by its share of what holds a body."""
        return -math.log(min(math.prod(self.field_mm) / BODY_FIELD_MM2, 1.0))


@dataclass(frozen=True, eq=False)
class Pair:
    """A functional image with a CT that covers it."""

    functional: Candidate
    ct: Candidate
    cover: Coverage

    @property
    def apart_min(self) -> float | None:
        """From the start of the functional image to the CT."""
        scanned, ct = self.functional.series.when, self.ct.series.when
        return None if scanned is None or ct is None else (ct - scanned).total_seconds() / 60.0


@dataclass(frozen=True)
class Rule(Generic[Item]):
    """``words`` say why the one that a rule takes goes first."""

    words: str
    value: Callable[[Item], float]
    tolerance: float = 0.0


def ranked(items: Sequence[Item], rules: Sequence[Rule[Item]], uid: Callable[[Item], str]) -> list[Item]:
    """Best first."""
    left, order = sorted(items, key=uid), []
    while left:
        best = left
        for rule in rules:
            least = min(map(rule.value, best))
            best = [item for item in best if rule.value(item) <= least + rule.tolerance]
        order.append(best[0])
        left = [item for item in left if item is not best[0]]
    return order


def decided_by(first: Item, other: Item, rules: Sequence[Rule[Item]]) -> str:
    """The words of the rule by which one goes before another; empty when none decides."""
    return next((rule.words for rule in rules if rule.value(other) > rule.value(first) + rule.tolerance), "")


def functional_rules(policy: SelectionPolicy) -> tuple[Rule[Candidate], ...]:
    """For PETs, or SPECTs, of one region."""
    windows = policy.preferred_energies_kev
    return (
        Rule("ORIGINAL", lambda item: is_derived(item.series)),
        Rule("states its attenuation correction", lambda item: "ATTN" not in item.series.corrected_image),
        Rule("the longest", lambda item: -item.length_cm, SAME_LENGTH_CM),
        Rule("the widest field of view", lambda item: item.narrowness, -math.log(SAME_FIELD)),
        Rule(
            "nearest to the usual time after the injection (select.preferred_uptake_min)",
            lambda item: _off_usual_min(item, policy),
            SAME_TIME_POINT_MIN,
        ),
        Rule(
            "the energy window that goes first (select.preferred_energies_kev)",
            lambda item: _place([_has_energy(item.series, kev) for kev in windows]),
        ),
        Rule(
            "the reconstruction that goes first (select.preferred_reconstructions)",
            lambda item: _named(item.series, policy.preferred_reconstructions),
        ),
        Rule("the finest voxels", lambda item: item.grid.voxel_ml, SAME_VOXEL_ML),
    )


def ct_rules(policy: SelectionPolicy) -> tuple[Rule[Pair], ...]:
    """For CTs that cover one functional image."""
    thinnest_mm = policy.thinnest_ct_mm
    return (
        Rule("ORIGINAL", lambda pair: is_derived(pair.ct.series)),
        Rule(
            "of the functional image's time (select.ct_within_min)",
            lambda pair: max(0.0, abs(pair.apart_min or 0.0) - policy.ct_within_min),
        ),
        Rule("covers most", lambda pair: -round(pair.cover.axial, 2) - round(pair.cover.in_plane, 2)),
        Rule("the widest field of view", lambda pair: pair.ct.narrowness, -math.log(SAME_FIELD)),
        Rule(
            "the kernel that goes first (select.preferred_kernels)",
            lambda pair: _named(pair.ct.series, policy.preferred_kernels),
        ),
        Rule("not too thin (select.thinnest_ct_mm)", lambda pair: _step_mm(pair) < thinnest_mm),
        Rule(
            "the thinnest slices",
            lambda pair: -_step_mm(pair) if _step_mm(pair) < thinnest_mm else _step_mm(pair),
            SAME_STEP_MM,
        ),
        Rule(
            "nearest in time",
            lambda pair: float("inf") if pair.apart_min is None else abs(pair.apart_min),
            SAME_MINUTE,
        ),
    )


def functional_in_words(item: Candidate, first: Candidate) -> str:
    """What a functional image is that another one goes before."""
    differences = list(_functional_differences(item, first))
    return ", ".join(differences or _descriptions(item, first)) or "another series like it"


def ct_in_words(pair: Pair, first: Pair) -> str:
    """What a CT is that another one goes before."""
    differences = list(_ct_differences(pair, first))
    return ", ".join(differences or _descriptions(pair.ct, first.ct)) or "another CT like it"


def uptake_min(series: Series) -> float | None:
    """From the injection to the start of the scan, as headers have it; to rank by, never to compute with."""
    injected, scanned = series.radiopharmaceutical, series.when
    if injected is None or scanned is None:
        return None
    start = injected.start_datetime
    nuclide = radionuclide_of(injected)
    is_same_day = nuclide is not None and nuclide.half_life_s <= LONGEST_HALF_LIFE_S
    if start is None and injected.start_time is not None and is_same_day:
        start = datetime.combine(scanned.date(), datetime.min.time()) + injected.start_time
        start -= timedelta(days=int(start > scanned))
    minutes = -1.0 if start is None else (scanned - start).total_seconds() / 60.0
    return minutes if minutes >= 0.0 else None


def _functional_differences(item: Candidate, first: Candidate) -> Iterator[str]:
    one, other = item.series, first.series
    if is_derived(one) and not is_derived(other):
        yield "a derived image"
    yield from _time_point(one, other)
    if item.length_cm < first.length_cm - SAME_LENGTH_CM:
        yield f"a shorter stack, {item.length_cm:.0f} cm"
    yield from _field(item, first)
    if one.energy_windows_kev != other.energy_windows_kev:
        yield f"another energy window, {_windows(one)}"
    if one.reconstruction_method != other.reconstruction_method:
        yield f"another reconstruction, {one.reconstruction_method or 'which is not named'}"
    if one.convolution_kernel != other.convolution_kernel:
        yield f"another reconstruction filter, {one.convolution_kernel or 'which is not named'}"
    if abs(item.grid.voxel_ml - first.grid.voxel_ml) > SAME_VOXEL_ML:
        yield f"other voxels, {' x '.join(f'{mm:.3g}' for mm in item.grid.spacing_mm)} mm"


def _time_point(one: Series, other: Series) -> Iterator[str]:
    if one.when is None or other.when is None:
        return
    later_min = (one.when - other.when).total_seconds() / 60.0
    if abs(later_min) > SAME_TIME_POINT_MIN:
        after = uptake_min(one)
        side = "later" if later_min > 0.0 else "earlier"
        when = f"{abs(later_min):.0f} min {side}" if after is None else f"{after:.0f} min after injection"
        yield f"another time point, {when}"
    elif abs(later_min) >= SAME_MINUTE:
        yield f"begun {abs(later_min):.0f} min {'later' if later_min > 0.0 else 'earlier'}"


def _field(item: Candidate, first: Candidate) -> Iterator[str]:
    if item.narrowness > first.narrowness - math.log(SAME_FIELD):
        sizes = dict.fromkeys(f"{mm:.0f}" for mm in item.field_mm)
        yield f"a smaller field of view, {' x '.join(sizes)} mm"


def _descriptions(item: Candidate, first: Candidate) -> Iterator[str]:
    if item.series.description != first.series.description:
        yield f"another series, described as {item.series.description!r}"


def _ct_differences(pair: Pair, first: Pair) -> Iterator[str]:
    one, other = pair.ct.series, first.ct.series
    if is_derived(one) and not is_derived(other):
        yield "a derived CT"
    if abs((pair.apart_min or 0.0) - (first.apart_min or 0.0)) > SAME_MINUTE:
        minutes = pair.apart_min or 0.0
        yield f"a CT of another time, {abs(minutes):.0f} min {'after' if minutes > 0 else 'before'} the image"
    if pair.cover.axial < first.cover.axial:
        yield f"a CT that covers {pair.cover.axial:.0%} of the slices"
    yield from _field(pair.ct, first.ct)
    if one.convolution_kernel != other.convolution_kernel:
        yield f"another convolution kernel, {one.convolution_kernel or 'which is not named'}"
    if abs(_step_mm(pair) - _step_mm(first)) > SAME_STEP_MM:
        yield f"other slices, {_step_mm(pair):.3g} mm"


def _off_usual_min(item: Candidate, policy: SelectionPolicy) -> float:
    """Distance from the usual time after the injection; 0 where there is none to go by."""
    usual = policy.preferred_uptake_min
    if usual is None:
        usual = item.identified.tracer.usual_uptake_min if item.identified else None
    after = uptake_min(item.series)
    if usual is None:
        return 0.0
    return float("inf") if after is None else abs(after - usual)


def _named(series: Series, patterns: Sequence[str]) -> float:
    text = f"{series.reconstruction_method} {series.convolution_kernel} {series.description}"
    return _place([re.search(pattern, text, re.IGNORECASE) is not None for pattern in patterns])


def _place(fits: Sequence[bool]) -> float:
    """The first that fits; after all of them when none does."""
    return float(fits.index(True) if True in fits else len(fits))


def _has_energy(series: Series, kev: float) -> bool:
    return any(low <= kev <= high for low, high in series.energy_windows_kev)


def _windows(series: Series) -> str:
    shown = [f"{low:g} to {high:g}" for low, high in series.energy_windows_kev]
    return f"{' and '.join(shown)} keV" if shown else "which is not stated"


def _step_mm(pair: Pair) -> float:
    return pair.ct.grid.spacing_mm[2]
