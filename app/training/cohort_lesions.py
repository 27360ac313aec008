"""From a reader's regions to numbered lesions."""

from __future__ import annotations

import cc3d
import numpy as np

from app.domain.volume import LabelMap
from app.imaging.components import CONNECTIVITY, label_lesions


def numbered_lesions(regions: LabelMap) -> tuple[LabelMap, bool]:
    """Lesions as the product numbers them, unless the reader has numbered lesions already.

    One region is a mask: its connected components are the lesions, largest first. Of several regions, each
    part within one connected component of all that is outlined is a lesion. So regions in one place each are
    lesions as they are, in their order, also where they touch or where a small one cuts another in two; and a
    region in many places (``bone metastases``) is as many lesions, largest first.

    Returns:
        The lesions, and whether a region was taken apart.
    """
    present = np.unique(regions.array[regions.mask]).astype(np.int64)
    if len(present) <= 1:
        return label_lesions(regions.mask, regions.grid, 0.0).labels, False
    places = cc3d.connected_components(regions.mask.astype(np.uint8), connectivity=CONNECTIVITY)
    parts = np.where(regions.mask, regions.array * (int(places.max()) + 1) + places.astype(np.int64), 0)
    known, numbers, sizes = np.unique(parts, return_inverse=True, return_counts=True)
    first = int(known[0] == 0)  # 0 is the background, unless everything is outlined
    count = len(known) - first
    order = np.arange(count) if count == len(present) else np.argsort(-sizes[first:], kind="stable")
    lesion_of = np.zeros(len(known), np.uint16)
    lesion_of[order + first] = np.arange(1, count + 1)
    lesions = lesion_of[numbers].reshape(regions.array.shape)
    return LabelMap(lesions, regions.grid), count != len(present)
