"""quantify: every lesion measured, the burden of the whole body, and the change since the previous study."""

from __future__ import annotations

from app.domain.analysis import Quantified, Segmented
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.imaging.quantification import LesionQuantification
from operators.framework import Fragment
from operators.stage import StageOperator


class QuantifyOperator(StageOperator):
    """``segmented`` in, ``quantified`` out."""

    stage, inlet, outlet = "quantify", "segmented", "quantified"

    def __init__(
        self, fragment: Fragment, *, quantification: LesionQuantification, on_stage: OnStage
    ) -> None:
        self._quantification = quantification
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Segmented) -> Quantified | Rejection:
        """Measure and compare."""
        return self._quantification.quantify(item)
