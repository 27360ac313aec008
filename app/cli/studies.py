"""Commands about single studies: status, retry, forward, remove and discard.

The node may be running or stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ByOption, ConfigOption, SetOption, asked_by

if TYPE_CHECKING:
    from app.node.policy import NodePolicy
    from app.node.records.stores import NodeStores
    from app.node.watch.status import StudyStatus

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="Study Instance UID, as status shows it.")
]


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

    states = sorted(set(StudyState) - {StudyState.REMOVED})
    if (asked := state.lower()) and asked not in states:
        raise typer.BadParameter(f"there is no state {state!r}; the states are {', '.join(states)}")
    wanted = Wanted(patient, accession, asked, day.date() if day else None)
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
        images = f"{_counted(study.image_count, 'image')}{acquired}"
        typer.echo(f"{state:<20} {study.study_instance_uid}  {revision}{images}")
        if study.beside:
            typer.echo(f"{'':<20} kept with the images: {study.beside}")
        if study.conflicts:
            arrived = f"{_counted(study.conflicts, 'instance')} arrived with different contents"
            typer.echo(f"{'':<20} {arrived}")
        for title, words in (("why", study.reason), ("sent", study.sent), ("next", study.next_step)):
            if words not in ("", "none"):
                typer.echo(f"{'':<20} {title}: {words}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    raise TypeError(f"no JSON for {type(value).__name__}")


def retry(  # noqa: PLR0913, PLR0917 - one parameter an option
    study: StudyArgument = "",
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
    by: ByOption = "",
) -> None:
    """Try a study again: its delivery when it has results, else its processing; one that waits as it is.

    The node may be running or stopped.
    """
    from app.node.records.stores import open_known_stores
    from app.node.upkeep.retry import analyse_again, resend_study, retry_failed, retry_study
    from app.settings import load_settings

    if resend + again + failed > 1:
        raise typer.BadParameter("give --resend, --again or --failed, not several of them")
    if failed == bool(study):
        raise typer.BadParameter("give a STUDY, or --failed for all that failed")
    stores = open_known_stores(load_settings(config, overrides or []).node)
    if failed:
        typer.echo("\n".join(retry_failed(stores, asked_by(by))) or "no study failed")
    else:
        act = resend_study if resend else analyse_again if again else retry_study
        typer.echo(act(stores, study, asked_by(by)))
    stores.close()


def forward(
    to: Annotated[
        str, typer.Option(metavar="NAME", help="The destination, as it is named in deliver.destinations.")
    ],
    study: StudyArgument = "",
    config: ConfigOption = None,
    overrides: SetOption = None,
    by: ByOption = "",
) -> None:
    """Send results that are there to a destination: those of STUDY, without it all that it never got.

    For a new destination. The node may be running or stopped.
    """
    from app.node.records.stores import open_known_stores
    from app.node.upkeep import retry as again
    from app.settings import load_settings

    settings = load_settings(config, overrides or [])
    stores = open_known_stores(settings.node)
    lines = again.forward(stores, settings.deliver, to, study, asked_by(by))
    typer.echo("\n".join(lines) or f"{to} has everything")
    stores.close()


def remove(  # noqa: PLR0913, PLR0917 - one parameter an option
    study: StudyArgument = "",
    config: ConfigOption = None,
    overrides: SetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also with a delivery that is open, or a try that is planned.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the audit log; no name of a patient.")] = "",
    by: ByOption = "",
    would_expire: Annotated[
        bool,
        typer.Option("--dry-run", help="List what node.retention would remove now, and what stays and why."),
    ] = False,
) -> None:
    """Remove a study for good: its images, its results, and what the node knows of it.

    What a PACS was sent stays there. The node may be running or stopped.
    """
    from app.node.records.stores import open_known_stores
    from app.node.upkeep.removal import RemovalRequest, remove_study
    from app.settings import load_settings

    if would_expire == bool(study):
        raise typer.BadParameter("give a STUDY, or --dry-run for what node.retention would remove")
    settings = load_settings(config, overrides or [])
    stores = open_known_stores(settings.node)
    if would_expire:
        _print_retention(stores, settings.node)
    else:
        request = RemovalRequest(study, asked_by(by), reason, force, settings.receive.settle_s)
        typer.echo(remove_study(stores, settings.node, request))
    stores.close()


def _print_retention(stores: NodeStores, node: NodePolicy) -> None:
    """Each study with images: whether they would go now and why, then the sum."""
    from app.node.records.database import utc_now
    from app.node.upkeep.retention import beyond_quota, judge_all

    judged = judge_all(stores, node, utc_now())
    for one in judged:
        line = f"{'goes' if one.goes else 'stays'}  {one.study_instance_uid}  {one.size / 1e6:.0f} MB"
        typer.echo(f"{line}  {one.reason}")
    if not node.retention.is_set:
        typer.echo("node.retention sets no time and no quota: nothing ever goes by itself")
        return
    going, size = [one for one in judged if one.goes], sum(one.size for one in judged)
    freed = sum(one.size for one in going)
    of_all = f"of {len(judged)} studies with {size / 1e6:.0f} MB"
    excess = beyond_quota(judged, node)
    quota = f"; {excess / 1e6:.0f} MB more than node.retention.max_gb stay" if excess > 0 else ""
    typer.echo(f"{len(going)} {of_all} would go, {freed / 1e6:.0f} MB{quota}")


def discard(
    study: StudyArgument,
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
