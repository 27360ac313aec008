"""How the stored values of an image became numbers with a unit: what the report says of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.domain.volume import Unit


@dataclass(frozen=True)
class OtherSuv:
    """Another SUV than SUVbw that the site asks for: SUVbw times ``per_suvbw`` is in ``unit``."""

    unit: Unit
    per_suvbw: float


@dataclass(frozen=True)
class Quantification:
    """How stored values became numbers with a unit.

    Attributes:
        suv_per_bqml: factor from Bq/ml to SUVbw; ``None`` when the image already is SUV or SUV is unknown.
        reference_datetime: the instant to which the activity is decay corrected, when known.
        uptake_s: from the injection to the start of the scan, when both are known.
        injected_activity_bq, weight_kg, half_life_s: what was used; ``None`` when not needed or unknown.
        other_suv: what SUVbw is multiplied by for the other SUVs that the site asks for (``load.other_suv``).
        source: how the unit was found (``Units=BQML, DecayCorrection=START``, ``RWVM``, ...).
    """

    source: str
    suv_per_bqml: float | None = None
    injected_activity_bq: float | None = None
    administered_at: datetime | None = None
    reference_datetime: datetime | None = None
    weight_kg: float | None = None
    half_life_s: float | None = None
    other_suv: tuple[OtherSuv, ...] = ()
    uptake_s: float | None = None
