"""Commands for whoever runs a node: serve, check, ``audit verify`` and ``audit export``."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import __version__
from app.cli.options import (
    ByOption,
    CommandGroup,
    ComputePlan,
    ConfigOption,
    SetOption,
    asked_by,
    compute_plan,
    device_cautions,
)
from app.errors import ExitCode, MisconfiguredError, RetryLaterError
from app.node.stop_signals import NODE_SIGNALS, block_stop_signals, drain_at_stop_signal

if TYPE_CHECKING:
    from app.cli.reload import Reloader
    from app.domain.outcome import EarlierRevisions, RunContext, StudyOutcome
    from app.domain.selection.selection import SelectionResult
    from app.domain.study import Study
    from app.inference.models.store import SiteModels
    from app.node.process.processors import ProcessorPool
    from app.node.process.shadows import WaitingShadows
    from app.node.records.stores import NodeStores
    from app.node.service import NodePlan, NodeService
    from app.node.watch.check_result import CheckResult
    from app.settings import Settings

_log = logging.getLogger(__name__)


def serve(
    config: ConfigOption = None,
    overrides: SetOption = None,
    receive: Annotated[
        bool,
        typer.Option("--receive/--no-receive", help="With --no-receive only work on what others receive."),
    ] = True,
) -> None:
    """Run the node: receive studies, segment them, deliver the results, until SIGTERM or Ctrl-C.

    A port that is taken counts as a wrong setting. A database that does not answer, or a GPU that only a new
    start can mend, ends the node with the exit code for trying again later. On SIGHUP the node reads its
    settings again and takes over what is safe.
    """
    block_stop_signals(NODE_SIGNALS)
    service, reload = _started(config, overrides or [], receive)
    drain_at_stop_signal(service.stop, reload)


def _started(config: Path | None, overrides: list[str], receive: bool) -> tuple[NodeService, Reloader]:
    """A node that has passed its checks and listens, and what reads its settings again."""
    from app.cli.reload import Reloader
    from app.node.records.stores import open_stores, translated_start_errors
    from app.node.service import NodeService
    from app.node.watch.log import configure_logging
    from app.settings import load_settings

    settings = load_settings(config, overrides)
    node = settings.node
    configure_logging(Path(node.log_file) if node.log_file else None, node.log_level)
    compute = compute_plan(settings)
    models = _refuse_unfit(settings)
    _log.info(str(compute))
    for caution in (*settings.write.cautions, *device_cautions(settings)):
        _log.warning(caution)
    with translated_start_errors(node):
        stores = open_stores(node)
        service = NodeService(_plan(compute, models, receive, stores), stores)
        service.start()
    place = {"host": settings.receive.addresses[0].host, "port": service.port} if receive else {}
    _log.info("ready", extra={"version": __version__, "executor": node.executor, **place})
    return service, Reloader(service, settings, config, overrides)


def _plan(compute: ComputePlan, models: SiteModels, receive: bool, stores: NodeStores) -> NodePlan:
    """What the node is made of; what is within a function here is imported once the node listens."""
    from app.node.process.shadows import WaitingShadows
    from app.node.service import NodePlan

    def examine(paths: Sequence[Path]) -> tuple[Study, SelectionResult]:
        from app.dicom.reading.studies import read_study
        from app.domain.selection.identification import with_site_entries
        from app.domain.selection.selection import select

        study = with_site_entries(read_study(paths), settings.load.administrations)
        return study, select(study, settings.select)

    def judge(
        paths: Sequence[Path], out: Path, revision: int, earlier: EarlierRevisions, context: RunContext
    ) -> StudyOutcome | None:
        from app.chain.headers import HeaderJudge

        return HeaderJudge(settings).judge(paths, out, revision, earlier, context)

    settings = compute.settings
    shadows = WaitingShadows(stores) if models.shadows else None
    return NodePlan(
        node=settings.node if models.wants_prior else replace(settings.node, prior_wait_s=0.0),
        receive=settings.receive,
        deliver=settings.deliver,
        tls=settings.tls,
        examine=examine,
        processors=lambda: _processors(compute, stores, shadows),
        receives=receive,
        version=__version__,
        settings_digest=settings.digest,
        shadows=shadows,
        judge=judge,
    )


def _processors(compute: ComputePlan, stores: NodeStores, shadows: WaitingShadows | None) -> ProcessorPool:
    """A chain for each worker, on one device after another."""
    from app.chain.application import ChainProcessor
    from app.node.process.earlier_studies import NodeEarlierResults
    from app.node.process.processors import ProcessorPool

    chains, earlier = compute.settings_of_chains(), NodeEarlierResults(stores, compute.settings.load)
    queue = None if shadows is None else shadows.put
    return ProcessorPool(
        lambda on_stage: ChainProcessor(next(chains), earlier, on_stage, queue), compute.workers
    )


def _refuse_unfit(settings: Settings) -> SiteModels:
    """Check models and disk now: a node that can't work must not find out with the first patient."""
    from app.node.watch.health import check_disk

    models = verified_models(settings)
    disk = check_disk(settings.node)
    if not disk.ok:
        raise (RetryLaterError if disk.may_pass else MisconfiguredError)(f"{disk.found}; {disk.advice}")
    return models


