"""Section ``load`` of app.yaml: how stored values become numbers with a unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from app.domain.quantities.administration import SiteAdministration
from app.domain.quantities.body_size import OtherSuvKind
from app.domain.quantities.calibration import CameraCalibration
from app.domain.ranges import Range, Ranged
from app.domain.stack.ct_agreement import CtAgreementPolicy


class SpectInCounts(StrEnum):
    """What becomes of a SPECT in counts that no calibration fits."""

    REFUSE = "refuse"
    RELATIVE_TO_LIVER = "relative to liver"


@dataclass(frozen=True)
class LoadPolicy(Ranged):
    """How stored values become numbers with a unit."""

    calibrations: tuple[CameraCalibration, ...] = ()
    """Bq/cps of each camera and collimator with its dates, for SPECT without a mapping."""
    administrations: tuple[SiteAdministration, ...] = ()
    """Injection date, activity, weight, radionuclide or tracer of studies whose headers lack them."""
    other_suv: tuple[OtherSuvKind, ...] = ()
    """Further SUVs in the SR besides each lesion's SUVbw: ``SUL`` (lean mass by Janmahasatian) and
    ``SUVbsa``. The networks and the page always use SUVbw."""
    series_time_rules: bool = False
    """Where Series Time of a PET lies before the start that its frames' times imply, take Series Time. Off: a
    difference that changes SUV by more than 5 % is refused, unless the scanner's private time decides it."""
    spect_in_counts: SpectInCounts = SpectInCounts.REFUSE
    """A SPECT in counts that no calibration fits: ``refuse`` it, or segment it with its uptake ``relative to
    liver``. Its results are marked "not quantified"; they give volumes and ratios, never an SUV, an activity
    or a dose."""
    training_liver_suv: Annotated[float, Range(0.1, 30)] = 1.0
    """SUVbw that the networks are shown the liver of such a SPECT with: its mean in the SPECTs that they were
    trained on (``psma-node process`` reports it for each). 0.9 to 1.1 in the simulated SPECTs of the
    shipped models. No reported number uses it."""
    join_parts: bool = True
    """Join bed positions of a SPECT that come as series of their own, where they overlap or abut on one
    lattice; off: each is reported apart."""
    ct_agreement: CtAgreementPolicy = field(default_factory=CtAgreementPolicy)
    """How far a PET or SPECT may be shifted against its CT, and when it counts as mirrored."""
