"""Stand-ins for the heavy parts of the chain; they keep the shapes and the promises of the real ones."""

from __future__ import annotations

from app.domain.analysis import Aligned, Loaded, Segmented
from app.domain.decision import ModelRole, ModelUsed
from app.imaging.labels import label_lesions

HOT_SUV = 12.0


class ThresholdSegmentation:
    """Calls everything above SUV 12 a lesion."""

    def segment(self, aligned: Aligned) -> Segmented:
        suv = aligned.loaded.network_uptake
        lesions = label_lesions(suv.array > HOT_SUV, suv.grid, minimum_ml=0.1)
        model = ModelUsed("threshold", ModelRole.M1, "1", "0" * 64, demonstration_only=True)
        return Segmented(aligned, lesions.labels, model)


class BrokenSegmentation:
    """Fails as a network might."""

    def segment(self, aligned: Aligned) -> Segmented:
        raise ValueError("out of memory")


class NoPrior:
    """A patient without an earlier PET."""

    def align(self, loaded: Loaded) -> Aligned:
        return Aligned(loaded)
