"""Stage ``segment``: the right model for the pair, its mask as numbered lesions; then the shadow models.

Shadow models run after the serving one, on the same input; their masks go no further than a comparison.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from app.domain.analysis import KINDS, Aligned, Segmented
from app.domain.decision import Decision, ModelRole, ModelUsed
from app.domain.outcome import MaskSummary, ShadowComparison
from app.domain.scores import count_voxels
from app.domain.volume import LabelMap
from app.errors import describe_exception
from app.imaging.labels import LabelledLesions, label_lesions
from app.inference.models.card import ModelCard
from app.inference.models.channels import NetworkInput, build_input
from app.inference.models.store import ModelStore, choose_setting, explain_choice, serving_model, shadow_model
from app.inference.policy import SegmentPolicy
from app.inference.running.segmenter import Segmenter

_log = logging.getLogger(__name__)

NO_PRIOR = "not run: M4 looks at PET lesions, and no prior fitted"


class WarmModels:
    """The models of the site's folder; each is verified and loaded when first needed, and stays warm."""

    def __init__(self, policy: SegmentPolicy) -> None:
        self._store = ModelStore(policy.models_folder)
        self._policy = policy
        self._segmenters: dict[str, Segmenter] = {}

    def _segmenter(self, card: ModelCard) -> Segmenter:
        if card.id not in self._segmenters:
            policy = self._policy
            self._segmenters[card.id] = Segmenter(self._store.verify(card), policy.device, policy.precision)
        return self._segmenters[card.id]


class LesionSegmentation(WarmModels):
    """Runs the model that serves a pair."""

    def __init__(self, policy: SegmentPolicy) -> None:
        super().__init__(policy)
        self._serving: dict[str, ModelCard] = {}

    def segment(self, aligned: Aligned) -> Segmented:
        """Choose the model, run it, number its lesions.

        Raises:
            MisconfiguredError: the model is missing or damaged, or the device is not there or too small.
            RetryLaterError: the GPU has no room at the moment.
        """
        loaded = aligned.loaded
        setting = choose_setting(loaded.selection.kind, aligned.prior is not None)
        if setting not in self._serving:
            self._serving[setting] = serving_model(self._store, self._policy, setting)
        segmenter = self._segmenter(self._serving[setting])
        network_input = _network_input(aligned, segmenter.card.role)
        run = segmenter.run(network_input)
        lesions = label_lesions(run.mask, network_input.grid, self._policy.minimum_lesion_ml)
        model = model_used(segmenter.card)
        why = explain_choice(segmenter.card, setting, self._policy)
        decisions = (
            why,
            *_about_tracer(segmenter.card, loaded.selection.tracer.key),
            *_about_dropped(lesions),
            *run.decisions,
        )
        return Segmented(aligned, lesions.labels, model, decisions, run.computed_by)


def segment_lesions(segmenter: Segmenter, aligned: Aligned, minimum_lesion_ml: float) -> LabelledLesions:
    """The lesions that a model finds on the input its role asks for; M4 sees the prior."""
    network_input = _network_input(aligned, segmenter.card.role)
    return label_lesions(segmenter.segment(network_input), network_input.grid, minimum_lesion_ml)


def _network_input(aligned: Aligned, role: ModelRole) -> NetworkInput:
    prior = aligned.prior.mask.mask if aligned.prior is not None and role is ModelRole.M4 else None
    return build_input(role, aligned.loaded.network_uptake, aligned.loaded.ct, prior)


def model_used(card: ModelCard) -> ModelUsed:
    """What results say about the model."""
    return ModelUsed(card.id, card.role, card.version, card.weights_sha256, card.demonstration_only)


def _about_tracer(card: ModelCard, tracer: str) -> tuple[Decision, ...]:
    if tracer in card.tracers:
        return ()
    known = ", ".join(card.tracers)
    return (Decision("segment", f"{card.id} was trained on {known}; this image shows {tracer}"),)


def _about_dropped(lesions: LabelledLesions) -> tuple[Decision, ...]:
    if not lesions.dropped_count:
        return ()
    text = f"{lesions.dropped_count} component(s), {lesions.dropped_ml:.2f} ml together, too small to count"
    return (Decision("segment", text),)


class ShadowModels(WarmModels):
    """Runs the site's shadow models."""

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
        is_m4 = card.role is ModelRole.M4
        return replace(known, prior_used=is_m4, found=_summary(lesions.labels), dice=counts.dice)


def _summary(labels: LabelMap) -> MaskSummary:
    volume_ml = float(np.count_nonzero(labels.array) * labels.grid.voxel_ml)
    return MaskSummary(int(labels.array.max(initial=0)), volume_ml)
