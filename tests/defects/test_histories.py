"""A study is compared with what is like it, and with nothing else."""

from __future__ import annotations

import pytest

from app.domain.analysis import Quantified
from app.domain.findings.findings import LinkKind, RecipCategory
from app.domain.findings.policy import QuantifyPolicy
from app.imaging import quantification
from app.imaging.quantification import StudyComparison
from app.imaging.registration.policy import AlignPolicy
from tests.defects.histories import HISTORIES, History
from tests.dicom.results import sources
from tests.imaging.test_comparison import Source


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.pet(tmp_path_factory.mktemp("pet"))


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_a_history_changes_nothing_stops_the_comparison_or_is_stated(
    history: History, template: Quantified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantification, "register_rigid", history.registration)
    today = history.today(template)
    source = Source(history.past(today))
    comparison = StudyComparison(QuantifyPolicy(), AlignPolicy(), source)
    found = comparison.compare(today.segmented, today.findings)
    if history.stopped:
        assert found.change is None
        assert history.stopped in "; ".join((found.no_change_because, *found.not_compared))
        return
    change = found.change
    assert change is not None, found.not_compared
    assert change.series_instance_uid == "baseline"
    assert change.psma_tv_percent == pytest.approx(history.percent)
    assert change.suv_max_percent == 0.0
    assert change.recip is not None
    assert [link.kind for link in change.links if link.kind in (LinkKind.NEW, LinkKind.VANISHED)] == []
    if history.told:
        assert history.told in "; ".join(change.remarks)
        assert change.recip.category is None
    else:
        assert change.remarks == ()
        assert change.recip.category is RecipCategory.STABLE_DISEASE
    assert len(found.not_compared) == len(source.results) - 1


def test_names_of_histories_are_unique() -> None:
    names = [history.name for history in HISTORIES]
    assert len(names) == len(set(names))
