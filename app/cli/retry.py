"""``psma-node retry STUDY``: try again what failed or was rejected."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.options import ConfigOption, SetOption


def retry(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, as status shows it.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send the results of a study that is done again, everywhere.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Analyse a study that is done anew; the new results replace the former."
        ),
    ] = False,
) -> None:
    """Try a study again: its delivery when it has results, else its processing. The node may run or not."""
    from app.node.records.stores import open_known_stores
    from app.node.watch.retry import analyse_again, resend_study, retry_study
    from app.settings import load_settings

    if resend and again:
        raise typer.BadParameter("give --resend or --again, not both")
    stores = open_known_stores(load_settings(config, overrides or []).node)
    act = resend_study if resend else analyse_again if again else retry_study
    typer.echo(act(stores, study))
    stores.close()
