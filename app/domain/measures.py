"""What a validation measures: one table of definitions, from which every table, figure and card is made.

A number that is not defined (a share of nothing) is ``None``; it is left out and counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.scores import ScanScore

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
    formula: str
    source: str
    better: Better
    decimals: int
    of: Callable[[ScanScore], float | None]
    unit: str = ""
    undefined: str = "never"

    @property
    def title(self) -> str:
        """Name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, value: float | None, signed: bool = False) -> str:
        """The value as tables have it; a dash where there is none."""
        if value is None:
            return "–"
        rounded = round(value, self.decimals) + 0.0  # no "-0.00"
        return f"{rounded:{'+' if signed else ''}.{self.decimals}f}".replace("-", "−")


def _relative(found: float, true: float) -> float | None:
    return 100.0 * abs(found - true) / true if true > 0 else None


DICE = Measure(
    key="dsc", name="DSC", formula="2 TP / (2 TP + FP + FN), in voxels",
    undefined="truth and result both empty", source=f"doi {STUDY_DOI}", better=Better.HIGHER, decimals=2,
    of=lambda score: score.voxels.dice,
)  # fmt: skip
VOXEL_PPV = Measure(
    key="voxel_ppv", name="voxel PPV", formula="TP / (TP + FP), in voxels", undefined="empty result",
    source=f"doi {STUDY_DOI} (which does not say whether by voxel or by lesion)", better=Better.HIGHER,
    decimals=2, of=lambda score: score.voxels.ppv,
)  # fmt: skip
VOXEL_SENSITIVITY = Measure(
    key="voxel_sensitivity", name="voxel sensitivity", formula="TP / (TP + FN), in voxels",
    undefined="empty truth", source="usual definition", better=Better.HIGHER, decimals=2,
    of=lambda score: score.voxels.sensitivity,
)  # fmt: skip
LESION_PPV = Measure(
    key="lesion_ppv", name="lesion PPV",
    formula="components of the result that share a voxel with the truth / all components of the result",
    undefined="empty result", source=AUTOPET, better=Better.HIGHER, decimals=2,
    of=lambda score: score.lesions.ppv,
)  # fmt: skip
LESION_SENSITIVITY = Measure(
    key="lesion_sensitivity", name="lesion sensitivity",
    formula="lesions of the truth that share a voxel with the result / all lesions of the truth",
    undefined="empty truth", source=AUTOPET, better=Better.HIGHER, decimals=2,
    of=lambda score: score.lesions.sensitivity,
)  # fmt: skip
FALSE_POSITIVE_ML = Measure(
    key="fpv_ml", name="FPV", unit="ml",
    formula="volume of the result's components that share no voxel with the truth", source=AUTOPET,
    better=Better.LOWER, decimals=1, of=lambda score: score.false_positive_ml,
)  # fmt: skip
FALSE_NEGATIVE_ML = Measure(
    key="fnv_ml", name="FNV", unit="ml",
    formula="volume of the truth's components that share no voxel with the result", source=AUTOPET,
    better=Better.LOWER, decimals=1, of=lambda score: score.false_negative_ml,
)  # fmt: skip
FALSE_POSITIVE_LESIONS = Measure(
    key="false_positive_lesions", name="false positive lesions", unit="a patient",
    formula="components of the result that share no voxel with the truth", source=AUTOPET,
    better=Better.LOWER, decimals=1, of=lambda score: float(score.lesions.false_positives),
)  # fmt: skip
VOLUME_ERROR = Measure(
    key="psma_tv_error_ml", name="PSMA-TV error", unit="ml",
    formula="|V found − V true|, V the volume of all lesions", source="PSMA-TV: volume of all lesions",
    better=Better.LOWER, decimals=1, of=lambda score: abs(score.found_ml - score.true_ml),
)  # fmt: skip
VOLUME_RELATIVE_ERROR = Measure(
    key="psma_tv_error_percent", name="PSMA-TV relative error", unit="%",
    formula="100 |V found − V true| / V true", undefined="empty truth",
    source="PSMA-TV: volume of all lesions", better=Better.LOWER, decimals=0,
    of=lambda score: _relative(score.found_ml, score.true_ml),
)  # fmt: skip
UPTAKE_ERROR = Measure(
    key="tl_psma_error", name="TL-PSMA error", unit="g/ml·ml",
    formula="|T found − T true|, T the sum of SUV × voxel volume over all lesions",
    source="TL-PSMA: volume × SUVmean", better=Better.LOWER, decimals=1,
    of=lambda score: abs(score.found_tl - score.true_tl),
)  # fmt: skip
UPTAKE_RELATIVE_ERROR = Measure(
    key="tl_psma_error_percent", name="TL-PSMA relative error", unit="%",
    formula="100 |T found − T true| / T true", undefined="T true is 0, as with an empty truth",
    source="TL-PSMA: volume × SUVmean", better=Better.LOWER, decimals=0,
    of=lambda score: _relative(score.found_tl, score.true_tl),
)  # fmt: skip

MEASURES = (
    DICE, VOXEL_PPV, VOXEL_SENSITIVITY, LESION_PPV, LESION_SENSITIVITY, FALSE_POSITIVE_LESIONS,
    FALSE_POSITIVE_ML, FALSE_NEGATIVE_ML, VOLUME_ERROR, VOLUME_RELATIVE_ERROR, UPTAKE_ERROR,
    UPTAKE_RELATIVE_ERROR,
)  # fmt: skip
"""All of them, in the order in which they are shown."""
