"""``psma-node evaluate``: a validation's report again, or the node's own chain on a labelled cohort."""

from __future__ import annotations

import logging
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from app.node_evaluation import NodeScores
    from app.settings import Settings

NODE_FOLDER = Path("node-evaluation")
REPORT_FILE = "report.html"
Site = tuple[Path | None, list[str] | None]
"""The site's file, and the settings that override it."""

EXIT_INCOMPLETE = 1
EXIT_STOPPED = 130


def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|SCORES_CSV",
            exists=True,
            help="An experiment's folder or its scores.csv; with --node a cohort's folder.",
        ),
    ],
    node: Annotated[
        bool, typer.Option("--node", help="Run the node's chain, as app.yaml sets it, on the cohort.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The report, default report.html; with --node a folder, default node-evaluation."),
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of the patients' images; default: FOLDER/cohort."
        ),
    ] = None,
    centre: Annotated[str, typer.Option(help="With --node: only this centre's patients.")] = "",
    cards: Annotated[
        bool, typer.Option("--update-cards", help="With --node: write the metrics into the models' cards.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the study's table beside ours, every patient and figures into one HTML file.

    With --node every patient's DICOM goes through folder mode with the site's settings and models, and the
    SEG that comes out is compared with the truth: what is validated is what runs. Exit code 1: a scan of the
    cohort gave no result; the report names it.
    """
    if node:
        from app.node.stop_signals import block_stop_signals

        block_stop_signals()
        _evaluate_node(source, out or NODE_FOLDER, centre, (config, overrides), cards)
        return
    from app.validation.report import report_from

    report = out or Path(REPORT_FILE)
    report_from(source, report, cohort)
    typer.echo(f"written: {report}")


def _evaluate_node(cohort: Path, out: Path, centre: str, site: Site, cards: bool) -> None:
    from app.cohort.manifest import read_manifest
    from app.node.json_log import configure_logging
    from app.node.stop_signals import end_process, run_unless_stopped
    from app.node_evaluation import evaluate_node
    from app.settings import load_settings

    settings, manifest = load_settings(site[0], site[1] or []), read_manifest(cohort)
    patients = [p for p in manifest.patients if not centre or p.centre == centre]
    if not patients:
        raise typer.BadParameter(f"no patient of centre {centre!r}; centres: {', '.join(manifest.centres)}")
    configure_logging(None, "WARNING")
    logging.getLogger("app.node_evaluation").setLevel(logging.INFO)
    found = run_unless_stopped(lambda: evaluate_node(cohort.resolve(), patients, settings, out.resolve()))
    if found is None:
        typer.echo("psma-node: stopped; run the same command again", err=True)
        end_process(EXIT_STOPPED)
    command = _command(centre, site)
    if found.scores:
        _write_report(out, found, settings, (cohort, manifest.simulated), command)
    if cards:
        complete_cards(found, settings, manifest.simulated, command)
    for line in found.missing:
        typer.echo(f"no result: {line}", err=True)
    raise typer.Exit(EXIT_INCOMPLETE if found.missing else 0)


def _command(centre: str, site: Site) -> str:
    """What to run again, as it was asked for; folders stay unsaid."""
    words = ["psma-node evaluate --node COHORT"]
    words += [f"--centre {centre}"] if centre else []
    words += ["--config SITE.yaml"] if site[0] is not None else []
    return " ".join([*words, *(f"--set {shlex.quote(word)}" for word in site[1] or [])])


def complete_cards(found: NodeScores, settings: Settings, simulated: bool, command: str) -> None:
    """Metrics of the node's own chain into the card of each model that served."""
    from app import __version__
    from app.inference.model_card import MetricSource, read_card, write_card
    from app.validation.card_metrics import metrics_of

    source = MetricSource(
        command=command, software_version=__version__, date=datetime.now(UTC).date().isoformat()
    )
    for role, model in found.models.items():
        own = [s for s in found.scores if s.key.used == role and s.key.model == role]
        folder = settings.segment.models_folder / model
        if own:
            metrics = metrics_of(own, simulated)
            card = read_card(folder).model_copy(update={"metrics": metrics, "metric_source": source})
            write_card(card, folder)
            typer.echo(f"card: {model}")


def _write_report(
    out: Path, found: NodeScores, settings: Settings, of: tuple[Path, bool], command: str
) -> None:
    from app import __version__
    from app.validation.report import ABOUT_FILE, ReportAbout, report_from, write_about
    from app.validation.scores_file import SCORES_FILE, write_scores

    cohort, simulated = of
    about = ReportAbout(
        title="The node's own chain on a labelled cohort",
        simulated=simulated,
        software_version=__version__,
        models=found.models,
        commands=(command,),
        settings=f"digest of the site's settings: {settings.digest}",
        notes=tuple(f"No result: {line}" for line in found.missing),
    )
    write_scores(found.scores, out / SCORES_FILE)
    write_about(about, out / ABOUT_FILE)
    report_from(out, out / REPORT_FILE, cohort)
    typer.echo(f"written: {out / REPORT_FILE}")
