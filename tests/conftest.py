"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real and reference DICOM beside the checkout; absent on most machines."""
    if not SAMPLES.is_dir():
        pytest.skip(f"needs the sample data in {SAMPLES}, which is not part of this repository")
    return SAMPLES
