"""load: a pair's series become volumes in physical units, or a reason why not."""

from __future__ import annotations

from typing import Any

from app.dicom.reading.loading import LoadPolicy, load
from app.domain.analysis import Loaded
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.imaging.anatomy.relative_uptake import related_to_liver
from app.imaging.joined_parts import joined_parts
from app.imaging.registration.ct_agreement import check_ct
from operators.framework import Fragment
from operators.stage import StageOperator


class LoadOperator(StageOperator):
    """``pairs`` in, ``loaded`` out."""

    stage, inlet, outlet = "load", "pairs", "loaded"

    def __init__(self, fragment: Fragment, *, policy: LoadPolicy, on_stage: OnStage) -> None:
        self._policy = policy
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Selection) -> Loaded | Rejection:
        """PET and SPECT in SUV, CT in HU, whether the two lie on each other; counts over the liver."""
        found = load(item, self._policy)
        if isinstance(found, Rejection):
            return found
        checked = check_ct(found, self._policy.ct_agreement)
        return related_to_liver(checked, self._policy.training_liver_suv)

    def together(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """The parts of a SPECT joined."""
        return joined_parts(items) if self._policy.join_parts else items
