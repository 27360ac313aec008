"""quantify: every lesion measured, and the burden of the whole body."""

from __future__ import annotations

from app.domain.analysis import Quantified, Segmented
from app.domain.measurements import QuantifyPolicy, measure
from app.domain.refusal import Rejection
from operators.framework import Fragment
from operators.stage import OnStage, StageOperator


class QuantifyOperator(StageOperator):
    """``segmented`` in, ``quantified`` out."""

    stage, inlet, outlet = "quantify", "segmented", "quantified"

    def __init__(self, fragment: Fragment, *, policy: QuantifyPolicy, on_stage: OnStage) -> None:
        self._policy = policy
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Segmented) -> Quantified | Rejection:
        """Measure."""
        loaded = item.aligned.loaded
        return Quantified(item, measure(item.labels, loaded.suv, loaded.activity, self._policy))
