"""The change from one study to the next: percentages and RECIP 1.0.

RECIP 1.0 (Gafita et al., J Nucl Med 2022;63:1651): progression is PSMA-TV + 20 % or more with a new lesion;
partial response - 30 % or more without one; complete response no uptake left; everything else is stable.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.findings import Recip, RecipCategory

RECIP_GROWTH_PERCENT = 20.0
RECIP_SHRINKAGE_PERCENT = -30.0


@dataclass(frozen=True)
class RecipInputs:
    """What RECIP 1.0 is decided from.

    Attributes:
        previous_tv_ml, current_tv_ml: PSMA-TV.
        new_lesion_count: ``None`` when lesions could not be told apart as old and new.
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
