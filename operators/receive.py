"""receive: a finished study, its headers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.domain.study import Study
from operators.framework import PYTHON_OBJECT, CountCondition, Fragment, Operator, OperatorSpec


class ReceiveOperator(Operator):
    """Emits the one study of this run on ``study``."""

    def __init__(self, fragment: Fragment, *, source: Callable[[], Study]) -> None:
        self._source = source
        super().__init__(fragment, CountCondition(fragment, 1), name="receive")

    def setup(self, spec: OperatorSpec) -> None:
        """No input; the study out."""
        spec.output("study")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the study's headers."""
        op_output.emit(self._source(), "study", PYTHON_OBJECT)
