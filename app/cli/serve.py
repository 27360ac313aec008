"""``psma-node serve``: run the node until SIGTERM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import __version__
from app.cli.compute import ComputePlan, compute_plan, device_cautions
from app.cli.options import ConfigOption, SetOption
from app.errors import MisconfiguredError
from app.node.watch.stop_signals import block_stop_signals, drain_at_stop_signal

if TYPE_CHECKING:
    from app.domain.selection.selection import SelectionResult
    from app.domain.study import Study
    from app.inference.models.store import SiteModels
    from app.node.records.stores import NodeStores
    from app.node.service import NodePlan, NodeService
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
    start can mend, ends the node with the exit code for trying again later.
    """
    block_stop_signals()
    drain_at_stop_signal(_started(config, overrides or [], receive))


def _started(config: Path | None, overrides: list[str], receive: bool) -> NodeService:
    """A node that has passed its checks, listens, and has logged that it is ready."""
    from app.node.records.stores import open_stores
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
    stores = open_stores(node)
    service = NodeService(_plan(compute, models, receive, stores), stores)
    service.start()
    place = {"host": settings.receive.host, "port": service.port} if receive else {}
    _log.info("ready", extra={"version": __version__, "executor": node.executor, **place})
    return service


def _plan(compute: ComputePlan, models: SiteModels, receive: bool, stores: NodeStores) -> NodePlan:
    from app.chain.application import ChainProcessor
    from app.dicom.reading.studies import read_study
    from app.domain.selection.selection import select
    from app.node.process.earlier_studies import NodeEarlierResults
    from app.node.records.comparisons import WaitingShadows
    from app.node.service import NodePlan

    def examine(paths: Sequence[Path]) -> tuple[Study, SelectionResult]:
        study = read_study(paths)
        return study, select(study, settings.select)

    settings, chains = compute.settings, compute.settings_of_chains()
    node = replace(settings.node, workers=compute.workers)
    earlier = NodeEarlierResults(stores, settings.load)
    shadows = WaitingShadows() if models.shadows else None
    desk = None if shadows is None else shadows.put
    return NodePlan(
        node=node if models.wants_prior else replace(node, prior_wait_s=0.0),
        receive=settings.receive,
        deliver=settings.deliver,
        examine=examine,
        processor_factory=lambda on_stage: ChainProcessor(next(chains), earlier, on_stage, desk),
        receives=receive,
        version=__version__,
        settings_digest=settings.digest,
        shadows=shadows,
    )


def _refuse_unfit(settings: Settings) -> SiteModels:
    """Check models and disk now: a node that can't work must not find out with the first patient."""
    from app.cli.operate import verified_models
    from app.node.watch.health import check_disk

    models = verified_models(settings)
    disk = check_disk(settings.node)
    if not disk.ok:
        raise MisconfiguredError(f"{disk.found}; {disk.advice}")
    return models
