"""shadow.json: what the shadow models found in folder mode, beside the results and never among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from app.domain.outcome import ShadowComparison
from app.durable_file import write_durably

NAME = "shadow.json"
_ADAPTER = TypeAdapter(tuple[ShadowComparison, ...])


def write_shadows(comparisons: Sequence[ShadowComparison], folder: Path) -> None:
    """Write ``shadow.json`` into ``folder``; one of an earlier run goes. Raises OSError."""
    if comparisons:
        write_durably(folder / NAME, _ADAPTER.dump_json(tuple(comparisons), indent=2) + b"\n")
    else:
        (folder / NAME).unlink(missing_ok=True)


def read_shadows(folder: Path) -> tuple[ShadowComparison, ...]:
    """What :func:`write_shadows` wrote; nothing when there is no such file."""
    path = folder / NAME
    return _ADAPTER.validate_json(path.read_bytes()) if path.is_file() else ()