DEVICE = "device"
"""The check of where the networks run."""


def check(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Validate app.yaml, and try device, models, database, disk, listener and destinations.

    Each check that fails says what to do. A GPU that is demanded and absent counts as a wrong setting.
    """
    from app.node.watch.check_result import CheckResult
    from app.settings import load_settings

    try:
        settings = load_settings(config, overrides or [])
    except MisconfiguredError as error:
        advice = "correct app.yaml, or what overrides it; docs/reference/settings.md has every key"
        *others, last = error.problems
        faults = [CheckResult("settings", False, problem) for problem in others]
        _print_checks((*faults, CheckResult("settings", False, last, advice)))
        raise typer.Exit(ExitCode.MISCONFIGURED) from error
    results = _results(settings)
    _print_checks(results)
    failed = {result.name for result in results if not result.ok}
    if DEVICE in failed:
        raise typer.Exit(ExitCode.MISCONFIGURED)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def _results(settings: Settings) -> tuple[CheckResult, ...]:
    from app.node.watch.check_result import CheckResult, guarded
    from app.node.watch.health import node_checks

    what = "valid; digest of all that can change a result: "
    valid = CheckResult("settings", True, f"{what}{settings.digest[:12]}")
    models = guarded("models", lambda: _check_models(settings))
    cautions = [CheckResult("write", True, f"warning: {text}") for text in settings.write.cautions]
    cautions += [CheckResult(DEVICE, True, f"warning: {text}") for text in device_cautions(settings)]
    device = guarded(DEVICE, lambda: CheckResult(DEVICE, True, str(compute_plan(settings))))
    policies = (settings.node, settings.receive, settings.deliver, settings.tls)
    others = node_checks(*policies, settings.write.classes)
    return (valid, *cautions, device, models, *others)


def verified_models(settings: Settings) -> SiteModels:
    """The models that the site's policy names, shadow models included, once every file matches its card."""
    from app.inference.models.store import ModelStore, site_models

    store = ModelStore(settings.segment.models_folder)
    models = site_models(store, settings.segment)
    for card in models.all:
        store.verify(card)
    return models


def _check_models(settings: Settings) -> CheckResult:
    from app.node.watch.check_result import CheckResult

    models = verified_models(settings)
    shadows = {card.id for card in models.shadows} - {card.id for card in models.serving.values()}
    names = ", ".join(
        f"{card.id} ({card.role}{', shadow' if card.id in shadows else ''})" for card in models.all
    )
    return CheckResult("models", True, f"{names}: every checksum right")


def _print_checks(results: tuple[CheckResult, ...]) -> None:
    """One line for each check and one for what to do, never cut to the terminal's width."""
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(f"{'ok' if result.ok else 'FAILED':<7} {result.name:<{width}}  {result.found}")
        if result.advice:
            typer.echo(f"{'':<7} {'':<{width}}  what to do: {result.advice}")


app = typer.Typer(cls=CommandGroup, no_args_is_help=True, help="The audit log.")


@app.command()
def export(
    config: ConfigOption = None,
    overrides: SetOption = None,
    since: Annotated[datetime | None, typer.Option(help="Only from then on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before then (UTC).")] = None,
    as_xml: Annotated[bool, typer.Option("--xml", help="DICOM audit messages, one a line.")] = False,
    by: ByOption = "",
) -> None:
    """Print the log's entries, as JSON lines or DICOM audit messages; the log says who had it printed."""
    from app.node.records.audit import AuditEvent
    from app.node.records.stores import open_stores, refuse_absent_data_folder
    from app.node.watch.audit_message import audit_message
    from app.settings import load_settings

    node = load_settings(config, overrides or []).node
    refuse_absent_data_folder(node)
    stores = open_stores(node)
    first, end = (_utc(since), _utc(until))
    for entry in stores.audit.entries():
        at = datetime.fromisoformat(str(entry["time"]))
        if (first is None or at >= first) and (end is None or at < end):
            typer.echo(audit_message(entry, node) if as_xml else json.dumps(entry, ensure_ascii=False))
    facts = {"asked_by": asked_by(by), "since": str(since or ""), "until": str(until or "")}
    stores.audit.append(AuditEvent.LOG_EXPORTED, facts=facts)
    stores.close()


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.replace(tzinfo=UTC)


@app.command()
def verify(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Follow the log's chain of hashes; fail when a line was changed, removed or inserted."""
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
        raise typer.Exit(ExitCode.FAILED)
    typer.echo(f"the audit log is whole: {result.entries} entries")
