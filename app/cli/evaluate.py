"""``psma-node evaluate``: a validation's report again; with ``--node``, of the node's chain on a cohort."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ConfigOption, SetOption
from app.errors import ExitCode, MisconfiguredError

if TYPE_CHECKING:
    from app.chain.evaluation import NodeScores
    from app.cohort.manifest import CohortPatient
    from app.inference.models.card import ModelCard
    from app.settings import Settings

REPORT_FILE = Path("report.html")
COMMAND = "`psma-node evaluate --node`"


@dataclass(frozen=True)
class NodeRun:
    """What is evaluated and with what: ``serving`` are the models that the site's policy names."""

    cohort: Path
    patients: Sequence[CohortPatient]
    simulated: bool
    settings: Settings
    serving: tuple[ModelCard, ...]
    command: str

    @property
    def caveats(self) -> tuple[str, ...]:
        """Which models may have been trained on these patients, a sentence each."""
        from app.validation.cards import warning

        centres = {patient.centre for patient in self.patients}
        return tuple(filter(None, (warning(card, centres, self.simulated) for card in self.serving)))


def run_node(cohort: Path, centre: str, site: tuple[Path | None, list[str]]) -> NodeRun:
    """The run, checked as far as possible before any computing; an empty ``centre`` means every patient.

    Raises:
        MisconfiguredError: cohort, settings or models can't be used.
        typer.BadParameter: no patient of that centre.
    """
    from app.cohort.manifest import read_manifest
    from app.inference.models.store import ModelStore, site_models
    from app.settings import load_settings

    settings, manifest = load_settings(*site), read_manifest(cohort)
    patients = [p for p in manifest.patients if not centre or p.centre == centre]
    if not patients:
        raise typer.BadParameter(f"no patient of centre {centre!r}; centres: {', '.join(manifest.centres)}")
    models = site_models(ModelStore(settings.segment.models_folder), settings.segment)
    serving = tuple({card.id: card for card in models.serving.values()}.values())
    command = _command(centre, site)
    return NodeRun(cohort.resolve(), patients, manifest.simulated, settings, serving, command)


def evaluate_and_report(run: NodeRun, out: Path, cards: bool) -> None:
    """Process, score, report; the command fails when a scan gave no result."""
    from app.chain.evaluation import evaluate_node
    from app.files.durable import hold_folder
    from app.node.stop_signals import end_process, run_unless_stopped
    from app.node.watch.log import configure_logging
    from app.validation.cards import check_tellable

    if cards:
        check_tellable(run.serving)
    for caveat in run.caveats:
        typer.echo(f"warning: {caveat}", err=True)
    with hold_folder(out, COMMAND):
        configure_logging(None, "WARNING")
        logging.getLogger("app.chain.evaluation").setLevel(logging.INFO)
        found = run_unless_stopped(lambda: evaluate_node(run.cohort, run.patients, run.settings, out))
        if found is None:
            typer.echo("psma-node: stopped; the same command goes on with the next patient", err=True)
            end_process(ExitCode.STOPPED)
        if found.scores:
            _write_report(out, found, run)
        if cards:
            complete_cards(found, run)
    for line in found.missing:
        typer.echo(f"no result: {line}", err=True)
    raise typer.Exit(ExitCode.FAILED if found.missing else ExitCode.DONE)


def _command(centre: str, site: tuple[Path | None, list[str]]) -> str:
    """The command to run again; it reveals no folder."""
    words = ["psma-node evaluate --node COHORT"]
    words += [f"--centre {centre}"] if centre else []
    words += ["--config SITE.yaml"] if site[0] is not None else []
    return " ".join([*words, *(f"--set {shlex.quote(word)}" for word in site[1])])


def complete_cards(found: NodeScores, run: NodeRun) -> None:
    """Metrics of the node's own chain into the serving models' cards; where there are none, it says why."""
    from app import __version__
    from app.inference.models.card import MetricSource, read_card, write_card
    from app.validation.cards import findings_of

    today = datetime.now(UTC).date().isoformat()
    source = MetricSource(command=run.command, software_version=__version__, date=today)
    for each in findings_of(found.scores, found.models, run.serving, run.simulated):
        if not each.metrics:
            typer.echo(f"card unchanged: {each.model_id}: {each.why_none}")
            continue
        folder = run.settings.segment.models_folder / each.model_id
        update = {"metrics": each.metrics, "metric_source": source}
        write_card(read_card(folder).model_copy(update=update), folder)
        typer.echo(f"card: {each.model_id}")


def _write_report(out: Path, found: NodeScores, run: NodeRun) -> None:
    from app import __version__
    from app.validation.report.page import report_from
    from app.validation.scores import ABOUT_FILE, SCORES_FILE, ReportAbout, write_about, write_scores

    about = ReportAbout(
        title="The node's own chain on a labelled cohort",
        simulated=run.simulated,
        software_version=__version__,
        models=found.models,
        commands=(run.command,),
        settings=f"digest of the site's settings: {run.settings.digest}",
        notes=(*run.caveats, *(f"No result: {line}" for line in found.missing)),
    )
    write_scores(found.scores, out / SCORES_FILE)
    write_about(about, out / ABOUT_FILE)
    report_from(out, out / REPORT_FILE, run.cohort)
    typer.echo(f"written: {out / REPORT_FILE}")


NODE_FOLDER = Path("node-evaluation")


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
    centre: Annotated[
        str, typer.Option(help="With --node: only this centre's patients, such as one that trained no model.")
    ] = "",
    cards: Annotated[
        bool, typer.Option("--update-cards", help="With --node: write the metrics into the models' cards.")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the published study's table next to ours, every patient and figures into one HTML file.

    With --node every patient's DICOM goes through folder mode with the site's settings and models, and the
    SEG that comes out is compared with the truth: what is validated is what runs. It says which models may
    have been trained on these patients. Stopped, it goes on where it was. It fails when a scan of the cohort
    gave no result; the report names it.
    """
    _refuse_what_would_be_ignored(
        {"--centre": centre, "--update-cards": cards, "--config": config, "--set": overrides}, cohort, node
    )
    if not node:
        _write_again(source, out or REPORT_FILE, cohort)
        return
    from app.node.stop_signals import block_stop_signals

    block_stop_signals()
    with _explained(out or NODE_FOLDER):
        run = run_node(source, centre, (config, overrides or []))
        evaluate_and_report(run, (out or NODE_FOLDER).resolve(), cards)


def _refuse_what_would_be_ignored(of_node: dict[str, object], cohort: Path | None, node: bool) -> None:
    given = [name for name, value in of_node.items() if value]
    if given and not node:
        raise typer.BadParameter("only with --node", param_hint=", ".join(given))
    if cohort is not None and node:
        raise typer.BadParameter("not with --node: FOLDER is the cohort", param_hint="--cohort")


def _write_again(source: Path, report: Path, cohort: Path | None) -> None:
    from app.validation.report.page import report_from

    if report.is_dir():
        raise typer.BadParameter(f"{report} is a folder; give the file to write", param_hint="--out")
    with _explained(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        lacking = report_from(source, report, cohort)
    typer.echo(f"written: {report}")
    for line in lacking:
        typer.echo(line)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Raise a MisconfiguredError, a sentence, in place of an OSError, which would be a traceback."""
    try:
        yield
    except OSError as error:
        raise MisconfiguredError(f"{error.filename or place}: {error.strerror or error}") from error
