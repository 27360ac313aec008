"""Commands about single studies: status, retry, remove and discard. The node may be running or stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ByOption, ConfigOption, SetOption, asked_by

if TYPE_CHECKING:
    from app.node.watch.status import StudyStatus


def status(  # noqa: PLR0913, PLR0917 - one parameter an option
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    patient: Annotated[str, typer.Option(metavar="ID", help="Only of this patient (Patient ID).")] = "",
    accession: Annotated[str, typer.Option(metavar="NUMBER", help="Only with this Accession Number.")] = "",
    state: Annotated[str, typer.Option(help="Only in this state, such as failed or rejected.")] = "",
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Only acquired, or received for the first time, on this day."
        ),
    ] = None,
) -> None:
    """List the studies with state, reason and next step. The node may be running or stopped."""
    from app.node.records.states import StudyState
    from app.node.watch.status import Wanted, known_statuses
    from app.settings import load_settings

    shown = sorted(set(StudyState) - {StudyState.HELD, StudyState.REMOVED})
    if state and state not in shown:
        raise typer.BadParameter(f"no study is in state {state!r}; the states are {', '.join(shown)}")
    wanted = Wanted(patient, accession, state, day.date() if day else None)
    studies = known_statuses(load_settings(config, overrides or []).node, wanted)
    if as_json:
        content = {"studies": [asdict(study) for study in studies]}
        typer.echo(json.dumps(content, indent=2, default=_iso))
    else:
        nothing = "no study has arrived yet" if wanted == Wanted() else "no study fits what was asked for"
        _print_studies(studies, nothing)


def _print_studies(studies: tuple[StudyStatus, ...], nothing: str) -> None:
    """One line for each study, then why and what is next; nothing is cut to the terminal's width."""
    if not studies:
        typer.echo(nothing)
    for study in studies:
        state = f"{study.state} ({study.stage})" if study.stage else study.state
        revision = f"revision {study.revision}, " if study.revision else ""
        acquired = f", acquired {study.acquired_at:%Y-%m-%d}" if study.acquired_at else ""
        images = f"{study.image_count} images{acquired}"
        typer.echo(f"{state:<20} {study.study_instance_uid}  {revision}{images}")
        if study.beside:
            typer.echo(f"{'':<20} kept with the images: {study.beside}")
        if study.conflicts:
            typer.echo(f"{'':<20} {study.conflicts} instances arrived with different contents")
        for title, words in (("why", study.reason), ("next", study.next_step)):
            if words not in ("", "none"):
                typer.echo(f"{'':<20} {title}: {words}")


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    raise TypeError(f"no JSON for {type(value).__name__}")


def retry(  # noqa: PLR0913, PLR0917 - one parameter an option
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Study Instance UID, as status shows it.")
    ] = "",
    config: ConfigOption = None,
    overrides: SetOption = None,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send the results of a done study to every destination again.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Analyse a done study again; its new results replace the earlier ones."),
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Try every study again that failed.")] = False,
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Send results to this destination: those of STUDY, else all that it never got.",
        ),
    ] = "",
    by: ByOption = "",
) -> None:
    """Try a study again: its delivery when it has results, else its processing.

    The node may be running or stopped.
    """
    from app.node.records.stores import open_known_stores
    from app.node.upkeep.retry import analyse_again, failed_studies, forward, resend_study, retry_study
    from app.settings import load_settings

    if resend + again + failed + bool(to) > 1:
        raise typer.BadParameter("give --resend, --again, --failed or --to, not several of them")
    if failed == bool(study) and not to:
        raise typer.BadParameter("give a STUDY, or --failed for all that failed")
    settings = load_settings(config, overrides or [])
    stores = open_known_stores(settings.node)
    if to:
        lines = forward(stores, settings.deliver, to, study, asked_by(by))
        typer.echo("\n".join(lines) or f"{to} has everything")
        stores.close()
        return
    act = resend_study if resend else analyse_again if again else retry_study
    studies = failed_studies(stores) if failed else (study,)
    for uid in studies:
        done = act(stores, uid, asked_by(by))
        typer.echo(f"{uid}: {done}" if failed else done)
    if not studies:
        typer.echo("no study failed")
    stores.close()


def remove(  # noqa: PLR0913, PLR0917 - one parameter an option
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Study Instance UID, as status shows it.")
    ] = "",
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also with a delivery that is open, or a try that is planned.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the audit log; no name of a patient.")] = "",
    by: ByOption = "",
    would_expire: Annotated[
        bool, typer.Option("--dry-run", help="List what node.retention would remove now; remove nothing.")
    ] = False,
) -> None:
    """Remove a study for good: its images, its results, and what the node knows of it.

    What a PACS was sent stays there. The node may be running or stopped.
    """
    from app.node.records.database import utc_now
    from app.node.records.stores import open_known_stores
    from app.node.upkeep.removal import RemovalRequest, remove_study
    from app.node.upkeep.retention import expired
    from app.settings import load_settings

    if would_expire == bool(study):
        raise typer.BadParameter("give a STUDY, or --dry-run for what node.retention would remove")
    settings = load_settings(config, overrides or [])
    stores = open_known_stores(settings.node)
    if would_expire:
        for one in expired(stores, settings.node, utc_now()):
            typer.echo(f"{one.study_instance_uid}  {one.reason}")
        stores.close()
        return
    request = RemovalRequest(study, asked_by(by), reason, force, settings.receive.settle_s)
    typer.echo(remove_study(stores, settings.node, request))
    stores.close()


def discard(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, as status shows it.")],
    content: Annotated[
        list[str] | None,
        typer.Option(help="A content that shall not stand: its number, or the AE title it came from."),
    ] = None,
    series: Annotated[str, typer.Option(help="Only in this series (Series Instance UID).")] = "",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Choose between contents that came under one SOP Instance UID; without --content, list them.

    Nothing is deleted: to choose again, discard the other. The node may be running or stopped.
    """
    from app.node.records.stores import open_known_stores
    from app.node.upkeep.contents import describe_contents, discard_contents
    from app.settings import load_settings

    stores = open_known_stores(load_settings(config, overrides or []).node)
    if content:
        typer.echo(discard_contents(stores, study, content, series))
    else:
        typer.echo("\n".join(describe_contents(stores, study)))
    stores.close()
