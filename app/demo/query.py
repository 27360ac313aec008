"""Asking a PACS what it holds, and getting it: C-FIND and C-GET, study root (PS3.4 C.6.2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = query.Modality = query.SeriesDescription = ""
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

    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = series_instance_uid
    with _association(pacs, StudyRootQueryRetrieveInformationModelGet, keep) as association:
        answers = association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)
        statuses = [status.get("Status") for status, _ in answers]
    if not statuses or statuses[-1] != SUCCESS:
        raise RetryLaterError(f"{pacs.name} answered C-GET with status {statuses[-1:]}, expected 0x0000")
    return tuple(received)


@contextmanager
def _association(pacs: Pacs, model: str, on_store: Any = None) -> Iterator[Any]:
    if not is_listening(pacs.port):  # asked first: pynetdicom leaves a refused socket unclosed
        raise RetryLaterError(f"{pacs.name} does not listen on port {pacs.port}")
    entity = AE(ae_title=VIEWER_AE_TITLE)
    entity.add_requested_context(model)
    roles = []
    if on_store is not None:
        for sop_class in RESULT_CLASSES:
            entity.add_requested_context(sop_class)
            roles.append(build_role(sop_class, scp_role=True))
    handlers = [(evt.EVT_C_STORE, on_store)] if on_store is not None else []
    association = entity.associate(
        LOOPBACK, pacs.port, ae_title=pacs.ae_title, ext_neg=roles, evt_handlers=handlers
    )
    if not association.is_established:
        raise RetryLaterError(f"{pacs.name} does not accept an association on port {pacs.port}")
    try:
        yield association
    finally:
        association.release()
