"""One PET/CT and one SPECT/CT of a patient, where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.cohort.source import acquired_at
from app.cohort.truth import Truth
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind

Candidate = tuple[Selection, Truth]


@dataclass(frozen=True)
class Choice:
    """What is taken, why, and what is left with its reason."""

    taken: tuple[Candidate, ...]
    reasons: tuple[str, ...]
    left: tuple[tuple[Selection, str], ...]


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The earliest SPECT that follows a PET, and the latest PET before it; else the earliest of each.

    So the SPECT is the first one after its PET, as in practice: a PET before therapy, the scan of the first
    cycle after it.

    Args:
        candidates: scans with a truth, in any order.
    """
    pets, spects = (_of(candidates, kind) for kind in StudyKind)
    pet, spect = _pair(pets, spects)
    taken = tuple(each for each in (pet, spect) if each is not None)
    reasons = [_missing(kind) for kind, each in zip(StudyKind, (pet, spect), strict=True) if each is None]
    if len(pets) > 1:
        reasons.append(f"one of {len(pets)} PET/CTs: the last before the SPECT/CT, or the first of all")
    if len(spects) > 1:
        reasons.append(f"one of {len(spects)} SPECT/CTs: the first after the PET/CT, or the first of all")
    if pet is not None and spect is not None and not _before(pet, spect):
        reasons.append("the SPECT/CT is not known to be after the PET/CT: no guide as in practice")
    chosen = {scan.functional.series_instance_uid for scan, _ in taken}
    left = tuple(
        (scan, f"another {scan.kind} of the patient was taken")
        for scan, _ in candidates
        if scan.functional.series_instance_uid not in chosen
    )
    return Choice(taken, tuple(reasons), left)


def _pair(
    pets: Sequence[Candidate], spects: Sequence[Candidate]
) -> tuple[Candidate | None, Candidate | None]:
    for spect in spects:
        earlier = [pet for pet in pets if _before(pet, spect)]
        if earlier:
            return earlier[-1], spect
    return next(iter(pets), None), next(iter(spects), None)


def _of(candidates: Sequence[Candidate], kind: StudyKind) -> list[Candidate]:
    """Of one kind, earliest first."""
    of_kind = [each for each in candidates if each[0].kind is kind]
    return sorted(
        of_kind,
        key=lambda each: (acquired_at(each[0]) or datetime.max, each[0].functional.series_instance_uid),
    )


def _before(pet: Candidate, spect: Candidate) -> bool:
    first, second = acquired_at(pet[0]), acquired_at(spect[0])
    return first is not None and second is not None and first < second


def _missing(kind: StudyKind) -> str:
    usable = "M2 and M3 alone" if kind is StudyKind.PET_CT else "M1 and M3 alone"
    return f"no {kind} with a truth: for {usable}"
