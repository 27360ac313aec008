"""Lesions as DICOM SEG on the functional image's own grid (PS3.3 A.51, C.8.20).

One segment a lesion, largest first, empty frames left out. highdicom looks at every source and every slice:
it gets those that show a lesion, and what is said of the whole image is put in afterwards. It refuses a raw
NM multi-frame (its position sits in the Detector Information Sequence) and copies positions from headers: so
the sources that it gets are in-memory ones, which say where each slice of the *volume* lies, whatever order
and sign the file had.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    NuclearMedicineImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from app.dicom.results.context import (
    MANUFACTURER,
    ResultContext,
    blank_source,
    coded,
    finish,
    plain,
    reference,
)
from app.dicom.uids import ResultKind, derived_uid
from app.domain.analysis import Loaded
from app.domain.codes import ARTIFICIAL_INTELLIGENCE, MORPHOLOGICALLY_ABNORMAL_STRUCTURE, NEOPLASM, SITES
from app.domain.volume import Grid, LabelMap

POSITION_DECIMALS = 9
"""Rounds float noise (-199.99999999999997) away; a billionth of a millimetre moves nothing."""

MULTI_FRAME_SOP_CLASSES = (
    NuclearMedicineImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)
"""Sources whose slices are frames, of one instance or of those of a concatenation."""

LESION_RGB = (230, 25, 45)
"""Recommended display colour of every lesion, as on the page."""


def write_segmentation(context: ResultContext) -> Dataset | None:
    """The SEG of an analysis; ``None`` when there is no lesion (an empty SEG hangs viewers).

    Raises:
        ValueError: slices and grid of the functional image don't fit together.
    """
    labels = context.quantified.segmented.labels
    if labels.count == 0:
        return None
    shown = slices_with_lesions(labels)
    segmentation = hd.seg.Segmentation(
        source_images=source_images(context, shown),
        pixel_array=labels.array[shown],
        segmentation_type=context.policy.seg_type.value,
        segment_descriptions=_segments(context, labels.count),
        omit_empty_frames=True,
        content_label="PSMA_LESIONS",
        content_description=f"PSMA lesions, {context.model.role.value}, research use only",
        **context.instance(ResultKind.SEG, "PSMA lesions"),
    )
    finish(segmentation, context)
    _fix_dimension_organization(segmentation, context.identity)
    _restore_spacing(segmentation, labels.grid)
    if is_multi_frame(context):
        _restore_frames(segmentation, context.loaded, shown)
    else:
        _refer_to_every_slice(segmentation, context)
    is_split = is_multi_frame(context) and len(set(context.loaded.slice_sop_instance_uids)) > 1
    if is_split or context.loaded.joined:
        _refer_to_every_instance(segmentation, context.loaded)
    return segmentation


def slices_with_lesions(labels: LabelMap) -> NDArray[np.intp]:
    """By their numbers."""
    return np.flatnonzero(labels.array.any(axis=(1, 2)))


def source_images(context: ResultContext, shown: NDArray[np.intp]) -> list[Dataset]:
    """In-memory sources of these slices of the volume, in order: one a slice, or one multi-frame.

    Raises:
        ValueError: the number of slices differs from the grid's.
    """
    grid, uids = context.loaded.uptake.grid, context.loaded.slice_sop_instance_uids
    if len(uids) != grid.shape[0]:
        raise ValueError(f"found {len(uids)} source slices, expected the grid's {grid.shape[0]}")
    base = _placed_source(context, grid)
    if is_multi_frame(context):
        return [_with_functional_groups(base, grid, shown)]
    sources = []
    for z in shown:
        source = Dataset()
        source.update(base)  # the same elements; of its own are
        source.add_new(Tag("SOPInstanceUID"), "UI", uids[z])
        source.add_new(Tag("ImagePositionPatient"), "DS", _position(grid, z))
        sources.append(source)
    return sources


def is_multi_frame(context: ResultContext) -> bool:
    """Whether the slices are frames, of one instance or of several."""
    return context.header.SOPClassUID in MULTI_FRAME_SOP_CLASSES


def _placed_source(context: ResultContext, grid: Grid) -> Dataset:
    source = blank_source(context)
    _, source.Rows, source.Columns = grid.shape
    column_mm, row_mm, slice_mm = grid.spacing_mm
    source.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    source.SliceThickness = _decimal(slice_mm)
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    source.ImageOrientationPatient = [_decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    return source


def _with_functional_groups(base: Dataset, grid: Grid, shown: NDArray[np.intp]) -> Dataset:
    """A multi-frame whose frame ``i + 1`` is the volume's slice ``shown[i]``."""
    source = Dataset()
    source.update(base)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = source.PixelSpacing, source.SliceThickness
    orientation.ImageOrientationPatient = source.ImageOrientationPatient
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    frames = []
    for z in shown:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = _position(grid, z)
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    source.NumberOfFrames = len(frames)
    source.SharedFunctionalGroupsSequence = Sequence([shared])
    source.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return source


