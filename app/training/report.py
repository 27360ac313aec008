"""An evaluation as numbers for people: metrics for the cards, a file with every patient."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from app.domain.segmentation_metrics import summarise
from app.inference.model_card import Metric, MetricSource, write_card
from app.inference.model_store import ModelStore
from app.training.evaluate import Cohort, Score

MEASURES: dict[str, Callable[[Score], float | None]] = {
    "DSC": lambda score: score.voxels.dice,
    "voxel PPV": lambda score: score.voxels.ppv,
    "voxel sensitivity": lambda score: score.voxels.sensitivity,
    "lesion sensitivity": lambda score: score.lesions.sensitivity,
    "lesion PPV": lambda score: score.lesions.ppv,
    "false positive lesions a patient": lambda score: float(score.lesions.false_positives),
}


def metrics_of(scores: Sequence[Score]) -> tuple[Metric, ...]:
    """Mean and standard deviation over patients, for each modality and cohort of one model's scores."""
    groups: dict[tuple[str, Cohort], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.modality, score.cohort), []).append(score)
    return tuple(
        _metric(name, measure, modality, cohort, group)
        for (modality, cohort), group in groups.items()
        for name, measure in MEASURES.items()
    )


def _metric(
    name: str, measure: Callable[[Score], float | None], modality: str, cohort: Cohort, group: Sequence[Score]
) -> Metric:
    summary = summarise(measure(score) for score in group)
    undefined = summary.patients - summary.n
    return Metric(
        name=name,
        modality=modality,
        cohort=f"simulated patients {cohort.first} to {cohort.last} of centre {cohort.centre}",
        patients=summary.patients,
        n=summary.n,
        mean=None if summary.mean is None else round(summary.mean, 4),
        sd=None if summary.sd is None else round(summary.sd, 4),
        note=f"not defined for {undefined} of them (nothing to divide by)" if undefined else "",
    )


def update_cards(models: Path, scores: Sequence[Score], source: MetricSource) -> None:
    """Write the metrics of every model that was evaluated into its card."""
    store = ModelStore(models)
    for role in dict.fromkeys(score.role for score in scores):
        card = store.load(role).card
        metrics = metrics_of([score for score in scores if score.role is role])
        write_card(card.model_copy(update={"metrics": metrics, "metric_source": source}), models / card.id)


def write_csv(scores: Sequence[Score], path: Path) -> None:
    """One line a scan, with the raw counts that every measure derives from."""
    counts = ("true_positive", "false_positive", "false_negative")
    lesions = ("true", "detected", "found", "correct")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        names = [*(f"voxels_{name}" for name in counts), *(f"lesions_{name}" for name in lesions)]
        writer.writerow(["model", "modality", "centre", "patient", *names, "true_ml", "found_ml", *MEASURES])
        for score in scores:
            writer.writerow(
                [score.role.value, score.modality, score.cohort.centre, score.patient]
                + [getattr(score.voxels, name) for name in counts]
                + [getattr(score.lesions, name) for name in lesions]
                + [round(score.true_ml, 3), round(score.found_ml, 3)]
                + [measure(score) for measure in MEASURES.values()]
            )


def rows(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    """The table for the terminal: model, modality, cohort, n, then mean ± deviation of every measure."""
    table = []
    for role in dict.fromkeys(score.role for score in scores):
        own = [score for score in scores if score.role is role]
        for modality, cohort in dict.fromkeys((score.modality, score.cohort) for score in own):
            group = [score for score in own if (score.modality, score.cohort) == (modality, cohort)]
            table.append((role.value, modality, str(cohort), str(len(group)), *_cells(group)))
    return table


def _cells(group: Sequence[Score]) -> list[str]:
    cells = []
    for measure in MEASURES.values():
        summary = summarise(measure(score) for score in group)
        spread = "" if summary.sd is None else f" ± {summary.sd:.2f}"
        cells.append("–" if summary.mean is None else f"{summary.mean:.2f}{spread}")
    return cells
