"""How large an experiment on simulated patients is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.training.experiment_settings import PriorMask
from app.training.planning import TrainingPlans


class Size(StrEnum):
    """Names of the sizes."""

    TINY = "tiny"
    FULL = "full"


@dataclass(frozen=True)
class Extent:
    """Patients of the two simulated centres, and the length of each training.

    Attributes:
        internal, external: patients of centre A and B.
        folds: of the cross-validation on A.
        epochs, iterations_per_epoch: an epoch here is short, so that a checkpoint comes every minute or so.
        prior: of M4. An M1 that was hardly trained finds nothing that could be a prior.
    """

    internal: int
    external: int
    folds: int
    epochs: int
    iterations_per_epoch: int
    prior: PriorMask

    def as_settings(self) -> dict[str, object]:
        """What an experiment of this size sets, for two cores."""
        return {
            "name": "simulated",
            "plans": TrainingPlans.SMALL.value,
            "folds": self.folds,
            "epochs": self.epochs,
            "iterations_per_epoch": self.iterations_per_epoch,
            "prior": self.prior,
            "parallel": 2,
        }


EXTENTS = {
    Size.TINY: Extent(4, 2, folds=2, epochs=2, iterations_per_epoch=25, prior=PriorMask.TRUTH),
    Size.FULL: Extent(48, 25, folds=2, epochs=20, iterations_per_epoch=50, prior=PriorMask.M1),
}
"""``tiny`` shows in a quarter of an hour that everything works, and means nothing. ``full`` has as many
patients as the study."""
