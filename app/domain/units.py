"""What numbers mean. It stands apart from :mod:`app.domain.volume`: codes and settings do without numpy."""

from __future__ import annotations

from enum import StrEnum


class Unit(StrEnum):
    """What the numbers of a volume mean (UCUM where it has a word)."""

    SUVBW = "g/ml{SUVbw}"
    SUL = "g/ml{SUVlbm(Janma)}"
    SUVBSA = "cm2/ml{SUVbsa}"
    BQML = "Bq/ml"
    HU = "[hnsf'U]"
    COUNTS = "{counts}"
    TO_LIVER = "{ratio}"
    """Over the mean of the liver."""
    NONE = "1"
