"""load: a pair's series become volumes in physical units, or a reason why not."""

from __future__ import annotations

from typing import Any

from app.dicom.reading.loading import load_first_usable
from app.dicom.reading.policy import LoadPolicy
from app.domain.analysis import Loaded
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.imaging.joined_parts import joined_parts
from operators.framework import Fragment
from operators.stage import StageOperator


class LoadOperator(StageOperator):
    """``pairs`` in, ``loaded`` out."""

    stage, inlet, outlet = "load", "pairs", "loaded"

    def __init__(self, fragment: Fragment, *, policy: LoadPolicy, on_stage: OnStage) -> None:
        self._policy = policy
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Selection) -> Loaded | Rejection:
        """PET in SUV, SPECT in Bq/ml and SUV, CT in HU: the first pair that loads and whose images fit."""
        return load_first_usable(item, self._policy)

    def together(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """The parts of a SPECT joined."""
        return joined_parts(items) if self._policy.join_parts else items
