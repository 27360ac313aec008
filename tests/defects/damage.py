"""A defect: what is done to a study, and what must come of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset, config
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from app.domain.refusal import RefusalCode
from tests.defects.studies import Images

Damage = Callable[[Images], None]

OTHER = 3
"""The slice that is damaged where only one is."""


@contextmanager
def forbidden_values() -> Iterator[None]:
    """pydicom neither refuses nor mourns values that the Standard forbids: they are the damage."""
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.writing_validation_mode = before


@dataclass(frozen=True)
class Defect:
    """One line of the table.

    Attributes:
        name: in words, as ``docs/reference/refusals.md`` shows it.
        damage: what is done.
        code: the reason that must be given; ``None``: the numbers must be the undamaged study's.
        attribute: what the reason names.
        beside: the numbers must be the same although this reason is told of another series or file.
        warned: no header can tell, so the numbers may be others; a warning with these words must be given.
        like: the numbers must be those of a study with this other damage instead.
    """

    name: str
    damage: Damage
    code: RefusalCode | None = None
    attribute: str = ""
    beside: RefusalCode | None = None
    warned: str = ""
    like: Damage | None = None


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute, or delete it; a keyword with a dot is of the first item of a sequence."""
    sequence, dot, rest = keyword.partition(".")
    if dot:
        put(dataset[sequence].value[0], rest, value)
    elif value is None:
        if keyword in dataset:
            del dataset[Tag(keyword)]
    elif isinstance(value, str) and keyword in dataset and not isinstance(dataset[keyword].value, str):
        # text where a number belongs, as a damaged file has it
        dataset.add_new(keyword, "LO", value)
    else:
        setattr(dataset, keyword, value)


def every(**changes: Any) -> Damage:
    """The same change on each functional image; ``None`` deletes."""
    return lambda images: [put(each, _dotted(k), v) for each in images.functional for k, v in changes.items()]  # type: ignore[return-value]


def one(**changes: Any) -> Damage:
    """A change on one functional image alone."""
    return lambda images: [put(images.functional[OTHER], _dotted(k), v) for k, v in changes.items()]  # type: ignore[return-value]


def every_ct(**changes: Any) -> Damage:
    """The same change on each CT image."""
    return lambda images: [put(each, _dotted(k), v) for each in images.ct for k, v in changes.items()]  # type: ignore[return-value]


def one_ct(**changes: Any) -> Damage:
    """A change on one CT image alone."""
    return lambda images: [put(images.ct[OTHER], _dotted(k), v) for k, v in changes.items()]  # type: ignore[return-value]


def injected(**changes: Any) -> Damage:
    """A change of the injection in each functional image."""
    return every(**{f"RadiopharmaceuticalInformationSequence__{k}": v for k, v in changes.items()})


def moved(place: Callable[[int, list[float]], list[float]], in_ct: bool = False) -> Damage:
    """Other positions: ``place`` gets the index and the position of a slice."""

    def damage(images: Images) -> None:
        for index, each in enumerate(images.ct if in_ct else images.functional):
            each.ImagePositionPatient = place(index, [float(v) for v in each.ImagePositionPatient])

    return damage


def lost(*indices: int, in_ct: bool = False) -> Damage:
    """Slices that never came."""

    def damage(images: Images) -> None:
        stack = images.ct if in_ct else images.functional
        stack[:] = [each for index, each in enumerate(stack) if index not in indices]

    return damage


def padded(stored: int, in_ct: bool, columns: Sequence[int] = (0, -1), **changes: Any) -> Damage:
    """The outer columns hold a stored value of 16 bits, whatever its sign; ``changes`` describe it."""

    def damage(images: Images) -> None:
        for each in images.ct if in_ct else images.functional:
            if each.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
                raise ValueError("packed images are not padded")
            pixels = np.frombuffer(each.PixelData, "<u2").reshape(each.Rows, each.Columns).copy()
            pixels[:, list(columns)] = stored % 0x10000
            each.PixelData = pixels.tobytes()
            for keyword, value in changes.items():
                if keyword.startswith("PixelPadding"):  # the VR that its sign asks for, right or wrong
                    each.add_new(keyword, "SS" if value < 0 else "US", value)
                else:
                    put(each, keyword, value)

    return damage


def copied(dataset: Dataset, uid: str, **changes: Any) -> Dataset:
    """Another instance that is the same but for its UID and ``changes``."""
    again = copy.deepcopy(dataset)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = uid
    for keyword, value in changes.items():
        put(again, _dotted(keyword), value)
    return again


def both(*damages: Damage) -> Damage:
    """Several things at once."""

    def damage(images: Images) -> None:
        for each in damages:
            each(images)

    return damage


def _dotted(keyword: str) -> str:
    return keyword.replace("__", ".")
