"""Results of every kind, for the peers that read them."""

from __future__ import annotations

import pytest

from tests.peers.results import Case, make_cases


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every kind of result by its name."""
    return {case.name: case for case in make_cases(tmp_path_factory.mktemp("results"))}
