"""``psma-node process IN OUT``: the chain on a folder, as a MONAI Application Package runs it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import ConfigOption, SetOption

EXIT_STOPPED = 130
"""As a shell reports a program that Ctrl-C ended (128 + SIGINT)."""


def process(
    input_folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="IN", envvar="HOLOSCAN_INPUT_PATH", help="Folder with DICOM files, any names."
        ),
    ] = None,
    output_folder: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", envvar="HOLOSCAN_OUTPUT_PATH", help="Folder for the results; made."),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Segment every PSMA PET/CT and 177Lu SPECT/CT study in IN; write SEG, SR, page, outcome.json to OUT.

    Studies are taken in order of time, so that a PET/CT in IN serves as the prior of a later SPECT/CT.
    Exit code: 0 done, 3 rejected, 4 try later, 1 failed, 2 wrong settings or arguments,
    130 stopped by Ctrl-C or SIGTERM.
    """
    from app.node.watch.stop_signals import block_stop_signals, end_process, run_unless_stopped

    block_stop_signals()
    if input_folder is None or output_folder is None:
        raise typer.BadParameter("give IN and OUT, or set HOLOSCAN_INPUT_PATH and HOLOSCAN_OUTPUT_PATH")
    from app.files.outcome import remove_earlier_outcomes

    remove_earlier_outcomes(output_folder)
    from app.chain.folder import process_folder
    from app.cli.compute import device_cautions
    from app.node.watch.log import configure_logging
    from app.settings import load_settings

    settings = load_settings(config, overrides or [])
    configure_logging(None, "WARNING")
    for caution in (*settings.write.cautions, *device_cautions(settings)):
        logging.getLogger(__name__).warning(caution)
    outcome = run_unless_stopped(lambda: process_folder(input_folder, output_folder, settings))
    if outcome is None:
        typer.echo("psma-node: stopped; only studies with an outcome.json of their own are whole", err=True)
        end_process(EXIT_STOPPED)
    for line in outcome.lines():
        typer.echo(line)
    raise typer.Exit(outcome.status.exit_code)
