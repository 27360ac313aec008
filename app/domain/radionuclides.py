"""Radionuclides: half-lives, codes, and what an injected activity of each can plausibly be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from app.domain.study import Code, Radiopharmaceutical

HALF_LIFE_TOLERANCE = 0.02
"""Relative. Headers round (110 min for 18F); 2 % in T½ is under 1 % in SUV one hour after injection."""


class Emission(StrEnum):
    """Which camera sees it."""

    POSITRON = "positron"
    GAMMA = "gamma"


@dataclass(frozen=True)
class Radionuclide:
    """A radionuclide.

    Attributes:
        key: mass number and symbol, as tracer keys begin (``68Ga``).
        half_life_s: physical half-life.
        codes: PS3.16 CID 18 and 4020, current (SCT) first, then SNOMED RT.
        activity_mbq: lowest and highest plausible injected activity. The range spans less than a factor of
            a million, so that Bq and MBq can't be taken for each other (FACTS: dose in MBq where Bq is due).
        usual_activity_mbq: lowest and highest activity that clinics give adults; outside it a warning.
        usual_uptake_s: shortest and longest time from injection to scan; outside it a warning.
        photopeaks_kev: what a gamma camera's energy window is set on (ENSDF); empty: not checked.
    """

    key: str
    half_life_s: float
    emission: Emission
    codes: tuple[Code, ...]
    activity_mbq: tuple[float, float] = (5.0, 2000.0)
    usual_activity_mbq: tuple[float, float] | None = None
    usual_uptake_s: tuple[float, float] | None = None
    photopeaks_kev: tuple[float, ...] = ()


_MIN_S, _H_S = 60.0, 3600.0

# PSMA PET/CT: EANM/SNMMI guideline 2.0, doi 10.1007/s00259-022-06089-w, widened to what other tracers of the
# radionuclide get; 68Ga-PSMA-11: 1.8 to 2.2 MBq/kg at 60 (50 to 100) min, 18F ligands: about 250 to 370 MBq
# at 60 to 120 min. Three times the usual is refused: no patient is given that much.
GA68 = Radionuclide(
    "68Ga", 4062.6, Emission.POSITRON, (Code("35337001", "SCT", "68Ga"), Code("C-131A3", "SRT", "68Ga")),
    activity_mbq=(5.0, 1200.0), usual_activity_mbq=(40.0, 400.0), usual_uptake_s=(30 * _MIN_S, 110 * _MIN_S),
)  # fmt: skip
F18 = Radionuclide(
    "18F", 6586.2, Emission.POSITRON, (Code("77004003", "SCT", "18F"), Code("C-111A1", "SRT", "18F")),
    activity_mbq=(5.0, 1800.0), usual_activity_mbq=(100.0, 600.0), usual_uptake_s=(30 * _MIN_S, 140 * _MIN_S),
)  # fmt: skip
CU64 = Radionuclide(
    "64Cu", 45721.0, Emission.POSITRON, (Code("3932008", "SCT", "64Cu"), Code("C-127A2", "SRT", "64Cu"))
)
ZR89 = Radionuclide(
    "89Zr", 282280.0, Emission.POSITRON, (Code("63360001", "SCT", "89Zr"), Code("C-168A4", "SRT", "89Zr"))
)
C11 = Radionuclide(
    "11C", 1221.8, Emission.POSITRON, (Code("40565003", "SCT", "11C"), Code("C-105A1", "SRT", "11C"))
)
# 177Lu-PSMA: EANM/SNMMI guideline, doi 10.1007/s00259-023-06255-8: 3.7 to 9.3 GBq a cycle, imaged from hours
# to a week after it.
LU177 = Radionuclide(
    "177Lu", 574300.0, Emission.GAMMA, (Code("447553000", "SCT", "177Lu"), Code("C-101ED", "SRT", "177Lu")),
    activity_mbq=(100.0, 20000.0), usual_activity_mbq=(1000.0, 12000.0),
    usual_uptake_s=(2 * _H_S, 192 * _H_S), photopeaks_kev=(112.9, 208.4),
)  # fmt: skip
TC99M = Radionuclide(
    "99mTc", 21624.0, Emission.GAMMA, (Code("72454006", "SCT", "99mTc"), Code("C-163A8", "SRT", "99mTc"))
)
I123 = Radionuclide(
    "123I", 47604.0, Emission.GAMMA, (Code("21572004", "SCT", "123I"), Code("C-114A4", "SRT", "123I"))
)
I131 = Radionuclide(
    "131I", 693377.0, Emission.GAMMA, (Code("1368003", "SCT", "131I"), Code("C-114B1", "SRT", "131I")),
    activity_mbq=(5.0, 20000.0),
)  # fmt: skip
IN111 = Radionuclide(
    "111In", 242330.0, Emission.GAMMA, (Code("56609000", "SCT", "111In"), Code("C-145A4", "SRT", "111In"))
)

RADIONUCLIDES = (GA68, F18, CU64, ZR89, C11, LU177, TC99M, I123, I131, IN111)


def radionuclide_named(key: str) -> Radionuclide | None:
    """The radionuclide called ``key`` (``68Ga``), if this program knows it."""
    return next((nuclide for nuclide in RADIONUCLIDES if nuclide.key == key), None)


def radionuclide_coded(code: Code) -> Radionuclide | None:
    """The radionuclide of a Radionuclide Code Sequence (0054,0300) item, if this program knows it.

    By the value alone: no scheme gives these values to anything else, and scanners write many a designator.
    """
    value = code.value.upper()
    return next((item for item in RADIONUCLIDES if any(value == own.value for own in item.codes)), None)


def radionuclide_spelled(text: str) -> str:
    """The radionuclide that a code's meaning spells (``^68^Gallium``, ``F-18``), as a key; else empty."""
    for found in _SPELLED.finditer(text):
        word = (found["after"] or found["before"]).lower()
        symbol = next((symbol for symbol, name in _ELEMENTS.items() if word.startswith(name)), "")
        symbol = symbol or next((symbol for symbol in _ELEMENTS if symbol.lower() == word), "")
        mass = (found["mass"] or found["mass_after"] or "").lower()
        if symbol and mass:
            return f"{mass}{symbol}"
    return ""


