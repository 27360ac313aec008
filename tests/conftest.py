"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# Hypothesis's deadline of 200 ms an example is a measure of how busy the machine is; CI has none either.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real and reference DICOM beside the checkout; absent on most machines."""
    if not SAMPLES.is_dir():
        pytest.skip(f"needs the sample data in {SAMPLES}, which is not part of this repository")
    return SAMPLES
