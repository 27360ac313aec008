"""``psma-node status``: every study with its state, the reason, and what comes next."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from app.node.watch.status import StudyStatus


def status(
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the studies with state, reason and next step; works whether the node runs or not.

    Exit code: 0, 2 wrong settings (or no data folder there), 4 the database does not answer.
    """
    from app.node.records.stores import open_known_stores
    from app.node.watch.status import study_statuses
    from app.settings import load_settings

    stores = open_known_stores(load_settings(config, overrides or []).node)
    studies = study_statuses(stores)
    stores.close()
    if as_json:
        content = {"studies": [asdict(study) for study in studies]}
        typer.echo(json.dumps(content, indent=2, default=_iso))
    else:
        _print(studies)


def _print(studies: tuple[StudyStatus, ...]) -> None:
    """One line a study, whole identifiers, then why and what next; nothing is cut to the terminal's width."""
    if not studies:
        typer.echo("no study has arrived yet")
    for study in studies:
        state = f"{study.state} ({study.stage})" if study.stage else study.state
        revision = f"revision {study.revision}, " if study.revision else ""
        acquired = f", acquired {study.acquired_at:%Y-%m-%d}" if study.acquired_at else ""
        images = f"{study.image_count} images{acquired}"
        typer.echo(f"{state:<20} {study.study_instance_uid}  {revision}{images}")
        if study.beside:
            typer.echo(f"{'':<20} kept beside the images: {study.beside}")
        if study.conflicts:
            typer.echo(f"{'':<20} {study.conflicts} instances arrived with different contents")
        for title, words in (("why", study.reason), ("next", study.next_step)):
            if words not in ("", "none"):
                typer.echo(f"{'':<20} {title}: {words}")


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    raise TypeError(f"no JSON for {type(value).__name__}")
