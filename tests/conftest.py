"""Shared by all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Hypothesis's deadline of 200 ms an example is a measure of how busy the machine is; CI has none either.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")

SLOWEST_FIRST = (
    "tests/training/test_experiment.py",
    "tests/live/test_orthanc.py",
    "tests/chain/test_chain.py",
    "tests/live/test_demo.py",
    "tests/chain/",
    "tests/training/test_own_plans.py",
    "tests/dicom/reading/test_pair_inspection.py",
    "tests/imaging/test_sites_on_bodies.py",
    "tests/imaging/test_comparison_on_bodies.py",
    "tests/dicom/results/test_real_sources.py",
)
"""Files that take longest, begun first: a worker that begins a long one last lets the others wait for it."""

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real and reference DICOM beside the checkout; absent on most machines."""
    if not SAMPLES.is_dir():
        pytest.skip(f"needs the sample data in {SAMPLES}, which is not part of this repository")
    return SAMPLES


def pytest_configure() -> None:
    """Let tests interrupt the programs that they start.

    A shell starts a job in the background with SIGINT ignored, and every program below it inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files before the others, which keep their order; for ``--no-loadscope-reorder``."""
    items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    ranks = (rank for rank, start in enumerate(SLOWEST_FIRST) if nodeid.startswith(start))
    return next(ranks, len(SLOWEST_FIRST))
