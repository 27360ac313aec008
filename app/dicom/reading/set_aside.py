"""Images of another kind under a series' own UID: set aside by name, so that they don't spoil the series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from app.dicom.reading.series_header import FileHeader
from app.domain.refusal import Reason
from app.domain.selection.screening import screen
from app.domain.stack.geometry import ORIENTATION_TOLERANCE, SAME_POSITION_MM
from app.domain.study import Instance


def without_foreign(mates: Sequence[FileHeader]) -> tuple[Sequence[FileHeader], tuple[str, ...]]:
    """The images of a series without those of another kind under its UID, and what those are.

    Localizers and dose pages under the CT's UID, an uncorrected PET under the corrected one's. An image that
    would stand where the stack has none stays: it may be the stack's, and its header damaged.
    """
    kinds: dict[tuple[object, ...], list[FileHeader]] = defaultdict(list)
    for item in mates:
        series = item.series
        kinds[series.sop_class_uid, series.modality, series.image_type[:4], series.corrected_image].append(
            item
        )
    usable = [kind for kind in kinds.values() if not isinstance(screen(kind[0].series), Reason)]
    if len(kinds) == 1 or len(usable) != 1:
        return mates, ()
    (own,) = usable
    foreign = [kind for kind in kinds.values() if kind is not own]
    if not all(_is_beside(item.instance, own) for kind in foreign for item in kind):
        return mates, ()
    reasons = [(len(kind), screen(kind[0].series)) for kind in foreign]
    told = (f"{count} with {one.in_brief}" for count, one in reasons if isinstance(one, Reason))
    return own, tuple(sorted(told))


def _is_beside(image: Instance, own: Sequence[FileHeader]) -> bool:
    """Whether an image is no slice that a stack lacks: of another class, plane or size, or where one is."""
    first, place = own[0].instance, image.image_position_mm
    if image.sop_class_uid != first.sop_class_uid or place is None or image.image_orientation is None:
        return True
    if (image.rows, image.columns) != (first.rows, first.columns):
        return True
    if not _near(image.image_orientation, first.image_orientation, ORIENTATION_TOLERANCE):
        return True
    return any(_near(place, item.instance.image_position_mm, SAME_POSITION_MM) for item in own)


def _near(one: Sequence[float], other: Sequence[float] | None, within: float) -> bool:
    return other is not None and all(abs(a - b) <= within for a, b in zip(one, other, strict=True))
