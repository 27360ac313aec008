"""Reading results back as a stranger would."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from app.demo.results import algorithm_name, read_labels, reported_lesions, statements
from app.domain.codes import QUALITATIVE_EVALUATIONS
from app.domain.study import Code
from app.domain.volume import Grid

DESCENDING = Grid(
    (3, 2, 2),
    np.array([[4.0, 0, 0, -10], [0, 4.0, 0, -20], [0, 0, -5.0, 100], [0, 0, 0, 1.0]]),
)


class Segmentation(Dataset):
    """A SEG as far as its reader looks."""

    frames: np.ndarray

    @property
    def pixel_array(self) -> np.ndarray:
        return self.frames


def segmentation(*placed: tuple[int, float]) -> Segmentation:
    """One frame a ``(segment number, z in mm)``, full of ones."""
    found = Segmentation()
    found.Rows = found.Columns = 2
    groups = []
    for number, z in placed:
        group, segment, plane = Dataset(), Dataset(), Dataset()
        segment.ReferencedSegmentNumber = number
        plane.ImagePositionPatient = [-10, -20, z]
        group.SegmentIdentificationSequence = Sequence([segment])
        group.PlanePositionSequence = Sequence([plane])
        groups.append(group)
    found.PerFrameFunctionalGroupsSequence = Sequence(groups)
    found.frames = np.ones((len(placed), 2, 2), np.uint8)
    return found


def test_frames_lie_where_their_positions_say_in_any_order() -> None:
    labels = read_labels(segmentation((2, 90.0), (1, 100.0)), DESCENDING)
    assert labels.array[:, 0, 0].tolist() == [1, 0, 2]


def test_a_single_frame_is_read_too() -> None:
    single = segmentation((1, 95.0))
    single.frames = single.frames[0]
    assert read_labels(single, DESCENDING).array[:, 1, 1].tolist() == [0, 1, 0]


def test_no_segmentation_means_no_lesion() -> None:
    assert read_labels(None, DESCENDING).count == 0


@pytest.mark.parametrize("z", [97.0, 105.0, 85.0])
def test_a_frame_off_the_grid_is_refused(z: float) -> None:
    with pytest.raises(ValueError, match="SEG frame lies at"):
        read_labels(segmentation((1, z)), DESCENDING)


def item(value_type: str, name: Code, **content: object) -> Dataset:
    found = Dataset()
    found.ValueType = value_type
    found.ConceptNameCodeSequence = Sequence([coded(name.value, name.meaning)])
    for keyword, value in content.items():
        setattr(found, keyword, value)
    return found


def coded(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def unit_of(value: str) -> Dataset:
    """Of more than 16 characters it is a Long Code Value (PS3.3 8.1)."""
    if len(value) <= 16:
        return coded(value, value)
    code = coded("", value)
    del code.CodeValue
    code.LongCodeValue = value
    return code


def number(value: float, unit: str, derivation: str = "") -> Dataset:
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = Sequence([unit_of(unit)])
    found = item("NUM", Code("1", "DCM", "SUVbw"), MeasuredValueSequence=Sequence([measured]))
    if derivation:
        how = item("CODE", Code("121401", "DCM", "Derivation"))
        how.ConceptCodeSequence = Sequence([coded("2", derivation)])
        found.ContentSequence = Sequence([how])
    return found


def test_a_report_gives_lesions_model_and_statements() -> None:
    group = item("CONTAINER", Code("125007", "DCM", "Measurement Group"))
    group.ContentSequence = Sequence(
        [
            item("TEXT", Code("112039", "DCM", "Tracking Identifier"), TextValue="Lesion 1"),
            item("TEXT", Code("111001", "DCM", "Algorithm Name"), TextValue="M4 small"),
            number(12.5, "g/ml{SUVbw}", "Maximum"),
            number(7.5, "g/ml{SUVbw}", "Mean"),
            number(5.0, "g/ml{SUVlbm(Janma)}", "Peak"),
        ]
    )
    words = item("CONTAINER", QUALITATIVE_EVALUATIONS)
    words.ContentSequence = Sequence([item("TEXT", Code("121111", "DCM", "Summary"), TextValue="1 lesion")])
    report = Dataset()
    report.ContentSequence = Sequence([group, words])

    (lesion,) = reported_lesions(report)
    assert lesion.tracking_identifier == "Lesion 1"
    assert lesion.numbers == {
        "SUVbw Maximum": (12.5, "g/ml{SUVbw}"),
        "SUVbw Mean": (7.5, "g/ml{SUVbw}"),
        "SUVbw Peak": (5.0, "g/ml{SUVlbm(Janma)}"),
    }
    assert algorithm_name(report) == "M4 small"
    assert [(each.about, each.text) for each in statements(report)] == [("Summary", "1 lesion")]
