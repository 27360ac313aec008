"""Which radiopharmaceutical: the PSMA tracers this node knows, others it must not take for them, their codes.

Codes: PS3.16 CID 25 and 4021, NCIt, and their SNOMED RT forms. Isotope facts stand in
:mod:`app.domain.radionuclides`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.study import Code

TRACER_KEY = re.compile(r"(\d+m?[A-Z][a-z]?)-\S+")
"""``<radionuclide>-<drug>``, as ``64Cu-PSMA-617``: how a site names a tracer that isn't in the tables."""


@dataclass(frozen=True)
class Tracer:
    """A radiopharmaceutical. ``key`` is what app.yaml and model cards call it.

    Attributes:
        code: the current code, for writing.
        aliases: other codes under which it is found.
    """

    key: str
    name: str
    radionuclide: str
    code: Code | None = None
    aliases: tuple[Code, ...] = ()

    @property
    def usual_uptake_min(self) -> float | None:
        """From injection to scan; ``None`` where none is known to be usual."""
        return USUAL_UPTAKE_MIN.get(self.key)

    def coded_as(self, code: Code) -> bool:
        """Whether ``code`` means this tracer."""
        return any(code.same_as(own) for own in (self.code, *self.aliases) if own is not None)


PSMA_11_GA68 = Tracer("68Ga-PSMA-11", "68Ga-PSMA-11", "68Ga", Code("C118961", "NCIt", "PSMA-11 Ga-68"))
PSMA_617_GA68 = Tracer("68Ga-PSMA-617", "68Ga-PSMA-617", "68Ga", Code("126759", "DCM", "PSMA-617 Ga-68"))
PSMA_1007_F18 = Tracer("18F-PSMA-1007", "18F-PSMA-1007", "18F", Code("126758", "DCM", "PSMA-1007 F-18"))
DCFPYL_F18 = Tracer("18F-DCFPyL", "piflufolastat F-18", "18F", Code("C116352", "NCIt", "Piflufolastat F-18"))
PSMA_617_LU177 = Tracer(
    "177Lu-PSMA-617", "lutetium Lu-177 vipivotide tetraxetan", "177Lu",
    Code("1263794005", "SCT", "Lutetium (177-Lu) vipivotide tetraxetan"),
)  # fmt: skip
PSMA_IT_LU177 = Tracer("177Lu-PSMA-I&T", "lutetium Lu-177 zadavotide guraxetan", "177Lu")
"""No code of CID 25 or 4021 and none of SNOMED CT is known for it: the header's text names it."""

KNOWN_TRACERS = (PSMA_11_GA68, PSMA_617_GA68, PSMA_1007_F18, DCFPYL_F18, PSMA_617_LU177, PSMA_IT_LU177)
"""PSMA ligands: allowed unless the site says otherwise."""

USUAL_UPTAKE_MIN = {
    PSMA_11_GA68.key: 60.0,
    PSMA_617_GA68.key: 60.0,
    PSMA_1007_F18.key: 90.0,
    DCFPYL_F18.key: 90.0,
    PSMA_617_LU177.key: 1440.0,
    PSMA_IT_LU177.key: 1440.0,
}
"""Which of several time points is taken. 68Ga-PSMA: 60 (50 to 100) min, 18F ligands: the middle of 60 to 120
min (EANM/SNMMI guideline 2.0, doi 10.1007/s00259-022-06089-w); 177Lu-PSMA: 24 h (LuPIN, PubMed 36008120)."""

OTHER_TRACERS = (
    Tracer(
        "18F-FDG", "fludeoxyglucose F-18", "18F", Code("35321007", "SCT", "Fluorodeoxyglucose F-18"),
        (Code("C-B1031", "SRT"), Code("Y-X1743", "SRT")),
    ),
    Tracer(
        "18F-NaF", "sodium fluoride F-18", "18F", Code("129501009", "SCT", "Sodium fluoride F-18"),
        (Code("C-B1032", "SRT"),),
    ),
    Tracer(
        "18F-fluorocholine", "fluorocholine F-18", "18F", Code("456992002", "SCT", "Fluorocholine F-18"),
        (Code("C-E0273", "SRT"),),
    ),
    Tracer(
        "18F-fluciclovine", "fluciclovine F-18", "18F", Code("457000009", "SCT", "Fluciclovine F-18"),
        (Code("C-E026A", "SRT"),),
    ),
    Tracer("18F-FES", "fluoroestradiol F-18", "18F", Code("926372005", "SCT", "Fluoroestradiol F-18")),
    Tracer(
        "18F-FET", "fluoroethyltyrosine F-18", "18F", Code("424708001", "SCT", "Fluorethyltyrosin F-18"),
        (Code("C-B07E0", "SRT"),),
    ),
    Tracer(
        "18F-FDOPA", "fluorodopa F-18", "18F", Code("5811000122108", "SCT", "Fluoro-L-dopa F-18"),
        (Code("C-E0241", "SRT"),),
    ),
    Tracer(
        "177Lu-DOTATATE", "lutetium Lu-177 dotatate", "177Lu",
        Code("781259000", "SCT", "Lutetium Lu-177 DOTATATE"),
    ),
    Tracer("68Ga-DOTATATE", "gallium Ga-68 dotatate", "68Ga", Code("724025002", "SCT", "Dotatate Ga-68")),
    Tracer("68Ga-DOTATOC", "edotreotide Ga-68", "68Ga", Code("C2713594", "UMLS", "Edotreotide Ga-68")),
    Tracer("68Ga-FAPI", "Ga-68 fibroblast activation protein inhibitor", "68Ga"),
    Tracer("99mTc-PSMA-I&S", "technetium Tc-99m PSMA-I&S", "99mTc"),
    Tracer("99mTc-trofolastat", "trofolastat Tc-99m", "99mTc", Code("C116887", "NCIt", "Trofolastat Tc-99m")),
)  # fmt: skip
"""Recognised by code, so that a refusal can name them; used only when the site allows them."""


def tracer_named(key: str) -> Tracer:
    """The tracer called ``key``: from the tables, or a site's own as ``<radionuclide>-<drug>``.

    Raises:
        ValueError: ``key`` is neither.
    """
    for tracer in (*KNOWN_TRACERS, *OTHER_TRACERS):
        if tracer.key == key:
            return tracer
    own = TRACER_KEY.fullmatch(key)
    if own is None:
        known = ", ".join(tracer.key for tracer in (*KNOWN_TRACERS, *OTHER_TRACERS))
        raise ValueError(f"{key!r} names no tracer; known are {known}; a site's own is <radionuclide>-<drug>")
    return Tracer(key, key, own.group(1))
