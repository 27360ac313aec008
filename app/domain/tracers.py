"""Which radiopharmaceutical: the PSMA tracers this node knows, and how each is coded.

Codes: PS3.16 CID 4020/4021, NCIt; see the table in docs/conformance.md. Isotope facts stand in
:mod:`app.domain.radionuclides`.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.study import Code


@dataclass(frozen=True)
class Tracer:
    """A radiopharmaceutical. ``key`` is what app.yaml and model cards call it."""

    key: str
    name: str
    radionuclide: str
    code: Code | None = None


PSMA_11_GA68 = Tracer("68Ga-PSMA-11", "68Ga-PSMA-11", "68Ga", Code("C118961", "NCIt", "PSMA-11 Ga-68"))
PSMA_617_GA68 = Tracer("68Ga-PSMA-617", "68Ga-PSMA-617", "68Ga", Code("126759", "DCM", "PSMA-617 Ga-68"))
PSMA_1007_F18 = Tracer("18F-PSMA-1007", "18F-PSMA-1007", "18F", Code("126758", "DCM", "PSMA-1007 F-18"))
DCFPYL_F18 = Tracer("18F-DCFPyL", "piflufolastat F-18", "18F", Code("C116352", "NCIt", "Piflufolastat F-18"))
PSMA_617_LU177 = Tracer(
    "177Lu-PSMA-617",
    "lutetium Lu-177 vipivotide tetraxetan",
    "177Lu",
    Code("1263794005", "SCT", "Lutetium (177-Lu) vipivotide tetraxetan"),
)

KNOWN_TRACERS = (PSMA_11_GA68, PSMA_617_GA68, PSMA_1007_F18, DCFPYL_F18, PSMA_617_LU177)
