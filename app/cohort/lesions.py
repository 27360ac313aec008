"""From a reader's regions to numbered lesions."""

from __future__ import annotations

import cc3d
import numpy as np

from app.domain.volume import LabelMap
from app.imaging.labels import CONNECTIVITY, label_lesions


def numbered_lesions(regions: LabelMap) -> tuple[LabelMap, bool]:
    """Lesions as the product numbers them, unless the reader has numbered lesions already.

    One region is a mask: its connected components are the lesions, largest first. Of several regions, each
    part within one connected component of all that is outlined is a lesion. So regions in one place each are
    lesions as they are, in their order, also where they touch or where a small one cuts another in two; and a
    region in many places (``bone metastases``) is as many lesions, largest first.

    Returns:
        The lesions, and whether a region was taken apart.
    """
    outlined = regions.mask
    numbers = regions.array[outlined].astype(np.int64)
    present = len(np.unique(numbers))
    if present <= 1:
        return label_lesions(outlined, regions.grid, 0.0).labels, False
    places = cc3d.connected_components(outlined.astype(np.uint8), connectivity=CONNECTIVITY)
    parts = numbers * (int(places.max()) + 1) + places[outlined]
    known, part_of, sizes = np.unique(parts, return_inverse=True, return_counts=True)
    count = len(known)
    order = np.arange(count) if count == present else np.argsort(-sizes, kind="stable")
    lesion_of = np.zeros(count, np.uint16)
    lesion_of[order] = np.arange(1, count + 1)
    lesions = np.zeros(regions.array.shape, np.uint16)
    lesions[outlined] = lesion_of[part_of]
    return LabelMap(lesions, regions.grid), count != present