_SPELLED = re.compile(
    r"(?P<mass>\d{2,3}m?)(?![\dA-Za-z]*\d)[\W_]*(?P<after>[A-Za-z]+)"
    r"|(?P<before>[A-Za-z]+)[\W_]*(?P<mass_after>\d{2,3}m?)(?!\d)", re.ASCII,
)  # fmt: skip

_ELEMENTS = {
    "Ga": "galli", "F": "fluor", "Cu": "copper", "Zr": "zircon", "C": "carbon", "Lu": "luteti", "Tc": "techn",
    "I": "iod", "In": "indium", "Tb": "terbi", "Y": "yttri", "Ac": "actini", "Sc": "scandi", "Tl": "thalli",
    "Ra": "radium", "Rb": "rubid", "Sm": "samari", "Ho": "holmi", "Re": "rheni", "N": "nitrogen",
    "O": "oxygen", "Bi": "bismut", "Pb": "lead", "Ge": "german", "Br": "brom", "Xe": "xenon", "Kr": "krypt",
}  # fmt: skip
"""What images are made with: symbols, and how the names begin in English, Latin and German alike."""


def radionuclide_decaying(half_life_s: float) -> Radionuclide | None:
    """The only radionuclide with this half-life, within :data:`HALF_LIFE_TOLERANCE`."""
    found = [nuclide for nuclide in RADIONUCLIDES if half_life_agrees(half_life_s, nuclide)]
    return found[0] if len(found) == 1 else None


def half_life_agrees(half_life_s: float, nuclide: Radionuclide) -> bool:
    """Whether a half-life from a header is this radionuclide's."""
    return abs(half_life_s / nuclide.half_life_s - 1.0) <= HALF_LIFE_TOLERANCE


def radionuclide_of(injected: Radiopharmaceutical | None) -> Radionuclide | None:
    """By the site's entry for the study, else by code; where no known code is, by half-life and by what the
    code's meaning spells, which must agree. ``None`` when nothing tells, or they do not.
    """
    if injected is None:
        return None
    if injected.site_radionuclide:
        return radionuclide_named(injected.site_radionuclide)
    return radionuclide_in(injected)


def radionuclide_in(injected: Radiopharmaceutical) -> Radionuclide | None:
    """As :func:`radionuclide_of`, by the header alone."""
    code, half_life_s = injected.radionuclide_code, injected.half_life_s
    coded = radionuclide_coded(code) if code else None
    if coded is not None:
        return coded
    spelled = radionuclide_spelled(code.meaning) if code else ""
    if not half_life_s:
        return radionuclide_named(spelled)
    decaying = radionuclide_decaying(half_life_s)
    return decaying if decaying is not None and spelled in ("", decaying.key) else None
