"""deliver: the end of the chain: results into the folder from which they leave, and the study's outcome."""

from __future__ import annotations

from typing import Any

from app.dicom.results.writer import ResultFolder
from operators.framework import Fragment, Operator, OperatorSpec


class DeliverOperator(Operator):
    """``study``, ``written``, ``verdicts`` in; the outcome in the folder proves that the chain finished."""

    def __init__(self, fragment: Fragment, *, folder: ResultFolder) -> None:
        self._folder = folder
        super().__init__(fragment, name="deliver")

    def setup(self, spec: OperatorSpec) -> None:
        """The study, its results and the verdicts on its series in; nothing out."""
        spec.input("study")
        spec.input("written")
        spec.input("verdicts")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Store every file, then say how the study ended."""
        study = op_input.receive("study")
        written, verdicts = op_input.receive("written"), op_input.receive("verdicts")
        self._folder.deliver(study.study_instance_uid, written, verdicts)
