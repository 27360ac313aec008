"""Stage ``segment``: the right model for the pair, its mask as numbered lesions."""

from __future__ import annotations

from app.domain.analysis import Aligned, Decision, ModelRole, ModelUsed, Segmented
from app.imaging.components import LabelledLesions, label_lesions
from app.inference.channels import NetworkInput, build_input
from app.inference.model_card import ModelCard
from app.inference.model_store import ModelStore
from app.inference.policy import SegmentPolicy, choose_role
from app.inference.segmenter import Segmenter


class LesionSegmentation:
    """Holds the models; each is verified and loaded once, when first needed, and stays warm."""

    def __init__(self, store: ModelStore, policy: SegmentPolicy) -> None:
        self._store = store
        self._policy = policy
        self._segmenters: dict[ModelRole, Segmenter] = {}

    @classmethod
    def from_policy(cls, policy: SegmentPolicy) -> LesionSegmentation:
        """The models of the site's folder; nothing is loaded yet."""
        return cls(ModelStore(policy.models_folder), policy)

    def segment(self, aligned: Aligned) -> Segmented:
        """Choose the model, run it, number its lesions.

        Raises:
            MisconfiguredError: the model is missing or damaged, or the device is not there.
        """
        loaded = aligned.loaded
        role, why = choose_role(loaded.selection.kind, aligned.prior is not None, self._policy)
        segmenter = self._segmenter(role)
        lesions = self._lesions(segmenter, _network_input(aligned, role))
        model = _model_used(segmenter.card)
        decisions = (
            why,
            *_about_tracer(segmenter.card, loaded.selection.tracer.key),
            *_about_dropped(lesions),
        )
        return Segmented(aligned, lesions.labels, model, decisions)

    def _segmenter(self, role: ModelRole) -> Segmenter:
        if role not in self._segmenters:
            self._segmenters[role] = Segmenter(self._store.load(role), self._policy.device)
        return self._segmenters[role]

    def _lesions(self, segmenter: Segmenter, network_input: NetworkInput) -> LabelledLesions:
        mask = segmenter.segment(network_input)
        return label_lesions(mask, network_input.grid, self._policy.minimum_lesion_ml)


def _network_input(aligned: Aligned, role: ModelRole) -> NetworkInput:
    prior = aligned.prior.mask.mask if aligned.prior is not None and role is ModelRole.M4 else None
    return build_input(role, aligned.loaded.suv, aligned.loaded.ct, prior)


def _model_used(card: ModelCard) -> ModelUsed:
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
