"""``psma-node audit verify``: is the audit log whole?"""

from __future__ import annotations

import typer

from app.cli.options import ConfigOption, SetOption

app = typer.Typer(no_args_is_help=True, help="The audit log.")


@app.callback()
def _group() -> None:
    """Keeps ``verify`` a word of its own while it is the only command."""


@app.command()
def verify(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Follow the log's chain of hashes.

    Exit code: 0 whole, 1 a line was changed, removed or inserted, 2 wrong settings (or no data folder there).
    """
    from app.node.records.stores import open_stores, refuse_absent_data_folder
    from app.settings import load_settings

    node = load_settings(config, overrides or []).node
    refuse_absent_data_folder(node)
    stores = open_stores(node)
    result = stores.audit.verify()
    stores.close()
    if not result.intact:
        before = f"{result.entries} entries before it are"
        typer.echo(f"the audit log is NOT whole: {result.problem} ({before})", err=True)
        raise typer.Exit(1)
    typer.echo(f"the audit log is whole: {result.entries} entries")
