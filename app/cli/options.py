"""What several commands share: options, and for long work its progress on the terminal and an orderly end."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from app.errors import ExitCode

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


class _StandardError(logging.StreamHandler[TextIO]):
    """Looks standard error up for every line: a progress bar stands in for it, and keeps below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def log_to_terminal() -> None:
    """Progress with the time of day, on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[_StandardError()])
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs every module that it copies


def end_on_sigterm() -> None:
    """End on SIGTERM as on Ctrl-C: work under way ends with the command, no file is half written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))
