"""What a reader drew, as every form of truth is handed on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.volume import LabelMap
from app.errors import PsmaNodeError


class UnusableTruthError(PsmaNodeError):
    """A reader's file can't be used for this scan; the message says why and names no patient."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Regions of one file on the functional image's grid.

    Attributes:
        labels: each region's number, in the file's order; a number may be missing where nothing is left.
        share_outside: share of what was drawn that lies outside the functional image, 0..1.
        resampled: drawn on another grid than the functional image's.
        warnings: what a person should know.
    """

    labels: LabelMap
    share_outside: float = 0.0
    resampled: bool = False
    warnings: tuple[str, ...] = ()


def chosen(names: Iterable[tuple[int, str]], wanted: str) -> list[int]:
    """Numbers of the regions whose name holds the regular expression ``wanted`` (case ignored; empty: all).

    Raises:
        UnusableTruthError: there are regions, and none is wanted.
    """
    named = list(names)
    numbers = [number for number, name in named if re.search(wanted, name, re.IGNORECASE)]
    if named and not numbers:
        raise UnusableTruthError(f"none of {len(named)} outlined regions has a name that --roi allows")
    return numbers
