"""The command line: registers the commands, translates errors once.

``psma-node settings``: every key of app.yaml, its default, what it means.

``psma-node conformance``: the DICOM conformance statement.
"""

from __future__ import annotations

import sys

import typer

from app import __version__
from app.cli import cohort, models, operate
from app.cli.demo import demo, phantom
from app.cli.evaluate import evaluate
from app.cli.experiment import experiment
from app.cli.folder import inspect, process
from app.cli.operate import check, retry, status
from app.cli.serve import serve
from app.errors import MisconfiguredError, RetryLaterError, UnusableStudyError


def settings() -> None:
    """Print the reference of app.yaml as Markdown."""
    from app.reference.settings import settings_reference

    typer.echo(settings_reference(), nl=False)


def conformance() -> None:
    """Print the DICOM conformance statement as Markdown."""
    from app.reference.conformance import conformance_statement

    typer.echo(conformance_statement(), nl=False)


EXIT_FAILED, EXIT_MISCONFIGURED, EXIT_REJECTED, EXIT_RETRY = 1, 2, 3, 4

PROGRAM = "psma-node"
"""What a person types; ``python -m app``, which the image runs, is nobody's command."""

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="PSMA node: PSMA PET/CT and 177Lu SPECT/CT in over DICOM, lesions out as SEG, SR and a page. "
    "Research use only.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _common(version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True)) -> None:
    pass


NODE_COMMANDS = (serve, status, check, retry, process, inspect, settings, conformance)

for command in (*NODE_COMMANDS, demo, phantom, experiment, evaluate):
    app.command()(command)

app.add_typer(models.app, name="models")

app.add_typer(operate.app, name="audit")

app.add_typer(cohort.app, name="cohort")


def main() -> None:
    """Entry point: an error that was raised on purpose is a sentence and an exit code, not a traceback."""
    try:
        app(prog_name=PROGRAM)
    except MisconfiguredError as error:
        _fail(error, EXIT_MISCONFIGURED)
    except UnusableStudyError as error:
        _fail(error, EXIT_REJECTED)
    except RetryLaterError as error:
        _fail(error, EXIT_RETRY)


def _fail(error: Exception, code: int) -> None:
    typer.echo(f"{PROGRAM}: {error}", err=True)
    sys.exit(code)
