"""Activities hold for the start of the scan, whatever the image is decay corrected to."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from app.domain.analysis import Loaded
from app.domain.dose import with_activity_at_scan_start
from app.domain.findings.findings import ActivityInstant, Findings, InstantKind
from app.domain.findings.measurements import measure
from tests.dicom.results import sources

INJECTED = datetime(2026, 3, 4, 8, 0)
SCANNED = INJECTED + timedelta(hours=1)
HALF_LIFE_S = 4062.6
AN_HOUR_LEFT = 2.0 ** (-3600.0 / HALF_LIFE_S)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, Loaded]:
    quantified = sources.pet(tmp_path_factory.mktemp("pet"))
    loaded = quantified.segmented.aligned.loaded
    return measure(quantified.segmented.labels, loaded.uptake, loaded.activity), loaded


def timed(loaded: Loaded, reference: datetime | None, acquired: datetime | None = SCANNED) -> Loaded:
    """Decay corrected to ``reference``."""
    used = replace(
        loaded.quantification,
        administered_at=INJECTED if reference is not None else None,
        reference_datetime=reference,
        half_life_s=HALF_LIFE_S,
    )
    functional = replace(loaded.selection.functional, acquired_at=acquired)
    return replace(loaded, quantification=used, selection=replace(loaded.selection, functional=functional))


def ratio(found: Findings, before: Findings) -> float:
    """Of every activity alike."""
    pairs = [
        (now, then)
        for lesion, earlier in zip(found.lesions, before.lesions, strict=True)
        for now, then in (
            (lesion.activity_mbq, earlier.activity_mbq),
            (lesion.concentration_max_bqml, earlier.concentration_max_bqml),
            (lesion.concentration_mean_bqml, earlier.concentration_mean_bqml),
        )
    ]
    pairs.append((found.burden.activity_mbq, before.burden.activity_mbq))
    ratios = [now / then for now, then in pairs if now is not None and then is not None]
    assert len(ratios) == len(pairs)
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    return ratios[0]


def test_activity_of_an_image_corrected_to_the_start_stays(scan: tuple[Findings, Loaded]) -> None:
    found = with_activity_at_scan_start(scan[0], timed(scan[1], SCANNED))
    assert found.activity_instant == ActivityInstant(InstantKind.SCAN_START, SCANNED)
    assert ratio(found, scan[0]) == 1.0


def test_activity_of_an_image_corrected_to_the_injection_is_brought_to_the_start(
    scan: tuple[Findings, Loaded],
) -> None:
    found = with_activity_at_scan_start(scan[0], timed(scan[1], INJECTED))
    assert found.activity_instant == ActivityInstant(InstantKind.SCAN_START, SCANNED)
    assert ratio(found, scan[0]) == pytest.approx(AN_HOUR_LEFT)


def test_activity_of_an_image_corrected_to_an_instant_before_its_first_bed_stays(
    scan: tuple[Findings, Loaded],
) -> None:
    """Series Time, to which START refers, is due some minutes before the first acquisition."""
    begun = SCANNED - timedelta(minutes=9)
    found = with_activity_at_scan_start(scan[0], timed(scan[1], begun))
    assert found.activity_instant == ActivityInstant(InstantKind.SCAN_START, begun)
    assert ratio(found, scan[0]) == 1.0


def test_the_middle_of_an_uncorrected_acquisition_is_brought_to_its_start(
    scan: tuple[Findings, Loaded],
) -> None:
    found = with_activity_at_scan_start(scan[0], timed(scan[1], SCANNED + timedelta(hours=1)))
    assert found.activity_instant == ActivityInstant(InstantKind.SCAN_START, SCANNED)
    assert ratio(found, scan[0]) == pytest.approx(1.0 / AN_HOUR_LEFT)


@pytest.mark.parametrize(
    ("reference", "at"), [(INJECTED, INJECTED), (None, None)], ids=["no scan time", "no time at all"]
)
def test_without_its_times_it_holds_at_the_injection(
    scan: tuple[Findings, Loaded], reference: datetime | None, at: datetime | None
) -> None:
    acquired = None if reference is not None else SCANNED
    found = with_activity_at_scan_start(scan[0], timed(scan[1], reference, acquired))
    assert found.activity_instant == ActivityInstant(InstantKind.INJECTION, at)
    assert ratio(found, scan[0]) == 1.0


@pytest.mark.parametrize(
    ("reference", "kind"), [(INJECTED, InstantKind.INJECTION), (SCANNED, InstantKind.SCAN_START)]
)
def test_without_a_half_life_it_stays_where_it_is(
    scan: tuple[Findings, Loaded], reference: datetime, kind: InstantKind
) -> None:
    loaded = timed(scan[1], reference)
    undecayed = replace(loaded, quantification=replace(loaded.quantification, half_life_s=None))
    found = with_activity_at_scan_start(scan[0], undecayed)
    assert found.activity_instant == ActivityInstant(kind, reference)
    assert ratio(found, scan[0]) == 1.0


def test_without_an_acquisition_time_the_reference_is_the_scan(scan: tuple[Findings, Loaded]) -> None:
    found = with_activity_at_scan_start(scan[0], timed(scan[1], SCANNED, acquired=None))
    assert found.activity_instant == ActivityInstant(InstantKind.SCAN_START, SCANNED)
    assert ratio(found, scan[0]) == 1.0


def test_an_image_that_is_suv_alone_has_no_instant(scan: tuple[Findings, Loaded]) -> None:
    loaded = replace(timed(scan[1], SCANNED), activity=None)
    assert with_activity_at_scan_start(scan[0], loaded) == scan[0]


def test_suv_does_not_depend_on_it(scan: tuple[Findings, Loaded]) -> None:
    found = with_activity_at_scan_start(scan[0], timed(scan[1], INJECTED))
    assert [x.suv_mean for x in found.lesions] == [x.suv_mean for x in scan[0].lesions]
    assert [x.tl_psma for x in found.lesions] == [x.tl_psma for x in scan[0].lesions]
