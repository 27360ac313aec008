"""Drugs in free text: every spelling found, and none where there is none."""

from __future__ import annotations

import pytest

from app.domain.radionuclides import GA68, LU177, radionuclide_of, radionuclide_spelled
from app.domain.selection.tracers import drugs_in, plain, tracer_of, unknown_words
from app.domain.study import Code, Radiopharmaceutical


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *((text, "177Lu-PSMA-I&T") for text in (
            "PSMA-I&T", "psma i and t", "[177Lu]Lu-PSMA-I&amp;T", "LuPSMA IT", "Zadavotide Guraxetan",
            "PNT2002", "PSMA-1&T",
        )),
        *((text, "177Lu-PSMA-617") for text in (
            "PSMA-617", "psma617", "DOTA-PSMA 617", "¹⁷⁷Lu‑PSMA‑617", "Pluvicto", "VIPIVOTIDE TETRAXETAN",
        )),
        *((text, "177Lu-DOTATATE") for text in (
            "DOTATATE", "DOTA-TATE", "LuDotatate", "Lutathera®", "oxodotréotide", "Lu-177 octreotate",
        )),
        ("DOTA-TOC", "177Lu-DOTATOC"),
        ("DOTANOC", "177Lu-DOTANOC"),
        ("FAP 2286", "177Lu-FAP-2286"),
        ("FAPi-46", "177Lu-FAPI"),
        ("Lu-EDTMP", "177Lu-EDTMP"),
        ("J-591", "177Lu-J591"),
        ("rosopatamab tetraxetan", "177Lu-J591"),
        ("177Lu-Pertuzumab", "177Lu-pertuzumab"),
        *((text, "177Lu-DOTATATE") for text in ("Lu TATE", "HALU tate", "LuTATE 24h")),
        *((text, "177Lu-DOTATOC") for text in ("Lu TOC 24h", "LuTOC", "177Lu-TOC")),
        ("Lu-NOC", "177Lu-DOTANOC"),
        ("OPS201", "177Lu-ops201"),
        ("177Lu-OPS-201 SPECT", "177Lu-ops-201"),
        ("DOTA-JR11", "177Lu-dota"),
        ("NETTER-3", "177Lu-netter-3"),
        ("NET Therapie", "177Lu-net-therapie"),
        ("GEP-NET", "177Lu-gep-net"),
        ("Neuroendokriner Tumor", "177Lu-neuroendokriner"),
        ("3BP-3940", "177Lu-3BP-3940"),
        ("PNT6555", "177Lu-PNT6555"),
        ("Lu-PSMA-10.1", "177Lu-rhPSMA"),
        ("rhPSMA-10.1", "177Lu-rhPSMA"),
        ("LNTH-1095", "177Lu-LNTH"),
        ("m-IBG", "131I-MIBG"),
        ("F18 FDG", "18F-FDG"),
        ("18FFDG", "18F-FDG"),
    ],
)  # fmt: skip
def test_a_drug_is_found_in_every_spelling(text: str, key: str) -> None:
    tracers = [tracer_of(drug, words, "177Lu") for drug, words in drugs_in(text)]
    assert [tracer.key for tracer in tracers if tracer] == [key]


@pytest.mark.parametrize(
    "text",
    [
        "", "SPECT AC", "177Lu", "Lutetium Lu-177", "Lu PSMA 24h", "PSMA 11.03.2026", "Professor",
        "WB snaffle", "Tumor Imaging", "Ganzkörper", "PSMA THERAPIE ZYKLUS 2", "GAUSS FLT",
        "PSMA 10.1 GBq", "PSMA 10.1.2026", "Internet Therapie", "Stockholm", "état de base", "AC-TOCHTER",
        "recon net", "C2S1D0 [xSPECT48iNOFILT - AC ]",
    ],
)  # fmt: skip
def test_no_drug_is_found_where_none_is_named(text: str) -> None:
    assert drugs_in(text) == ()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", ""), ("Lu-177", ""), ("Lutetium [177Lu]", ""), ("177Lu-PSMA", ""), ("LuPSMA Therapie", ""),
        ("Lu-DOTA-PSMA 24h p.i.", ""), ("Lösung zur Injektion 7400 MBq", "zur"), ("177Lu-XYZ-12", "xyz"),
        ("Lu-PSMA-46", "psma 46"), ("177Lu-PSMA-0057", "psma 0057"), ("PSMA 1", "psma 1"),
        ("Lu-PSMA-46 Therapie 7.4 GBq", "psma 46"), ("Lu-PSMA-46 24h", "psma 46"), ("225Ac-PSMA", "225ac"),
        ("PSMA-46b", "psma 46b"),
        *((text, "") for text in (
            "Lu PSMA 24h", "PSMA 7400 MBq", "PSMA 7400MBq", "Lu-PSMA 7.4 GBq", "PSMA 11.03.2026",
            "PSMA 2026-03-11", "PSMA 2. Zyklus", "PSMA 3rd cycle", "PSMA Lu-177", "PSMA 177Lu", "PSMA-177",
            "PSMA Zyklus 2", "PSMA 4 days", "PSMA 4,5 h",
        )),
    ],
)  # fmt: skip
def test_what_a_text_says_beyond_the_radionuclide_is_left(text: str, left: str) -> None:
    assert unknown_words(text) == left


def test_plain_text_has_neither_accents_nor_signs() -> None:
    assert plain(" [¹⁷⁷Lu]Lu-Oxodotréotide\u2011X ") == "177lu lu oxodotreotide x"


@pytest.mark.parametrize(
    ("meaning", "key"),
    [
        ("^68^Gallium", "68Ga"), ("Ga-68", "68Ga"), ("177 Lutetium", "177Lu"), ("Fluorine F^18^", "18F"),
        ("^99m^Technetium", "99mTc"), ("Tc-99m", "99mTc"), ("Iodine-124", "124I"), ("Lu177", "177Lu"),
        ("isotope 17", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_radionuclide_is_read_from_its_codes_meaning(meaning: str, key: str) -> None:
    assert radionuclide_spelled(meaning) == key


@pytest.mark.parametrize(
    ("code", "half_life_s", "key"),
    [
        (Code("17", "99X", "isotope"), 4062.6, "68Ga"),
        (Code("17", "99X", "Ga-68"), None, "68Ga"),
        (Code("17", "99X", "F-18"), 4062.6, None),
        (Code("17", "99X", "^161^Terbium"), 596000.0, None),
        (Code("17", "99X", "isotope"), None, None),
        (Code("C-101ED", "anything"), None, "177Lu"),
        (None, 574300.0, "177Lu"),
    ],
)
def test_half_life_and_meaning_are_witnesses_where_the_code_is_foreign(
    code: Code | None, half_life_s: float | None, key: str | None
) -> None:
    found = radionuclide_of(Radiopharmaceutical(radionuclide_code=code, half_life_s=half_life_s))
    assert (found.key if found else None) == key


def test_the_sites_radionuclide_goes_before_a_foreign_code() -> None:
    foreign = Radiopharmaceutical(radionuclide_code=Code("17", "99X"), site_radionuclide="177Lu")
    assert radionuclide_of(foreign) is LU177
    assert radionuclide_of(Radiopharmaceutical(radionuclide_code=GA68.codes[0])) is GA68
