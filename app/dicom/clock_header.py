"""What a header says of when its image was made, beside the times that its numbers hang on."""

from __future__ import annotations

from pydicom import Dataset

from app.dicom import header_values as header
from app.domain.clocks import Clocks, lag_s


def clocks(dataset: Dataset) -> Clocks:
    """Dates and times of study, series, acquisition, content and instance."""
    acquired = header.acquired_at(dataset)
    content = header.date_and_time(dataset, "ContentDate", "ContentTime")
    created = header.date_and_time(dataset, "InstanceCreationDate", "InstanceCreationTime")
    return Clocks(
        acquired_at=acquired,
        study=header.date_and_time(dataset, "StudyDate", "StudyTime"),
        series=header.date_and_time(dataset, "SeriesDate", "SeriesTime"),
        content_lag_s=lag_s(acquired, content),
        creation_lag_s=lag_s(acquired, created),
    )
