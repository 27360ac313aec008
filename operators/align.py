"""align: the patient's earlier PET lesions on the SPECT grid, or the reason why there are none."""

from __future__ import annotations

from app.domain.analysis import Aligned, Loaded
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.imaging.registration.prior_alignment import PriorAligner
from operators.framework import Fragment
from operators.stage import StageOperator


class AlignOperator(StageOperator):
    """``loaded`` in, ``aligned`` out."""

    stage, inlet, outlet = "align", "loaded", "aligned"

    def __init__(self, fragment: Fragment, *, aligner: PriorAligner, on_stage: OnStage) -> None:
        self._aligner = aligner
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Loaded) -> Aligned | Rejection:
        """Find, register, check, carry over."""
        return self._aligner.align(item)
