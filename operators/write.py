"""write: SEG, SR and page as DICOM datasets, read back before they leave."""

from __future__ import annotations

from collections.abc import Callable

from app.dicom.results.writer import Written
from app.domain.analysis import Quantified
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from operators.framework import Fragment
from operators.stage import StageOperator


class WriteOperator(StageOperator):
    """``quantified`` in, ``written`` out."""

    stage, inlet, outlet = "write", "quantified", "written"

    def __init__(
        self, fragment: Fragment, *, writer: Callable[[Quantified], Written], on_stage: OnStage
    ) -> None:
        self._writer = writer
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Quantified) -> Written | Rejection:
        """Write and compare with what was meant."""
        return self._writer(item)
