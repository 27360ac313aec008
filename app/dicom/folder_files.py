"""The files in a folder, as a person sees them there: nested, and behind links to other folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_beneath(folder: Path) -> list[Path]:
    """Every regular file, sorted, in linked folders too; each real folder once, so that rings come to an end.

    A link to nothing is there as a file that can't be read: the folder behind it may not be mounted.
    """
    return sorted(_files(folder))


def _files(folder: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (path for path in (Path(parent, name) for name in files) if _is_due(path))


def _is_due(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())
