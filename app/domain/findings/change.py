"""The change from one study to the next: which lesions belong together, percentages, and RECIP 1.0.

Lesions belong together by how much they overlap and how near they are. RECIP 1.0 (Gafita et al., J Nucl Med
2022;63:1651): progression is PSMA-TV + 20 % or more with a new lesion; partial response - 30 % or more
without one; complete response no uptake left; everything else is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from app.domain.findings.findings import Lesion, LesionLink, LinkKind, Recip, RecipCategory

RECIP_GROWTH_PERCENT = 20.0

RECIP_SHRINKAGE_PERCENT = -30.0


@dataclass(frozen=True)
class RecipInputs:
    """What RECIP 1.0 is decided from.

    Attributes:
        previous_tv_ml, current_tv_ml: PSMA-TV.
        new_lesion_count: ``None`` when it is unknown which lesions are new.
        obstacles: why the two volumes can't be compared at all; empty when they can.
    """

    previous_tv_ml: float
    current_tv_ml: float
    new_lesion_count: int | None
    obstacles: tuple[str, ...] = ()


def percent_change(previous: float | None, current: float | None) -> float | None:
    """``100 (current - previous) / previous``; ``None`` where one is unknown or the previous is 0."""
    if previous is None or current is None or previous <= 0:
        return None
    return 100.0 * (current - previous) / previous


def recip(inputs: RecipInputs) -> Recip:
    """The category, where its inputs decide it; they may do so without knowing of new lesions."""
    percent = percent_change(inputs.previous_tv_ml, inputs.current_tv_ml)
    category, reason = _category(inputs, percent)
    return Recip(category, percent, inputs.new_lesion_count, reason)


def _category(inputs: RecipInputs, percent: float | None) -> tuple[RecipCategory | None, str]:
    if inputs.obstacles:
        return None, "; ".join(inputs.obstacles)
    if percent is None:
        return None, "no lesion in the previous study, so its PSMA-TV has no percentage"
    if inputs.current_tv_ml == 0:
        return RecipCategory.COMPLETE_RESPONSE, "no lesion found any more"
    return _category_of_change(percent, inputs.new_lesion_count)


def _category_of_change(percent: float, new: int | None) -> tuple[RecipCategory | None, str]:
    change = f"PSMA-TV {percent:+.1f} %"
    if RECIP_SHRINKAGE_PERCENT < percent < RECIP_GROWTH_PERCENT:
        return RecipCategory.STABLE_DISEASE, f"{change}: between -30 % and +20 %"
    if new is None:
        return None, f"{change}, but whether there is a new lesion is unknown"
    if percent >= RECIP_GROWTH_PERCENT and new:
        return RecipCategory.PROGRESSIVE_DISEASE, f"{change} with {new} new lesion(s)"
    if percent <= RECIP_SHRINKAGE_PERCENT and not new:
        return RecipCategory.PARTIAL_RESPONSE, f"{change} without a new lesion"
    with_or_without = f"with {new} new lesion(s)" if new else "without a new lesion"
    return RecipCategory.STABLE_DISEASE, f"{change} {with_or_without}: neither progression nor response"


TIE_DECIMALS = 2
"""Distances that differ by less than 0.01 mm are equal, and the larger lesion goes first: a property test
found that rounding alone decided which of two equally near lesions was matched."""


@dataclass(frozen=True)
class Affinity:
    """A lesion of the previous study and one of the current, brought into one space.

    Attributes:
        previous, current: their numbers.
        overlap: volume they share, as a share of the smaller one's, 0..1.
        distance_mm: between their nearest voxel centres.
    """

    previous: int
    current: int
    overlap: float
    distance_mm: float


@dataclass(frozen=True)
class Proximity:
    """Two studies' lesions in one space.

    Attributes:
        affinities: every pair that overlaps or is near enough to matter.
        previous_not_seen_now, current_not_seen_before: numbers of lesions outside the other's field of view.
    """

    affinities: tuple[Affinity, ...]
    previous_not_seen_now: frozenset[int] = frozenset()
    current_not_seen_before: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LinkLimits:
    """When two lesions belong together: see ``QuantifyPolicy.link_*``."""

    min_overlap: float
    max_distance_mm: float


_Node = tuple[bool, int]
"""Whether it is current, and its number."""


def link_lesions(
    previous: Sequence[Lesion], current: Sequence[Lesion], proximity: Proximity, limits: LinkLimits
) -> tuple[LesionLink, ...]:
    """Every lesion of both studies in exactly one link; those with current lesions first, by number.

    Lesions that overlap enough belong together, however many. Of the others, the two nearest belong
    together, then the next two, while they are near enough; what is left is new, vanished or was not seen.
    """
    pairs = [pair for pair in proximity.affinities if pair.overlap >= limits.min_overlap]
    linked = {node for pair in pairs for node in _ends(pair)}
    pairs += _nearest(proximity, limits, linked)
    groups = _groups(previous, current, pairs)
    links = [_link(group, previous, current, proximity) for group in groups]
    return tuple(sorted(links, key=lambda link: (not link.current, link.current, link.previous)))


def _nearest(proximity: Proximity, limits: LinkLimits, linked: set[_Node]) -> list[Affinity]:
    """One to one, the nearest first."""
    taken, chosen = set(linked), []
    near = (pair for pair in proximity.affinities if pair.distance_mm <= limits.max_distance_mm)
    for pair in sorted(
        near, key=lambda pair: (round(pair.distance_mm, TIE_DECIMALS), pair.previous, pair.current)
    ):
        if taken.isdisjoint(_ends(pair)):
            chosen.append(pair)
            taken.update(_ends(pair))
    return chosen


def _ends(pair: Affinity) -> tuple[_Node, _Node]:
    return (False, pair.previous), (True, pair.current)


def _groups(
    previous: Sequence[Lesion], current: Sequence[Lesion], pairs: Sequence[Affinity]
) -> Iterator[set[_Node]]:
    """Connected components of lesions."""
    nodes = [(False, lesion.number) for lesion in previous] + [(True, lesion.number) for lesion in current]
    neighbours: dict[_Node, list[_Node]] = {node: [] for node in nodes}
    for pair in pairs:
        before, now = _ends(pair)
        neighbours[before].append(now)
        neighbours[now].append(before)
    seen: set[_Node] = set()
    for node in nodes:
        if node in seen:
            continue
        group, waiting = {node}, [node]
        while waiting:
            for other in neighbours[waiting.pop()]:
                if other not in group:
                    group.add(other)
                    waiting.append(other)
        seen |= group
        yield group


def _link(
    group: set[_Node], previous: Sequence[Lesion], current: Sequence[Lesion], proximity: Proximity
) -> LesionLink:
    before = [lesion for lesion in previous if (False, lesion.number) in group]
    now = [lesion for lesion in current if (True, lesion.number) in group]
    kind = _kind(before, now, proximity)
    numbers = tuple(lesion.number for lesion in before), tuple(lesion.number for lesion in now)
    if not before or not now or any(lesion.volume_ml <= 0 for lesion in (*before, *now)):
        return LesionLink(kind, *numbers)  # one without volume lies outside what both show
    return LesionLink(
        kind,
        *numbers,
        volume_percent=percent_change(sum(x.volume_ml for x in before), sum(x.volume_ml for x in now)),
        tl_psma_percent=percent_change(*(_of_all(sum, [x.tl_psma for x in side]) for side in (before, now))),
        suv_max_percent=percent_change(*(_of_all(max, [x.suv_max for x in side]) for side in (before, now))),
    )


def _of_all(total: Callable[[list[float]], float], values: list[float | None]) -> float | None:
    """``None`` unless every value is known: a lesion that is not quantified has none."""
    known = [value for value in values if value is not None]
    return total(known) if len(known) == len(values) else None


def _kind(before: Sequence[Lesion], now: Sequence[Lesion], proximity: Proximity) -> LinkKind:
    if not before:
        unseen = now[0].number in proximity.current_not_seen_before
        return LinkKind.NOT_SEEN_BEFORE if unseen else LinkKind.NEW
    if not now:
        unseen = before[0].number in proximity.previous_not_seen_now
        return LinkKind.NOT_SEEN_NOW if unseen else LinkKind.VANISHED
    if len(before) == 1:
        return LinkKind.MATCHED if len(now) == 1 else LinkKind.SPLIT
    return LinkKind.MERGED if len(now) == 1 else LinkKind.REGROUPED
