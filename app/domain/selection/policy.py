"""Section ``select`` of app.yaml: which series the node takes, and for which tracers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from app.domain.radionuclides import radionuclide_named
from app.domain.ranges import Minutes, Range, Ranged, SomeShare
from app.domain.selection.tracers import KNOWN_TRACERS, PSMA_617_LU177, tracer_named


@dataclass(frozen=True)
class IsotopeRule:
    """The tracer that an image with this radionuclide shows at this site when no drug code says otherwise."""

    isotope: str
    """Radionuclide, written as ``68Ga``."""
    tracer: str
    """Tracer key, written as ``68Ga-PSMA-11``."""

    def __post_init__(self) -> None:
        if radionuclide_named(self.isotope) is None:
            raise ValueError(f"select.isotope_tracers: unknown isotope {self.isotope!r}; write it as 68Ga")
        if tracer_named(self.tracer).radionuclide != self.isotope:
            raise ValueError(f"select.isotope_tracers: {self.tracer} is not labelled with {self.isotope}")


@dataclass(frozen=True)
class TextPattern:
    """Free text that names a tracer at this site."""

    pattern: str
    """Regular expression, without regard to case, searched in Radiopharmaceutical (0018,0031), the meanings
    of its codes, and Series Description (0008,103E)."""
    tracer: str
    """Tracer key."""

    def __post_init__(self) -> None:
        _refuse_no_expression("text_patterns", self.pattern)
        tracer_named(self.tracer)


def _refuse_no_expression(setting: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"select.{setting}: {pattern!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class SelectionPolicy(Ranged):
    """Which series are taken, and for which tracers."""

    tracers: tuple[str, ...] = tuple(tracer.key for tracer in KNOWN_TRACERS)
    """Keys of the tracers that are segmented; by default all PSMA ligands that the program knows."""
    additional_tracers: tuple[str, ...] = ()
    """Keys of further tracers, for example ``[18F-FDG]``; shorter than repeating ``tracers``."""
    isotope_tracers: tuple[IsotopeRule, ...] = (IsotopeRule("177Lu", PSMA_617_LU177.key),)
    """The tracer that an isotope alone stands for at this site. 177Lu is on: at a PSMA node 177Lu SPECT is
    the treatment that the node is for, its drug code is hardly ever in the header, and the report states the
    decision; a drug that any text of the header names (DOTATATE, say, in Series, Study or Protocol
    Description) is never overruled. 68Ga and 18F are off: PET
    centres give DOTATATE and FDG to other patients every day."""
    text_patterns: tuple[TextPattern, ...] = ()
    """Free text that names a tracer at this site."""
    derived_images: bool = True
    """Take an image of type DERIVED where no ORIGINAL image serves; the report says so."""
    minimum_ct_coverage: SomeShare = 0.9
    """Share of the functional slices that the CT must cover, 0 to 1."""
    minimum_field_overlap: SomeShare = 0.5
    """Share of the smaller field of view that both images must have in common, 0 to 1."""
    preferred_uptake_min: Minutes | None = None
    """Of several time points in one study the one nearest to so many minutes after the injection is taken.
    Left out: the tracer's usual time (68Ga-PSMA 60 min, 18F ligands 90 min, 177Lu-PSMA 24 h)."""
    preferred_energies_kev: tuple[Annotated[float, Range(10, 2000)], ...] = (208.0,)
    """Of SPECTs from several energy windows the one whose window holds the first of these energies, keV.
    208 keV of 177Lu has less scatter under it than 113 keV."""
    preferred_reconstructions: tuple[str, ...] = ()
    """Of several reconstructions of one scan the one that the first of these regular expressions is found in:
    in Reconstruction Method (0054,1103), Convolution Kernel (0018,1210) or Series Description (0008,103E),
    without regard to case. Two reconstructions can be 40 % apart in SUV: name yours."""
    preferred_kernels: tuple[str, ...] = ()
    """The same for CTs, for example ``[STANDARD, "Br38|B31"]``; it goes before the thickness of slices."""
    ct_within_min: Annotated[float, Range(0, 1440)] = 30.0
    """A CT taken within so many minutes of the functional image is of its time. Of CTs beyond it the nearest
    is taken, and only where no other serves."""
    thinnest_ct_mm: Annotated[float, Range(0, 20)] = 1.0
    """Of several CTs of that time the one with the thinnest slices wins, but none thinner than this, mm: such
    stacks cost memory and hold nothing more at the functional image's resolution."""
    fewer_slices_than_announced: bool = False
    """Take a PET with fewer slices than its Number of Slices (0054,0081); the report says so. Off: a stack
    that ends too early looks like a shorter patient. For sites whose anonymiser crops images and leaves the
    count."""
    nm_modalities: tuple[str, ...] = ()
    """What NM images may have as Modality (0008,0060) besides NM, for example ``[OT]``: some workstations
    write that into their reconstructions."""
    pair_without_frame_of_reference: bool = False
    """Take the CT for a SPECT that has no Frame of Reference UID, by coverage alone. Off: nothing in the
    headers then says that they were acquired together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in self.allowed:
            tracer_named(key)
        for name in ("preferred_reconstructions", "preferred_kernels"):
            for pattern in getattr(self, name):
                _refuse_no_expression(name, pattern)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Keys of every tracer that is segmented."""
        return (*self.tracers, *self.additional_tracers)
