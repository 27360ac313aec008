"""Section ``select`` of app.yaml: what the site lets this node take, and for what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.radionuclides import radionuclide_named
from app.domain.selection.tracers import KNOWN_TRACERS, PSMA_617_LU177, tracer_named


@dataclass(frozen=True)
class IsotopeRule:
    """The site's word that an image with this radionuclide, and no drug code, shows this tracer.

    Attributes:
        isotope: radionuclide, as ``68Ga``.
        tracer: tracer key, as ``68Ga-PSMA-11``.
    """

    isotope: str
    tracer: str

    def __post_init__(self) -> None:
        if radionuclide_named(self.isotope) is None:
            raise ValueError(f"select.isotope_tracers: unknown isotope {self.isotope!r}; write it as 68Ga")
        if tracer_named(self.tracer).radionuclide != self.isotope:
            raise ValueError(f"select.isotope_tracers: {self.tracer} is not labelled with {self.isotope}")


@dataclass(frozen=True)
class TextPattern:
    """The site's word that free text names a tracer.

    Attributes:
        pattern: regular expression, without regard to case, searched in Radiopharmaceutical (0018,0031), the
            meanings of its codes, and Series Description (0008,103E).
        tracer: tracer key.
    """

    pattern: str
    tracer: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"select.text_patterns: {self.pattern!r} is no regular expression: {error}"
            ) from error
        tracer_named(self.tracer)


@dataclass(frozen=True)
class SelectionPolicy:
    """Section ``select``.

    Attributes:
        tracers: keys of the tracers that are segmented; all PSMA ligands that this program knows.
        additional_tracers: keys of more, for example ``[18F-FDG]``; shorter than repeating ``tracers``.
        isotope_tracers: what an isotope alone means here. 177Lu is on: at a PSMA node 177Lu SPECT is the
            treatment that the node is for, its drug code is hardly ever in the header, and the decision is
            written into the report; a drug that the header does name (DOTATATE) is never overruled. 68Ga and
            18F are off: PET centres give DOTATATE and FDG to other patients every day.
        text_patterns: free text that names a tracer here; none.
        derived_images: take an image of type DERIVED where no ORIGINAL one serves; the report says so.
        minimum_ct_coverage: share of the functional slices that the CT must cover, 0 to 1.
        minimum_field_overlap: share of the smaller field of view that both must have in common, 0 to 1.
        thinnest_ct_mm: of several CTs the thinnest slices win, but none thinner than this, mm: such stacks
            cost memory, and hold nothing more at the functional image's resolution.
        fewer_slices_than_announced: take a PET with fewer slices than its Number of Slices (0054,0081); the
            report says so. Off: a stack that ends too early looks like a shorter patient. For sites whose
            anonymiser crops images and leaves the count.
        pair_without_frame_of_reference: take the CT for a SPECT that has no Frame of Reference UID, by
            coverage alone. Off: nothing in the headers then says that they were acquired together.
    """

    tracers: tuple[str, ...] = tuple(tracer.key for tracer in KNOWN_TRACERS)
    additional_tracers: tuple[str, ...] = ()
    isotope_tracers: tuple[IsotopeRule, ...] = (IsotopeRule("177Lu", PSMA_617_LU177.key),)
    text_patterns: tuple[TextPattern, ...] = ()
    derived_images: bool = True
    minimum_ct_coverage: float = 0.9
    minimum_field_overlap: float = 0.5
    thinnest_ct_mm: float = 1.0
    fewer_slices_than_announced: bool = False
    pair_without_frame_of_reference: bool = False

    def __post_init__(self) -> None:
        for key in self.allowed:
            tracer_named(key)
        for name in ("minimum_ct_coverage", "minimum_field_overlap"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(
                    f"select.{name} is a share, above 0 and up to 1, found {getattr(self, name)}"
                )

    @property
    def allowed(self) -> tuple[str, ...]:
        """Keys of every tracer that is segmented."""
        return (*self.tracers, *self.additional_tracers)
