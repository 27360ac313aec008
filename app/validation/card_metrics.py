"""A model's scores as the metrics of its card."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.measures import MEASURES, Measure
from app.domain.scores import ScanScore, Validation
from app.inference.models.card import Metric
from app.validation.score_groups import Group, described, groups_of

IN_WORDS = {
    Validation.INTERNAL: "internal validation",
    Validation.EXTERNAL: "external validation",
    Validation.NODE: "the node's own chain",
}


def metrics_of(scores: Sequence[ScanScore], simulated: bool, doubt: str = "") -> tuple[Metric, ...]:
    """Mean and standard deviation over patients of every measure, modality and validation.

    Args:
        scores: of one model. Of M4, all patients (M2 where no prior fitted) and those with a prior apart.
        simulated: whether the patients were; the card says so.
        doubt: what speaks against these patients as a test of the model; the card says it with every number.
    """
    patients = "simulated patients" if simulated else "patients"
    return tuple(
        _metric(scores, group, measure, (patients, doubt))
        for group in groups_of(scores)
        for measure in MEASURES
    )


def _metric(scores: Sequence[ScanScore], group: Group, measure: Measure, whom: tuple[str, str]) -> Metric:
    patients, doubt = whom
    found, own = described(scores, group, measure), group.of(scores)
    centres = ", ".join(sorted({score.key.centre for score in own}))
    cohort = f"{IN_WORDS[group.validation]}, {patients} of centre {centres}"
    undefined = f"not defined for {found.undefined} of them ({measure.undefined})" if found.undefined else ""
    return Metric(
        name=measure.title,
        modality=f"{group.kind.value}, prior fitted" if group.fitted_only else group.kind.value,
        cohort=f"{cohort}; {doubt}" if doubt else cohort,
        patients=found.patients,
        n=found.n,
        mean=None if found.mean is None else round(found.mean, 4),
        sd=None if found.sd is None else round(found.sd, 4),
        note="; ".join(filter(None, (_others(own, group), undefined))),
    )


def _others(own: Sequence[ScanScore], group: Group) -> str:
    """Of M4: in how many patients it did not run itself."""
    others = [score.key.used.value for score in own if score.key.used is not group.model]
    return f"{', '.join(sorted(set(others)))} ran in {len(others)} of them" if others else ""
