"""What a validation measures: one table of definitions, from which every table, figure and card is made.

A number that is not defined (a share of nothing) is ``None``; it is left out and counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.scan_score import ScanScore

STUDY_DOI = "10.1186/s13550-026-01468-y"
AUTOPET = "autoPET challenge (components with 18 neighbours)"


class Better(StrEnum):
    """Which way a measure is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Measure:
    """One number a scan.

    Attributes:
        key: short and stable: a column of ``scores.csv``.
        name: as tables and cards show it.
        unit: ``""`` for a share from 0 to 1.
        formula: in words and symbols, for a reader.
        undefined: when it has no value.
        source: where the definition comes from.
        decimals: that are shown.
    """

    key: str
    name: str
    unit: str
    formula: str
    undefined: str
    source: str
    better: Better
    decimals: int
    of: Callable[[ScanScore], float | None]

    @property
    def title(self) -> str:
        """Name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, value: float | None, signed: bool = False) -> str:
        """The value as tables have it; a dash where there is none."""
        if value is None:
            return "–"
        rounded = round(value, self.decimals) + 0.0  # no "-0.00"
        return f"{rounded:{'+' if signed else ''}.{self.decimals}f}"


def _error(found: float, true: float) -> float:
    return abs(found - true)


def _relative(found: float, true: float) -> float | None:
    return 100.0 * abs(found - true) / true if true > 0 else None


DICE = Measure(
    "dsc", "DSC", "", "2 TP / (2 TP + FP + FN), in voxels", "truth and result both empty",
    f"doi {STUDY_DOI}", Better.HIGHER, 2, lambda score: score.voxels.dice,
)  # fmt: skip
VOXEL_PPV = Measure(
    "voxel_ppv", "voxel PPV", "", "TP / (TP + FP), in voxels", "empty result",
    f"doi {STUDY_DOI} (which does not say whether by voxel or by lesion)", Better.HIGHER, 2,
    lambda score: score.voxels.ppv,
)  # fmt: skip
VOXEL_SENSITIVITY = Measure(
    "voxel_sensitivity", "voxel sensitivity", "", "TP / (TP + FN), in voxels", "empty truth",
    "usual definition", Better.HIGHER, 2, lambda score: score.voxels.sensitivity,
)  # fmt: skip
LESION_PPV = Measure(
    "lesion_ppv", "lesion PPV", "",
    "components of the result that share a voxel with the truth / all components of the result", "empty result", AUTOPET, Better.HIGHER, 2, lambda score: score.lesions.ppv,
)  # fmt: skip
LESION_SENSITIVITY = Measure(
    "lesion_sensitivity", "lesion sensitivity", "",
    "lesions of the truth that share a voxel with the result / all lesions of the truth", "empty truth", AUTOPET, Better.HIGHER, 2,
    lambda score: score.lesions.sensitivity,
)  # fmt: skip
FALSE_POSITIVE_ML = Measure(
    "fpv_ml", "FPV", "ml", "volume of the result's components that share no voxel with the truth", "never",
    AUTOPET, Better.LOWER, 1, lambda score: score.false_positive_ml,
)  # fmt: skip
FALSE_NEGATIVE_ML = Measure(
    "fnv_ml", "FNV", "ml", "volume of the truth's components that share no voxel with the result", "never",
    AUTOPET, Better.LOWER, 1, lambda score: score.false_negative_ml,
)  # fmt: skip
FALSE_POSITIVE_LESIONS = Measure(
    "false_positive_lesions", "false positive lesions", "a patient", "components of the result that share no "
    "voxel with the truth", "never", AUTOPET, Better.LOWER, 1,
    lambda score: float(score.lesions.false_positives),
)  # fmt: skip
VOLUME_ERROR = Measure(
    "psma_tv_error_ml", "PSMA-TV error", "ml", "|V found − V true|, V the volume of all lesions", "never",
    "PSMA-TV: volume of all lesions", Better.LOWER, 1, lambda score: _error(score.found_ml, score.true_ml),
)  # fmt: skip
VOLUME_RELATIVE_ERROR = Measure(
    "psma_tv_error_percent", "PSMA-TV relative error", "%", "100 |V found − V true| / V true", "empty truth",
    "PSMA-TV: volume of all lesions", Better.LOWER, 0,
    lambda score: _relative(score.found_ml, score.true_ml),
)  # fmt: skip
UPTAKE_ERROR = Measure(
    "tl_psma_error", "TL-PSMA error", "g/ml·ml",
    "|T found − T true|, T the sum of SUV × voxel volume over all lesions", "never", "TL-PSMA: volume × SUVmean", Better.LOWER, 1,
    lambda score: _error(score.found_tl, score.true_tl),
)  # fmt: skip
UPTAKE_RELATIVE_ERROR = Measure(
    "tl_psma_error_percent", "TL-PSMA relative error", "%", "100 |T found − T true| / T true",
    "T true is 0, as with an empty truth", "TL-PSMA: volume × SUVmean", Better.LOWER, 0,
    lambda score: _relative(score.found_tl, score.true_tl),
)  # fmt: skip

MEASURES = (
    DICE, VOXEL_PPV, VOXEL_SENSITIVITY, LESION_PPV, LESION_SENSITIVITY, FALSE_POSITIVE_LESIONS,
    FALSE_POSITIVE_ML, FALSE_NEGATIVE_ML, VOLUME_ERROR, VOLUME_RELATIVE_ERROR, UPTAKE_ERROR,
    UPTAKE_RELATIVE_ERROR,
)  # fmt: skip
"""All of them, in the order in which they are shown."""
