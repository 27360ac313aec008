"""Options that several commands share.

What the commands share that work for hours: progress on the terminal, and an orderly end.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The site's app.yaml. Default: $PSMA_NODE_CONFIG, ./app.yaml, the shipped one."
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Override one setting (YAML or plain text); repeatable."
    ),
]


EXIT_TERMINATED = 128 + signal.SIGTERM
"""What a shell reports for a program that SIGTERM ended."""


def log_to_terminal() -> None:
    """Progress with the time of day, on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # tells every module that it copies


def end_on_sigterm() -> None:
    """As on Ctrl-C: what is at work finishes or ends with the command, and nothing is left half written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
