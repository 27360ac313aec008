"""Shared by all tests."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Hypothesis's deadline of 200 ms an example is a measure of how busy the machine is; CI has none either.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")

TOGETHER: tuple[tuple[str, ...], ...] = (
    ("tests/training/test_experiment.py",),
    ("tests/live/test_orthanc.py",),
    ("tests/chain/",),  # one patient's files
    ("tests/live/test_demo.py",),
    ("tests/node/postgres/", "tests/deployment/test_restore.py", "tests/legacy/"),  # one Postgres server
    ("tests/phantom/", "tests/cohort/test_truth_forms.py"),  # two patients
    ("tests/validation/test_report.py",),
    ("tests/training/test_own_plans.py",),
    ("tests/peers/",),  # results of every kind
    ("tests/imaging/test_sites_on_bodies.py", "tests/imaging/test_comparison_on_bodies.py"),  # one patient
    ("tests/training/test_trainer.py",),
    ("tests/defects/test_defects.py",),
    ("tests/dicom/reading/test_pair_inspection.py",),
    ("tests/dicom/results/test_real_sources.py",),
)
"""Files that share what takes long to make run in one worker, one after the other; so does each other file.

Those that take longest are begun first: a worker that begins a long one last lets the others wait for it.
"""

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
    """Groups in their order, then the others in theirs; for ``--no-loadscope-reorder``."""
    items.sort(key=lambda item: _rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile``, for which the files of a group are one."""
    from xdist.scheduler import LoadFileScheduling

    class LoadGroups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            rank = _rank(nodeid)
            return TOGETHER[rank][0] if rank < len(TOGETHER) else super()._split_scope(nodeid)

    return LoadGroups(config, log) if config.getvalue("dist") == "loadfile" else None


def _rank(nodeid: str) -> int:
    ranks = (rank for rank, starts in enumerate(TOGETHER) if nodeid.startswith(starts))
    return next(ranks, len(TOGETHER))
