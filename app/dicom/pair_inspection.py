"""What the stage ``load`` would say of a pair: taken, taken with a warning, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.dicom.loading import LoadPolicy, load
from app.dicom.result_context import WARNING
from app.domain.decision import Decision
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind
from app.imaging.ct_agreement import check_ct


class PairVerdict(StrEnum):
    """What becomes of a pair."""

    TAKEN = "to analyse"
    WARNED = "to analyse, with warnings"
    REFUSED = "refused"


@dataclass(frozen=True)
class PairInspection:
    """A functional series with its CT.

    Attributes:
        kind: PET/CT or SPECT/CT.
        functional_series_instance_uid, ct_series_instance_uid: the two.
        verdict: what the chain would make of it.
        rejection: why it is refused.
        decisions: of selection and loading, how the image lies on its CT among them; empty when refused.
    """

    kind: StudyKind
    functional_series_instance_uid: str
    ct_series_instance_uid: str
    verdict: PairVerdict
    rejection: Rejection | None = None
    decisions: tuple[Decision, ...] = ()


def inspect_pair(selection: Selection, policy: LoadPolicy) -> PairInspection:
    """Load a pair as the chain would; its volumes are let go again."""
    uids = (selection.functional.series_instance_uid, selection.ct.series_instance_uid)
    found = load(selection, policy)
    if not isinstance(found, Rejection):
        found = check_ct(found, policy.ct_agreement)
    if isinstance(found, Rejection):
        return PairInspection(selection.kind, *uids, PairVerdict.REFUSED, found)
    decisions = (*selection.decisions, *found.decisions)
    warned = any(decision.text.startswith(WARNING) for decision in decisions)
    verdict = PairVerdict.WARNED if warned else PairVerdict.TAKEN
    return PairInspection(selection.kind, *uids, verdict, None, decisions)
