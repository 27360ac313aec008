"""Models that run after the serving one, on the same input; their masks go no further than a comparison."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from app.domain.analysis import KINDS, Segmented
from app.domain.decision import ModelRole
from app.domain.outcome import MaskSummary, ShadowComparison
from app.domain.scores import count_voxels
from app.domain.volume import LabelMap
from app.errors import describe_exception
from app.inference.lesion_segmentation import model_used, segment_lesions
from app.inference.model_card import ModelCard
from app.inference.model_choice import shadow_model
from app.inference.model_store import ModelStore
from app.inference.policy import SegmentPolicy
from app.inference.segmenter import Segmenter

_log = logging.getLogger(__name__)

NO_PRIOR = "not run: M4 looks at PET lesions, and no prior fitted"


class ShadowModels:
    """The site's shadow models; each is loaded when first needed, and stays warm."""

    def __init__(self, store: ModelStore, policy: SegmentPolicy) -> None:
        self._store = store
        self._policy = policy
        self._segmenters: dict[str, Segmenter] = {}

    @classmethod
    def from_policy(cls, policy: SegmentPolicy) -> ShadowModels:
        """Those of the site's folder; nothing is loaded yet."""
        return cls(ModelStore(policy.models_folder), policy)

    def compare(self, segmented: Segmented) -> tuple[ShadowComparison, ...]:
        """Run every shadow model that can look at this pair; a fault of one is its result."""
        found = (self._compare_one(model_id, segmented) for model_id in self._policy.shadow_models)
        return tuple(comparison for comparison in found if comparison is not None)

    def _compare_one(self, model_id: str, segmented: Segmented) -> ShadowComparison | None:
        if model_id == segmented.model.model_id:
            return None  # it is the one that served
        selection = segmented.aligned.loaded.selection
        base = ShadowComparison(
            functional_series_instance_uid=selection.functional.series_instance_uid,
            kind=selection.kind,
            serving=segmented.model,
            serving_found=_summary(segmented.labels),
            shadow_id=model_id,
        )
        started = time.monotonic()
        try:
            card = shadow_model(self._store, model_id)
            if selection.kind not in KINDS[card.role]:
                return None
            compared = self._compared(card, segmented, base)
        except Exception as error:  # noqa: BLE001  a shadow's fault must not touch the study that was served
            problem = describe_exception(error)
            _log.error("a shadow model failed: %s: %s", model_id, problem)
            compared = replace(base, problem=problem)
        return replace(compared, seconds=round(time.monotonic() - started, 2))

    def _compared(self, card: ModelCard, segmented: Segmented, base: ShadowComparison) -> ShadowComparison:
        known = replace(base, shadow=model_used(card))
        if card.role is ModelRole.M4 and segmented.aligned.prior is None:
            return replace(known, problem=NO_PRIOR)
        segmenter = self._segmenter(card)
        lesions = segment_lesions(segmenter, segmented.aligned, self._policy.minimum_lesion_ml)
        counts = count_voxels(lesions.labels.array > 0, segmented.labels.array > 0)
        return replace(
            known,
            prior_used=card.role is ModelRole.M4,
            found=_summary(lesions.labels),
            dice=counts.dice,
        )

    def _segmenter(self, card: ModelCard) -> Segmenter:
        if card.id not in self._segmenters:
            self._segmenters[card.id] = Segmenter(self._store.verify(card), self._policy.device)
        return self._segmenters[card.id]


def _summary(labels: LabelMap) -> MaskSummary:
    volume_ml = float(np.count_nonzero(labels.array) * labels.grid.voxel_ml)
    return MaskSummary(int(labels.array.max(initial=0)), volume_ml)
