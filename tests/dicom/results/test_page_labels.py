"""Numbers beside lesions: none hides another, and each stays within reach of its lesion."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from app.dicom.results.page.views import LabelAnchor, placed

SIZE, VIEW = (9.0, 15.0), (240.0, 670.0)
anchors = st.builds(
    LabelAnchor,
    x=st.floats(0, VIEW[0]),
    y=st.floats(10, VIEW[1] - 10),
    reach=st.floats(4, 20),
    characters=st.integers(1, 2),
)


@given(lesions=st.lists(anchors, max_size=12))
def test_no_number_hides_another(lesions: list[LabelAnchor]) -> None:
    labels = placed(lesions, SIZE, VIEW)
    assert len(labels) == len(lesions)
    for one, other in combinations(labels, 2):
        assert not one.overlaps(other, SIZE[1])


@given(lesion=anchors)
def test_a_number_alone_stands_at_its_lesions_right(lesion: LabelAnchor) -> None:
    [label] = placed([lesion], SIZE, VIEW)
    assert (label.x, label.y, label.moved) == (lesion.x + lesion.reach, lesion.y, False)


def test_twelve_lesions_in_one_place_of_the_lateral_view_all_keep_a_number() -> None:
    lesions = [LabelAnchor(120.0, 300.0, 8.0, 1 if n < 10 else 2) for n in range(1, 13)]
    labels = placed(lesions, SIZE, VIEW)
    assert len({(label.x, label.y) for label in labels}) == 12
    assert labels[-1].moved
    assert max(abs(label.y - 300.0) for label in labels) < 7 * SIZE[1]
