"""SEG, SR and page as they come back from the PACS (C-FIND, C-GET), read as any other program would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from app.demo.pacs import Pacs
from app.demo.processes import LOOPBACK, is_listening
from app.dicom import header_values as header
from app.domain.codes import QUALITATIVE_EVALUATIONS
from app.domain.volume import FloatArray, Grid, LabelMap
from app.errors import RetryLaterError

VIEWER_AE_TITLE = "DEMO_VIEWER"
SUCCESS = 0x0000

RESULT_CLASSES = (
    SegmentationStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)


@dataclass(frozen=True)
class ArchivedSeries:
    """A series as the PACS lists it."""

    series_instance_uid: str
    modality: str
    description: str


def find_series(pacs: Pacs, study_instance_uid: str) -> tuple[ArchivedSeries, ...]:
    """The series of a study that the PACS holds. Raises RetryLaterError when it doesn't answer."""
    query = _series_query(study_instance_uid)
    query.Modality = query.SeriesDescription = ""
    with _association(pacs, StudyRootQueryRetrieveInformationModelFind) as association:
        answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        found = [identifier for _, identifier in answers if identifier is not None]
    return tuple(
        ArchivedSeries(
            str(item.SeriesInstanceUID), str(item.get("Modality", "")), str(item.get("SeriesDescription", ""))
        )
        for item in found
    )


def get_series(pacs: Pacs, study_instance_uid: str, series_instance_uid: str) -> tuple[Dataset, ...]:
    """Every instance of a series of results, each with its file meta information.

    Raises RetryLaterError when the PACS doesn't give all of them.
    """
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        received.append(dataset)
        return SUCCESS

    query = _series_query(study_instance_uid, series_instance_uid)
    with _association(pacs, StudyRootQueryRetrieveInformationModelGet, keep) as association:
        answers = association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)
        statuses = [status.get("Status") for status, _ in answers]
    if not statuses or statuses[-1] != SUCCESS:
        raise RetryLaterError(f"{pacs.name} answered C-GET with status {statuses[-1:]}, expected 0x0000")
    return tuple(received)


def _series_query(study_instance_uid: str, series_instance_uid: str = "") -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_instance_uid, series_instance_uid
    return query


@contextmanager
def _association(pacs: Pacs, model: str, on_store: Any = None) -> Iterator[Any]:
    if not is_listening(pacs.port):  # before associating: pynetdicom leaves a refused socket unclosed
        raise RetryLaterError(f"{pacs.name} does not listen on port {pacs.port}")
    entity = AE(ae_title=VIEWER_AE_TITLE)
    entity.add_requested_context(model)
    roles, handlers = [], []
    if on_store is not None:
        for sop_class in RESULT_CLASSES:
            entity.add_requested_context(sop_class)
            roles.append(build_role(sop_class, scp_role=True))
        handlers.append((evt.EVT_C_STORE, on_store))
    association = entity.associate(
        LOOPBACK, pacs.port, ae_title=pacs.ae_title, ext_neg=roles, evt_handlers=handlers
    )
    if not association.is_established:
        raise RetryLaterError(f"{pacs.name} does not accept an association on port {pacs.port}")
    try:
        yield association
    finally:
        association.release()


RESULT_MODALITIES = ("SEG", "SR", "OT")
"""SEG, SR and page (a secondary capture has modality OT)."""

SAME_PLACE_VOXELS = 0.05
"""A SEG frame lies on the image's own grid: further off is a mistake, not rounding."""

MEASUREMENT_GROUP, TRACKING_IDENTIFIER, ALGORITHM_NAME, DERIVATION = "125007", "112039", "111001", "121401"
"""DCM code values (PS3.16 TID 1411, 1419, 4019)."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """The node's results on one study. ``segmentation`` is ``None`` when no lesion was found."""

    segmentation: Dataset | None
    report: Dataset
    page: Dataset


@dataclass(frozen=True)
class ReportedLesion:
    """One measurement group: its tracking identifier, and each number by its code meaning."""

    tracking_identifier: str
    numbers: dict[str, tuple[float, str]]
    """Code meaning to value and unit code."""


@dataclass(frozen=True)
class Statement:
    """A sentence of the report; ``about`` is what it is called there (Summary, Prior, Decision, …)."""

    about: str
    text: str


