"""load: a pair's series become volumes in physical units, or a reason why not."""

from __future__ import annotations

from app.dicom.reading.loading import LoadPolicy, load
from app.domain.analysis import Loaded
from app.domain.outcome import OnStage
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.imaging.registration.ct_agreement import check_ct
from operators.framework import Fragment
from operators.stage import StageOperator


class LoadOperator(StageOperator):
    """``pairs`` in, ``loaded`` out."""

    stage, inlet, outlet = "load", "pairs", "loaded"

    def __init__(self, fragment: Fragment, *, policy: LoadPolicy, on_stage: OnStage) -> None:
        self._policy = policy
        super().__init__(fragment, on_stage=on_stage)

    def step(self, item: Selection) -> Loaded | Rejection:
        """PET in SUV, SPECT in Bq/ml and SUV, CT in HU, and whether the two lie on each other."""
        found = load(item, self._policy)
        return found if isinstance(found, Rejection) else check_ct(found, self._policy.ct_agreement)
