"""select: which series are the functional image and its CT, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.domain.quantities.administration import SiteAdministration
from app.domain.selection.identification import with_site_entries
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from operators.framework import PYTHON_OBJECT, Fragment, Operator, OperatorSpec


class SelectOperator(Operator):
    """``study`` in; ``pairs`` out for the chain, ``verdicts`` out for the report."""

    def __init__(
        self, fragment: Fragment, *, policy: SelectionPolicy, administrations: Sequence[SiteAdministration]
    ) -> None:
        self._policy, self._administrations = policy, administrations
        super().__init__(fragment, name="select")

    def setup(self, spec: OperatorSpec) -> None:
        """One study in, its pairs and verdicts out."""
        spec.input("study")
        spec.output("pairs")
        spec.output("verdicts")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Select by codes and geometry."""
        result = select(with_site_entries(op_input.receive("study"), self._administrations), self._policy)
        op_output.emit(result.pairs, "pairs", PYTHON_OBJECT)
        op_output.emit(result.verdicts, "verdicts", PYTHON_OBJECT)
