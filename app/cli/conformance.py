"""``psma-node conformance``: the DICOM conformance statement."""

from __future__ import annotations

import typer


def conformance() -> None:
    """Print the DICOM conformance statement as Markdown."""
    from app.reference.conformance import conformance_statement

    typer.echo(conformance_statement(), nl=False)
