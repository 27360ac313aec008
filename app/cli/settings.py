"""``psma-node settings``: every key of app.yaml, its default, what it means."""

from __future__ import annotations

import typer


def settings() -> None:
    """Print the reference of app.yaml as Markdown."""
    from app.reference.settings import settings_reference

    typer.echo(settings_reference(), nl=False)
