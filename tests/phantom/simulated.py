"""Simulated patients for tests that only look at them."""

from __future__ import annotations

from functools import lru_cache

from app.phantom.centres import Centre
from app.phantom.patient import SimulatedPatient, simulate_patient


@lru_cache(maxsize=2)
def simulated(number: int, centre: Centre) -> SimulatedPatient:
    """That patient; the last two are remembered, for the tests that follow."""
    return simulate_patient(number, centre)
