"""The command line: registers the commands, and makes each error a sentence and an exit code.

``settings`` and ``conformance`` stand here: each prints one page.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

import typer

from app import __version__
from app.cli import cohort, models, operate
from app.cli.demo import demo, phantom
from app.cli.evaluate import evaluate
from app.cli.experiment import experiment
from app.cli.folder import inspect, process
from app.cli.operate import check, serve
from app.cli.options import CommandGroup
from app.cli.studies import discard, forward, remove, retry, status
from app.errors import PsmaNodeError


def settings() -> None:
    """Print the reference of app.yaml as Markdown."""
    from app.reference import settings_reference

    typer.echo(settings_reference(), nl=False)


def conformance() -> None:
    """Print the DICOM conformance statement as Markdown."""
    from app.reference import conformance_statement

    typer.echo(conformance_statement(), nl=False)


PROGRAM = "psma-node"
"""What a person types, also where the program runs as ``python -m app``."""

GARBAGE_AFTER = 10_000
"""Objects made and not given back, before Python looks for cycles among them."""

app = typer.Typer(
    name=PROGRAM,
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is text: to load what would draw boxes around it takes longer than the rest
    add_completion=False,
    help="PSMA node: receives PSMA PET/CT and 177Lu SPECT/CT over DICOM, and sends lesions as SEG, SR and a "
    "page. Research use only.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _common(version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True)) -> None:
    pass


NODE_COMMANDS = (
    serve, status, check, retry, forward, remove, discard, process, inspect, settings, conformance,
)  # fmt: skip

for command in (*NODE_COMMANDS, demo, phantom, experiment, evaluate):
    app.command()(command)

app.add_typer(models.app, name="models")

app.add_typer(operate.app, name="audit")

app.add_typer(cohort.app, name="cohort")


def _keep_only(words: Sequence[str]) -> None:
    """Of the commands keep the one that is asked for, where it is one: Typer makes ready all that it has."""
    wanted = [
        command for command in app.registered_commands if getattr(command.callback, "__name__", "") in words
    ]
    if wanted:
        app.registered_commands, app.registered_groups = wanted, []


def main() -> None:
    """Entry point: an error that was raised on purpose is a sentence and an exit code, not a traceback."""
    # a start makes objects that stay: looking for garbage among them is a tenth of a short command
    gc.set_threshold(GARBAGE_AFTER)
    # pydantic would search every installed package for plugins, and none has a say in what settings mean
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _keep_only(sys.argv[1:2])
    try:
        app(prog_name=PROGRAM)
    except PsmaNodeError as error:
        typer.echo(f"{PROGRAM}: {error}", err=True)
        sys.exit(error.exit_code)
