"""What befalls an inbox, and what is in its folder."""

from __future__ import annotations

from pathlib import Path

from app.node.records.inbox import Inbox
from app.node.records.slots import is_unused


class Killed(BaseException):
    """What ends a process, as far as a test can."""


def kill(*_: object) -> None:
    raise Killed


def nothing(*_: object) -> None:
    """What a killed process does to put things in order."""


def files(inbox: Inbox) -> list[Path]:
    """All that something has been written to."""
    return sorted(path for path in inbox.folder.rglob("*") if path.is_file() and not is_unused(path))


def flipped(content: bytes) -> bytes:
    """A bit of a pixel."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
