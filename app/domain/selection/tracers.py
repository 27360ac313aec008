"""Which radiopharmaceutical: the PSMA tracers this node knows, others it must not take for them, their codes.

Codes: PS3.16 CID 25 and 4021, NCIt, and their SNOMED RT forms. Isotope facts stand in
:mod:`app.domain.radionuclides`.

Then which drugs a header's words name, however they are spelt: in text nothing else tells one from another.
Text is compared as :func:`plain`; in a pattern a space stands for a space or nothing, so that ``dota tate``
finds DOTATATE, DOTA-TATE and Dota Tate.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

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


def plain(text: str) -> str:
    """Lower case, without accents; whatever is no letter or digit of ASCII becomes one space."""
    letters = (c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", " ", "".join(letters)).strip()


@dataclass(frozen=True)
class Drug:
    """What is labelled with a radionuclide.

    Attributes:
        name: as tracer keys end (``DOTATATE``); empty: the words that were found.
        pattern: of its names.
        radionuclides: the only ones that it comes with; empty: any.
        is_class: a class of drugs, which says nothing more where one of them is named.
    """

    name: str
    pattern: str
    radionuclides: tuple[str, ...] = ()
    is_class: bool = False

    def found_in(self, text: str) -> str:
        """The words in plain text that name it; empty where none do."""
        match = _compiled(self.pattern).search(text)
        return match.group().strip() if match else ""

    def fits(self, radionuclide: str) -> bool:
        """Whether it comes with this radionuclide."""
        return not self.radionuclides or radionuclide in self.radionuclides

    def is_in(self, tracer: Tracer) -> bool:
        """Whether ``tracer`` is this drug with some radionuclide."""
        return bool(self.found_in(plain(f"{tracer.key} {tracer.name}")))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", " ?"))


_F18 = ("18F",)

DRUGS = (
    # PSMA ligands
    Drug("PSMA-617", r"psma 617|vipivotid|pluvicto"),
    Drug("PSMA-I&T", r"psma (dotaga )?[i1l] (and |und |et |amp |n )?t\b|zadavotid|guraxetan|pnt 2002"),
    Drug("PSMA-I&S", r"psma [i1l] (and |und |et |amp )?s\b", ("99mTc", "111In")),
    Drug("PSMA-11", r"psma 11\b(?! \d)|hbed|gozetotid|illuccix|locametz|gozellix", ("68Ga", "18F", "64Cu")),
    Drug("PSMA-1007", r"psma 1007|radelumin", _F18),
    Drug("DCFPyL", r"dcf pyl|piflufolastat|pylarify|pylclari", _F18),
    Drug("rhPSMA", r"rh psma|psma 10\s1\b(?! (\d|[mkg]bq|mci))|flotufolastat|posluma"),
    Drug("JK-PSMA-7", r"jk psma", _F18),
    Drug("CTT1057", r"ctt 1057", _F18),
    Drug("bisPSMA", r"bis psma"),
    Drug("EB-PSMA", r"\beb psma|lnc 1011"),
    Drug("PSMA-R2", r"psma r 2\b"),
    Drug("PSMA-D4", r"psma d 4\b"),
    Drug("PSMA-ALB", r"psma alb|alb psma|ibu dab psma"),
    Drug("ludotadipep", r"ludotadipep"),
    Drug("LNTH", r"lnth"),
    Drug("trofolastat", r"trofolastat|mip 14\d\d"),
    Drug("J591", r"\bh?u?j 591|rosopatamab|tlx 59[12]"),
    Drug("capromab", r"capromab|prostascint"),
    # of somatostatin receptors
    Drug("DOTATATE", r"dota ta?te|octreotat|oxodotreotid|lutathera|netspot|(\b|lu|ga)tate\b"),
    Drug("DOTATOC", r"dota toc|(\b|lu|ga)toc\b|edotreotid|somakit"),
    Drug("DOTANOC", r"dota noc|(\b|lu|ga)noc\b"),
    Drug(
        "",
        r"[a-z]*reotid[a-z]*|octreo\w*|somatostatin|\bprrt\b|sstr|\bops 20[12]\b|\bjr 11\b|\bnetter [123p]\b"
        r"|neuro endo[ck]r\w*|\b(gep|lu|177|ga) nets?\b|\bnets? t[eh]+rap\w*"
        r"|\bdota(?! (psma|ga|617))[a-z]*",
        (),
        True,
    ),
    # of the fibroblast activation protein
    Drug("FAP-2286", r"fap 2286"),
    Drug("3BP-3940", r"3bp 3940"),
    Drug("PNT6555", r"pnt 6555"),
    Drug("FAPI", r"fapi|fibroblast"),
    Drug("FAP", r"\bfap\b", (), True),
    # bone and others of therapy
    Drug("EDTMP", r"edtmp|lexidronam|quadramet"),
    Drug("bone-agent", r"\bh?mdp\b|\bhdp\b|\bdpd\b|medron|oxidron|pyrophosph|dota zol|zoledron|bpamd"),
    Drug("MIBG", r"m ibg|iobenguan|iodobenzylguan|azedra", ("131I", "123I")),
    Drug("bombesin", r"bombesin|neo b\b|\brm 2\b|\bgrpr"),
    Drug("pentixather", r"pentixa|cxcr 4"),
    Drug("neurotensin", r"3bp 227|neurotensin"),
    Drug("minigastrin", r"gastrin|\bpp f 11|cck 2"),
    Drug("microspheres", r"microspher|mikrosphar|\bsirt\b|\bmaa\b"),
    Drug("", r"[a-z]{4,}mab\b", (), True),
    # PET
    Drug("FDG", r"fdg|desoxy gluc|deoxy gluc|fludeoxygl|deoxy d gluc", _F18),
    Drug("NaF", r"\bf?naf\b|sodium fluor|natrium fluor|fluorure de sodium|fluoruro", _F18),
    Drug("fluorocholine", r"cholin|\bcolina|\bfluorocolina|\bf?fch\b", ("18F", "11C")),
    Drug("fluciclovine", r"fluciclov|axumin|facbc", _F18),
    Drug("FES", r"\bf?fes\b|fluoro estradiol|cerianna", _F18),
    Drug("FET", r"\bf?fet\b|fluoro ethyl (l )?tyrosin", _F18),
    Drug("FDOPA", r"f dopa|fluoro (l )?dopa", _F18),
    Drug("FLT", r"(18f|f18|f 18) flt|fluorothymidin", _F18),
    Drug("FMISO", r"fmiso|misonidazol", _F18),
    Drug("amyloid", r"florbeta|flutemetam|amyvid|neuraceq|vizamyl|flortauc", _F18),
    Drug("exendin", r"exendin"),
    # scintigraphy
    Drug("sestamibi", r"sestamibi|\bmibi\b|tetrofosmin|myoview", ("99mTc",)),
    Drug("renal-agent", r"\bmag 3\b|\bdmsa\b|\bdtpa\b", ("99mTc",)),
    Drug("pertechnetate", r"pertechnet", ("99mTc",)),
)
"""Names of drugs that share a radionuclide with a PSMA ligand. What is missing here is still no known name
where it stands alone in Radiopharmaceutical (:func:`unknown_words`)."""


def drugs_in(text: str) -> tuple[tuple[Drug, str], ...]:
    """Each drug that free text names, with the words; classes only where nothing nearer is named."""
    words = plain(text)
    found = [(drug, drug.found_in(words)) for drug in DRUGS]
    named = [item for item in found if item[1]]
    return tuple(item for item in named if not item[0].is_class) or tuple(named)


def tracer_of(drug: Drug, words: str, radionuclide: str | None) -> Tracer | None:
    """The tracer that a drug makes with a radionuclide: from the tables, or one of its own key."""
    same = [tracer for tracer in (*KNOWN_TRACERS, *OTHER_TRACERS) if drug.name and drug.is_in(tracer)]
    fitting = [tracer for tracer in same if tracer.radionuclide == radionuclide]
    carrier = radionuclide if radionuclide and drug.fits(radionuclide) else next(iter(drug.radionuclides), "")
    if fitting or (same and not carrier):
        return (fitting or same)[0]
    return tracer_named(f"{carrier}-{drug.name or words.replace(' ', '-')}") if carrier else None


_SAYS_NOTHING = re.compile(
    r"\d+\w?|p|i|pi|dota|\d*m?(lu|ga|f|tc|cu|zr|c|i|in)\d*m?|lutet\w*|lutec\w*|lutez\w*|gall?i\w*|fluor\w*"
    r"|techn\w*|copper|kupfer|zircon\w*|zirkon\w*|psma|ligand\w*|radioligand\w*|radiopharma\w*|prostat\w*|specific"
    r"|membran\w*|antigen|tetraxetan|therap\w*|terap\w*|treatment|traitement|rlt|imaging|scan|post|solution|losung|soluci\w*"
    r"|soluzione|inj\w*|iny\w*|nca|carrier|free|added|no|iv|[kmg]bq|mci|spect|ct|pet|cycle|zyklus|dose|other"
    r"|unknown|unspecified|not|specified|none|na|n|a"
)


_MEASURED = re.compile(
    r"\b(20\d\d \d\d? \d\d?|\d\d? \d\d? (20)?\d\d|20\d{6})\b"
    r"|\b(\d+ )?\d+ ?([mkg]bq|mci)\b|\b(\d \d|\d+) ?(h|hrs?|hours?|std|stunden?|min|d|days?|tage?|ml|p i)\b"
    r"|\b\d ?(st|nd|rd|th|er|eme|o|a)? ?(z[iy]k\w*|c[iy][ck]l\w*|cure|kurs|dos[ei]|t[eh]+rap\w*|rlt)\b"
)
"""Dates, doses, times and cycles, in plain text."""

_NUMBERED = re.compile(r"psma (?!177\b|\d+m? (lu|ga|cu|f|zr|in|tc|i)\b)\d+[a-z]?( \d+)*\b")


def unknown_words(text: str) -> str:
    """What text for a drug says beyond radionuclide, PSMA and the like: perhaps an unknown drug's name.

    So is a number behind PSMA (PSMA-46) that is no dose, date or time.
    """
    spelled = _MEASURED.sub("-", " ".join(plain(text).replace("psma", " psma ").split()))
    numbered = _NUMBERED.search(spelled)
    words = [word for word in re.split("[ -]+", spelled) if word and not _SAYS_NOTHING.fullmatch(word)]
    return " ".join([*([numbered.group()] if numbered else []), *words])