def _position(grid: Grid, z: int | np.intp) -> list[str]:
    return [_decimal(value) for value in grid.to_lps(np.array([[0.0, 0.0, float(z)]]))[0]]


def _decimal(value: float) -> str:
    return str(format_number_as_ds(round(float(value), POSITION_DECIMALS) + 0.0))


def _segments(context: ResultContext, count: int) -> list[hd.seg.SegmentDescription]:
    algorithm = _algorithm(context)
    colour = hd.color.CIELabColor.from_rgb(*LESION_RGB)
    segments = []
    sites = [lesion.site for lesion in context.quantified.findings.lesions]
    for number, site in zip(range(1, count + 1), sites, strict=True):
        region = SITES.get(site)
        tracking_id, tracking_uid = context.tracking(number)
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=tracking_id,
                segmented_property_category=coded(MORPHOLOGICALLY_ABNORMAL_STRUCTURE),
                segmented_property_type=coded(NEOPLASM),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=tracking_uid,
                tracking_id=tracking_id,
                display_color=colour,
                anatomic_regions=None if region is None else [coded(region)],
            )
        )
    return segments


def _algorithm(context: ResultContext) -> hd.AlgorithmIdentificationSequence:
    model = context.model
    return hd.AlgorithmIdentificationSequence(
        name=plain(f"{model.role.value} {model.model_id}")[:64],
        family=coded(ARTIFICIAL_INTELLIGENCE),
        version=plain(model.version)[:64],
        source=MANUFACTURER,
        parameters={
            "weights_sha256": model.weights_sha256,
            "software_version": plain(context.provenance.software_version),
            "settings_digest": context.provenance.settings_digest,
        },
    )


def _fix_dimension_organization(segmentation: Dataset, identity: str) -> None:
    """highdicom draws this UID at random."""
    uid = derived_uid(identity, "dimension organization")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _restore_spacing(segmentation: Dataset, grid: Grid) -> None:
    """That of the image's slices, as highdicom finds it, not of those that show a lesion."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    positions = [[float(value) for value in _position(grid, z)] for z in range(grid.shape[0])]
    spacing, _ = get_volume_positions(positions, cosines)
    measures = shared.PixelMeasuresSequence[0]
    measures.pop("SpacingBetweenSlices", None)
    if spacing is not None:
        measures.SpacingBetweenSlices = format_number_as_ds(spacing)


def _restore_frames(segmentation: Dataset, loaded: Loaded, shown: NDArray[np.intp]) -> None:
    """The in-memory source counts the slices that show a lesion; references must name each file and its own
    frames."""
    sources = {
        id(source): source  # one for all lesions in a slice
        for frame in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence", [])
        for source in derivation.SourceImageSequence
        if "ReferencedFrameNumber" in source
    }
    for source in sources.values():
        z = shown[int(source.ReferencedFrameNumber) - 1]
        source.ReferencedFrameNumber = loaded.slice_frame_numbers[z]
        source.ReferencedSOPInstanceUID = loaded.slice_sop_instance_uids[z]


def _refer_to_every_slice(segmentation: Dataset, context: ResultContext) -> None:
    """Source Image Sequence and Common Instance Reference: all of the image, not only what shows a lesion."""
    uids, series = context.loaded.slice_sop_instance_uids, Dataset()
    images = [reference(context.header.SOPClassUID, uid) for uid in uids]
    series.SeriesInstanceUID = context.functional.series_instance_uid
    series.ReferencedInstanceSequence = images
    segmentation.SourceImageSequence, segmentation.ReferencedSeriesSequence = images, [series]


def _refer_to_every_instance(segmentation: Dataset, loaded: Loaded) -> None:
    """Common Instance Reference (PS3.3 C.12.2): highdicom knows one source instance."""
    used = set(loaded.slice_sop_instance_uids)
    items = []
    for series in loaded.functional_series:
        item, images = Dataset(), []
        once = {each.sop_instance_uid: each for each in series.instances if each.sop_instance_uid in used}
        for instance in once.values():
            image = Dataset()
            image.ReferencedSOPClassUID = instance.sop_class_uid
            image.ReferencedSOPInstanceUID = instance.sop_instance_uid
            images.append(image)
        item.ReferencedInstanceSequence = Sequence(images)
        item.SeriesInstanceUID = series.series_instance_uid
        items.append(item)
    segmentation.ReferencedSeriesSequence = Sequence(items)
