"""``psma-node serve``: the node, until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app import __version__
from app.cli.options import ConfigOption, SetOption
from app.errors import MisconfiguredError

if TYPE_CHECKING:
    from app.domain.selection import SelectionResult
    from app.domain.study import Study
    from app.node.node_policy import NodePolicy
    from app.node.pet_results import PetResults
    from app.node.service import NodePlan, NodeService
    from app.settings import Settings

_log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    config: ConfigOption = None,
    overrides: SetOption = None,
    receive: Annotated[
        bool,
        typer.Option("--receive/--no-receive", help="Without: only work on what other nodes receive."),
    ] = True,
) -> None:
    """Run the node: receive studies, segment them, deliver the results, until SIGTERM or Ctrl-C.

    Exit code: 0 after a drain, 2 wrong settings (or the port is taken), 4 the database does not answer.
    """
    block_stop_signals()
    service = _started(config, overrides or [], receive)
    _wait_for_stop(service)


def block_stop_signals() -> None:
    """Have SIGTERM and SIGINT blocked in every thread, or start this program over with them blocked.

    Holoscan installs handlers that kill a computation after 3 s, and threads that numpy's BLAS started at
    its import would take the signal unblocked. A blocked signal stays blocked over exec, and every thread
    inherits it; only ``sigwait`` below takes it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if not before.issuperset(STOP_SIGNALS):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  this very program


def _started(config: Path | None, overrides: list[str], receive: bool) -> NodeService:
    """Settings, checks, stores, models, listener: a node that is ready, and said so in its log."""
    from app.node.json_log import configure_logging
    from app.node.service import NodeService
    from app.node.stores import open_stores
    from app.settings import load_settings

    settings = load_settings(config, overrides)
    node = settings.node
    configure_logging(Path(node.log_file) if node.log_file else None, node.log_level)
    stores = open_stores(node)
    _refuse_unfit(node)
    service = NodeService(_plan(settings, receive, stores.pet_results), stores)
    service.start()
    place = {"host": settings.receive.host, "port": service.port} if receive else {}
    _log.info("ready", extra={"version": __version__, "executor": node.executor, **place})
    return service


def _plan(settings: Settings, receive: bool, pet_results: PetResults) -> NodePlan:
    from app.application import ChainProcessor
    from app.dicom.study_reader import read_study
    from app.domain.selection import select
    from app.node.priors import NodePriors
    from app.node.service import NodePlan

    def examine(paths: Sequence[Path]) -> tuple[Study, SelectionResult]:
        study = read_study(paths)
        return study, select(study, settings.select)

    priors = NodePriors(pet_results)
    return NodePlan(
        node=settings.node,
        receive=settings.receive,
        deliver=settings.deliver,
        examine=examine,
        processor_factory=lambda on_stage: ChainProcessor(settings, priors, on_stage),
        receives=receive,
        version=__version__,
        settings_digest=settings.digest,
    )


def _refuse_unfit(node: NodePolicy) -> None:
    from app.node.health import check_disk

    disk = check_disk(node)
    if not disk.ok:
        raise MisconfiguredError(f"{disk.found}; {disk.advice}")


def _wait_for_stop(service: NodeService) -> NoReturn:
    number = signal.sigwait(STOP_SIGNALS)
    _log.info("draining", extra={"signal": signal.Signals(number).name})
    service.stop()
    _log.info("stopped")
    logging.shutdown()
    # a chain that has not ended by now is on a thread that Python would wait for; it is begun again next time
    os._exit(0)