def result_series(pacs: Pacs, study_instance_uid: str) -> dict[str, str]:
    """Modality to Series Instance UID of the node's results that the PACS holds so far."""
    found = find_series(pacs, study_instance_uid)
    return {item.modality: item.series_instance_uid for item in found if item.modality in RESULT_MODALITIES}


def fetch_results(pacs: Pacs, study_instance_uid: str) -> StudyResults:
    """Retrieve the results of a study.

    Raises:
        LookupError: report or page are not there, or a series holds more than one instance.
        RetryLaterError: the PACS does not answer.
    """
    series = result_series(pacs, study_instance_uid)
    missing = {"SR", "OT"} - series.keys()
    if missing:
        raise LookupError(f"the PACS has no {' and no '.join(sorted(missing))} series of this study")
    by_modality = {}
    for modality, uid in series.items():
        instances = get_series(pacs, study_instance_uid, uid)
        if len(instances) != 1:
            raise LookupError(f"the {modality} series has {len(instances)} instances, expected one")
        by_modality[modality] = instances[0]
    return StudyResults(by_modality.get("SEG"), by_modality["SR"], by_modality["OT"])


def read_labels(segmentation: Dataset | None, grid: Grid) -> LabelMap:
    """The lesions of a BINARY SEG as labels on ``grid``: label n is segment n.

    Frames are placed by their positions, so the order of the slices makes no difference.

    Raises:
        ValueError: a frame does not lie on the grid.
    """
    labels = np.zeros(grid.shape, dtype=np.uint16)
    if segmentation is None:
        return LabelMap(labels, grid)
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    groups = segmentation.PerFrameFunctionalGroupsSequence
    for frame, group in zip(frames, groups, strict=True):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        labels[_slice_index(grid, position, frame.shape)][frame > 0] = number
    return LabelMap(labels, grid)


def _slice_index(grid: Grid, position_mm: FloatArray, shape: tuple[int, ...]) -> int:
    index = grid.to_index(position_mm)[0]
    z = int(np.rint(index[2]))
    off = np.abs(index - [0.0, 0.0, z]).max()
    if off > SAME_PLACE_VOXELS or not 0 <= z < grid.shape[0] or shape != grid.shape[1:]:
        raise ValueError(f"a SEG frame lies at index {np.round(index, 2)}, expected (0, 0, a slice)")
    return z


def reported_lesions(report: Dataset) -> tuple[ReportedLesion, ...]:
    """Every measurement group of an SR (TID 1411) that has a tracking identifier."""
    groups = (item for item in _content_items(report) if _concept(item) == MEASUREMENT_GROUP)
    lesions = []
    for group in groups:
        items = list(group.get("ContentSequence", []))
        names = [str(item.TextValue) for item in items if _concept(item) == TRACKING_IDENTIFIER]
        numbers = {}
        for item in items:
            if item.ValueType == "NUM" and item.get("MeasuredValueSequence"):
                measured = item.MeasuredValueSequence[0]
                unit = header.code(measured, "MeasurementUnitsCodeSequence")
                meaning = str(item.ConceptNameCodeSequence[0].CodeMeaning)
                numbers[_label(item, meaning)] = (float(measured.NumericValue), unit.value if unit else "")
        lesions += [ReportedLesion(name, numbers) for name in names]
    return tuple(lesions)


def statements(report: Dataset) -> tuple[Statement, ...]:
    """What an SR says in words, in its order: summary, model and prior, decisions."""
    containers = (item for item in _content_items(report) if _concept(item) == QUALITATIVE_EVALUATIONS.value)
    return tuple(
        Statement(str(item.ConceptNameCodeSequence[0].CodeMeaning), str(item.TextValue))
        for container in containers
        for item in container.get("ContentSequence", [])
        if item.ValueType == "TEXT"
    )


def algorithm_name(report: Dataset) -> str:
    """Role and id of the model that an SR names, as in ``M4 psma-m4``; empty when it names none."""
    names = (str(item.TextValue) for item in _content_items(report) if _concept(item) == ALGORITHM_NAME)
    return next(names, "")


def _label(item: Dataset, meaning: str) -> str:
    """A measurement with its derivation: ``SUVbw`` alone would name maximum, mean and peak alike."""
    for modifier in item.get("ContentSequence", []):
        if modifier.get("ValueType") == "CODE" and _concept(modifier) == DERIVATION:
            return f"{meaning} {modifier.ConceptCodeSequence[0].CodeMeaning}"
    return meaning


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _content_items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _content_items(child)
