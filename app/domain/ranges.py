"""What a setting may be, declared once, where its field is.

A number is ``Annotated[float, Range(0, 1)]``, text that has a form ``Annotated[str, Form(…)]``. A record of
settings that inherits :class:`Ranged` refuses everything else, however it was made; the settings' reader asks
each rule by itself, so that it names every wrong key at once, and the reference states it.

The methods ``__get_pydantic_…__`` are pydantic's protocol for annotations, which needs nothing of pydantic.
"""

from __future__ import annotations

import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

ALLOWED = "x-allowed"
"""Key of the rule's words in a JSON schema."""


class Rule(ABC):
    """What a value may be; its text says so."""

    @abstractmethod
    def allows(self, value: Any) -> bool:
        """Whether the value may stand."""

    def checked(self, value: Any) -> Any:
        """The value.

        Raises:
            ValueError: it is not allowed.
        """
        if not self.allows(value):
            raise ValueError(f"expected {self}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        function = {"type": "no-info", "function": self.checked}
        return {"type": "function-after", "function": function, "schema": handler(source)}

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        return {**handler(schema), ALLOWED: str(self)}


@dataclass(frozen=True)
class Range(Rule):
    """A number from ``least`` to ``most``; without ``least`` itself where it is ``above``."""

    least: float
    most: float
    above: bool = False

    def allows(self, value: Any) -> bool:
        """Within the limits; not a number (NaN) is not."""
        return self.least <= value <= self.most and not (self.above and value == self.least)

    def __str__(self) -> str:
        least, most = (f"{limit:.12g}" for limit in (self.least, self.most))
        return f"more than {least}, at most {most}" if self.above else f"{least} to {most}"


@dataclass(frozen=True)
class Form(Rule):
    """Text that a regular expression matches, and what that means."""

    pattern: str
    words: str

    def allows(self, value: Any) -> bool:
        """The whole text has the form."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, above=True)]
"""A share that 0 would make meaningless."""
Correlation = Annotated[float, Range(-1, 1)]
Millimetres = Annotated[float, Range(-500, 500)]
"""From one place of a body to another, along an axis."""
Minutes = Annotated[float, Range(0, 20_160)]
"""Up to two weeks: the longest that matters of an injection."""


class Ranged:
    """A record of settings each of whose values is what its field declares."""

    def __post_init__(self) -> None:
        """Look at every value.

        Raises:
            ValueError: one is not allowed; it names the field.
        """
        record: Any = type(self)
        for name, rule, is_list in _rules(record):
            value = getattr(self, name)
            for one in value if is_list else (value,):
                if one is not None and not rule.allows(one):
                    raise ValueError(f"{name}: found {one!r}, expected {rule}")


@cache
def _rules(record: Any) -> tuple[tuple[str, Rule, bool], ...]:
    """The field, its rule, and whether the field holds a list of such values."""
    hints = typing.get_type_hints(record, include_extras=True)
    return tuple((name, rule, is_list) for name, hint in hints.items() for rule, is_list in rules_in(hint))


def rules_in(hint: Any, is_list: bool = False) -> Iterator[tuple[Rule, bool]]:
    """The rules of an annotation, those within ``X | None`` and ``tuple[X, ...]`` too."""
    is_list = is_list or typing.get_origin(hint) is tuple
    for rule in getattr(hint, "__metadata__", ()):
        if isinstance(rule, Rule):
            yield rule, is_list
    for inner in typing.get_args(hint):
        yield from rules_in(inner, is_list)
