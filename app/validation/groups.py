"""Scores in groups by model, modality and validation, and two models on the same patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.decision import ModelRole
from app.domain.measures import Measure
from app.domain.scores import ScanScore, Validation
from app.domain.study import StudyKind
from app.validation.statistics import Description, PairedComparison, compare_pairs, describe

VALIDATIONS = tuple(Validation)

VALIDATION_NAMES = {
    Validation.INTERNAL: "Internal validation",
    Validation.EXTERNAL: "External validation",
    Validation.NODE: "The node's own chain",
}


@dataclass(frozen=True)
class Group:
    """Which scores belong together.

    Attributes:
        fitted_only: only the patients in whom M4's prior fitted, so that M4 itself ran.
    """

    model: ModelRole
    kind: StudyKind
    validation: Validation
    fitted_only: bool = False

    @property
    def label(self) -> str:
        """The model, and what is special about its patients."""
        return f"{self.model.value} where its prior fitted" if self.fitted_only else self.model.value

    def of(self, scores: Sequence[ScanScore]) -> tuple[ScanScore, ...]:
        """The group's scores, in order of centre and patient."""
        own = (
            score
            for score in scores
            if (score.key.model, score.key.kind, score.key.validation)
            == (self.model, self.kind, self.validation)
            and not (self.fitted_only and score.key.used is not self.model)
        )
        return tuple(sorted(own, key=lambda score: (score.key.centre, score.key.patient)))


@dataclass(frozen=True)
class Rivals:
    """Two models that are compared on the same patients: the first minus the second."""

    first: ModelRole
    second: ModelRole
    kind: StudyKind
    fitted_only: bool = False

    def groups(self, validation: Validation) -> tuple[Group, Group]:
        """Both groups; only the first is restricted, pairing restricts the other."""
        return (
            Group(self.first, self.kind, validation, self.fitted_only),
            Group(self.second, self.kind, validation),
        )


M4_OR_M2 = Rivals(ModelRole.M4, ModelRole.M2, StudyKind.SPECT_CT)
M4_FITTED_OR_M2 = Rivals(ModelRole.M4, ModelRole.M2, StudyKind.SPECT_CT, fitted_only=True)
RIVALS = (
    M4_OR_M2,
    M4_FITTED_OR_M2,
    Rivals(ModelRole.M3, ModelRole.M1, StudyKind.PET_CT),
    Rivals(ModelRole.M3, ModelRole.M2, StudyKind.SPECT_CT),
)
"""The study's comparisons, the main one first."""


def check_unique(scores: Sequence[ScanScore]) -> None:
    """Refuse a scan that was scored twice: it would count double.

    Raises:
        ValueError: a model has two scores of one scan in one validation.
    """
    keys = ((s.key.model, s.key.kind, s.key.validation, s.key.centre, s.key.patient) for s in scores)
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        model, kind, validation, *_ = twice[0]
        what = f"{model.value}, {kind.value}, {validation.value}"
        raise ValueError(f"{len(twice)} scan(s) have more than one score, the first of {what}; expected one")


def groups_of(scores: Sequence[ScanScore]) -> tuple[Group, ...]:
    """Every group that has scores; M4's fitted patients are a group when its prior did not fit in all."""
    found = []
    for validation in VALIDATIONS:
        for kind in StudyKind:
            for model in ModelRole:
                everyone = Group(model, kind, validation)
                fitted = Group(model, kind, validation, fitted_only=True)
                total, ran = len(everyone.of(scores)), len(fitted.of(scores))
                found += [everyone] if total else []
                found += [fitted] if 0 < ran < total else []
    return tuple(found)


def described(scores: Sequence[ScanScore], group: Group, measure: Measure) -> Description:
    """The measure over a group."""
    return describe([measure.of(score) for score in group.of(scores)])


def compared(
    scores: Sequence[ScanScore], rivals: Rivals, validation: Validation, measure: Measure
) -> PairedComparison | None:
    """Both models on the patients that both have; ``None`` when there are none."""
    first, second = (
        {(score.key.centre, score.key.patient): measure.of(score) for score in group.of(scores)}
        for group in rivals.groups(validation)
    )
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    return compare_pairs([first[who] for who in shared], [second[who] for who in shared])


def rivals_of(scores: Sequence[ScanScore], validation: Validation) -> tuple[Rivals, ...]:
    """The comparisons with patients in common; M4's fitted patients only when they are not all."""
    present = set(groups_of(scores))
    return tuple(rivals for rivals in RIVALS if all(group in present for group in rivals.groups(validation)))
