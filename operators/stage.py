"""What the five middle stages of the chain have in common: one port each way, one step an item."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from app.domain.outcome import OnStage
from app.domain.refusal import advance
from operators.framework import PYTHON_OBJECT, Fragment, Operator, OperatorSpec


class StageOperator(Operator):
    """Receives a tuple of items, applies :meth:`step` to each, emits the tuple.

    An item that an earlier stage refused (a ``Rejection``) passes through untouched.
    """

    stage: ClassVar[str]
    inlet: ClassVar[str]
    outlet: ClassVar[str]

    def __init__(self, fragment: Fragment, *, on_stage: OnStage) -> None:
        self._on_stage = on_stage
        super().__init__(fragment, name=self.stage)

    def setup(self, spec: OperatorSpec) -> None:
        """One port each way."""
        spec.input(self.inlet)
        spec.output(self.outlet)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Receive, one step an item, emit."""
        self._on_stage(self.stage)
        items = self.together(advance(op_input.receive(self.inlet), self.step))
        op_output.emit(items, self.outlet, PYTHON_OBJECT)

    def together(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the stage makes of a study's items, once each has had its step."""
        return items

    @abstractmethod
    def step(self, item: Any) -> Any:
        """The stage's work on one item."""
