"""``psma-node check``: is everything the node needs in place?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from app.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from app.inference.models.choice import SiteModels
    from app.node.watch.health import CheckResult
    from app.settings import Settings


DEVICE = "device"
"""The line that tells where the networks run."""


def check(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Validate app.yaml; try device, models, database, disk, listener, destinations.

    Exit code: 0 all is well, 1 something failed, 2 wrong settings, or a GPU demanded that is not there; each
    line that failed says what to do.
    """
    from app.errors import MisconfiguredError
    from app.node.watch.health import CheckResult
    from app.settings import load_settings

    try:
        settings = load_settings(config, overrides or [])
    except MisconfiguredError as error:
        _print((CheckResult("settings", False, str(error), "correct app.yaml, or what overrides it"),))
        raise typer.Exit(2) from error
    results = _results(settings)
    _print(results)
    failed = {result.name for result in results if not result.ok}
    raise typer.Exit(2 if DEVICE in failed else int(bool(failed)))


def _results(settings: Settings) -> tuple[CheckResult, ...]:
    from app.cli.compute import compute_plan, device_cautions
    from app.node.watch.health import CheckResult, guarded, node_checks

    valid = CheckResult("settings", True, f"valid, digest {settings.digest[:12]}")
    models = guarded("models", lambda: _check_models(settings))
    told = [CheckResult("write", True, f"warning: {text}") for text in settings.write.cautions]
    told += [CheckResult(DEVICE, True, f"warning: {text}") for text in device_cautions(settings)]
    device = guarded(DEVICE, lambda: CheckResult(DEVICE, True, str(compute_plan(settings))))
    return (valid, *told, device, models, *node_checks(settings.node, settings.receive, settings.deliver))


def verified_models(settings: Settings) -> SiteModels:
    """The models that the site's policy calls for, shadows too, each file compared with its card.

    Raises:
        MisconfiguredError: one is missing or damaged, or the policy is not clear.
    """
    from app.inference.models.choice import site_models
    from app.inference.models.store import ModelStore

    store = ModelStore(settings.segment.models_folder)
    models = site_models(store, settings.segment)
    for card in models.all:
        store.verify(card)
    return models


def _check_models(settings: Settings) -> CheckResult:
    from app.node.watch.health import CheckResult

    models = verified_models(settings)
    shadows = {card.id for card in models.shadows} - {card.id for card in models.serving.values()}
    names = ", ".join(
        f"{card.id} ({card.role}{', shadow' if card.id in shadows else ''})" for card in models.all
    )
    return CheckResult("models", True, f"{names}: every checksum right")


def _print(results: tuple[CheckResult, ...]) -> None:
    """One line a check, and one for what to do; nothing is cut to the terminal's width."""
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(f"{'ok' if result.ok else 'FAILED':<7} {result.name:<{width}}  {result.found}")
        if result.advice:
            typer.echo(f"{'':<7} {'':<{width}}  what to do: {result.advice}")
