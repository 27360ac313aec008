"""``psma-node``: one command a task. Each command imports what it needs when it runs."""

from __future__ import annotations

from app.cli.main import main

__all__ = ["main"]
