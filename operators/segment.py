"""segment: lesions, by the model that the site's policy and the prior call for."""

from __future__ import annotations

from app.domain.analysis import Aligned, Segmented
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.inference.running.segmentation import LesionSegmentation
from operators.framework import Fragment
from operators.stage import StageOperator


class SegmentOperator(StageOperator):
    """``aligned`` in, ``segmented`` out."""

    stage, inlet, outlet = "segment", "aligned", "segmented"

    def __init__(self, fragment: Fragment, *, segmentation: LesionSegmentation, on_stage: OnStage) -> None:
        self._segmentation = segmentation
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Aligned) -> Segmented | Rejection:
        """Run the model; label its lesions."""
        return self._segmentation.segment(item)
