"""Stage ``segment``: the right model for the pair, its mask as numbered lesions."""

from __future__ import annotations

from app.domain.analysis import Aligned, Segmented
from app.domain.decision import Decision, ModelRole, ModelUsed
from app.imaging.labels import LabelledLesions, label_lesions
from app.inference.channels import NetworkInput, build_input
from app.inference.model_card import ModelCard
from app.inference.model_choice import choose_setting, explain_choice, serving_model
from app.inference.model_store import ModelStore
from app.inference.policy import SegmentPolicy
from app.inference.segmenter import Segmenter


class LesionSegmentation:
    """Holds the models; each is verified and loaded once, when first needed, and stays warm."""

    def __init__(self, store: ModelStore, policy: SegmentPolicy) -> None:
        self._store = store
        self._policy = policy
        self._segmenters: dict[str, Segmenter] = {}

    @classmethod
    def from_policy(cls, policy: SegmentPolicy) -> LesionSegmentation:
        """The models of the site's folder; nothing is loaded yet."""
        return cls(ModelStore(policy.models_folder), policy)

    def segment(self, aligned: Aligned) -> Segmented:
        """Choose the model, run it, number its lesions.

        Raises:
            MisconfiguredError: the model is missing or damaged, or the device is not there or too small.
            RetryLaterError: the GPU has no room at the moment.
        """
        loaded = aligned.loaded
        setting = choose_setting(loaded.selection.kind, aligned.prior is not None)
        segmenter = self._segmenter(setting)
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

    def _segmenter(self, setting: str) -> Segmenter:
        if setting not in self._segmenters:
            card = serving_model(self._store, self._policy, setting)
            loaded = {segmenter.card.id: segmenter for segmenter in self._segmenters.values()}
            self._segmenters[setting] = loaded.get(card.id) or self._loaded(card)
        return self._segmenters[setting]

    def _loaded(self, card: ModelCard) -> Segmenter:
        return Segmenter(self._store.verify(card), self._policy.device)


def segment_lesions(segmenter: Segmenter, aligned: Aligned, minimum_lesion_ml: float) -> LabelledLesions:
    """The lesions that a model finds on the input its role asks for; M4 sees the prior."""
    network_input = _network_input(aligned, segmenter.card.role)
    return label_lesions(segmenter.segment(network_input), network_input.grid, minimum_lesion_ml)


def _network_input(aligned: Aligned, role: ModelRole) -> NetworkInput:
    prior = aligned.prior.mask.mask if aligned.prior is not None and role is ModelRole.M4 else None
    return build_input(role, aligned.loaded.suv, aligned.loaded.ct, prior)


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
