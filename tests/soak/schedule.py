"""How long a soak is, and what happens in it when: by the seed alone."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

from tests.soak.disturbances import Disturbance, away_for_long, disturbances, in_words
from tests.soak.node import Retention

LAST_LIFE = 0.5
"""No restart after this share of the run: what leaks has the other half to show."""


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        lasts_s: how long the senders take; the account follows.
        restarts: in the first half, SIGKILL and SIGTERM in turns.
        rounds: how often each disturbance happens.
        longest_s: a disturbance lasts no longer.
        outage_s: one outage of the destinations that is long enough to be told of; 0 for none.
        patience_s: after the last study is sent all must have come out right within so many seconds.
    """

    studies: int
    senders: int
    seed: int
    lasts_s: float
    restarts: int
    rounds: int
    longest_s: float
    retention: Retention
    outage_s: float = 0.0
    patience_s: float = 240.0
    sample_s: float = 2.0
    scrape_s: float = 5.0


@dataclass(frozen=True)
class Happening:
    """Something that is done at a share of the run: a disturbance for some seconds, or a signal."""

    at: float
    disturbance: Disturbance | None = None
    lasts_s: float = 0.0
    signal: signal.Signals | None = None

    @property
    def words(self) -> str:
        if self.signal is not None:
            return self.signal.name
        return in_words(self.disturbance) if self.disturbance else ""


def happenings(scale: Scale, has_a_disk: bool) -> list[Happening]:
    """What is done when."""
    choice = random.Random(f"happenings {scale.seed}")  # noqa: S311  repeatable, not secret
    signals = (signal.SIGKILL, signal.SIGTERM)
    found = [
        Happening(LAST_LIFE * (number + choice.random()) / scale.restarts, signal=signals[number % 2])
        for number in range(scale.restarts)
    ]
    for _ in range(scale.rounds):
        for one in disturbances(has_a_disk):
            found.append(Happening(choice.random(), one, choice.uniform(0.2, scale.longest_s)))
    if scale.outage_s:
        found.append(Happening(choice.uniform(0.55, 0.8), away_for_long, scale.outage_s))
    return sorted(found, key=lambda one: one.at)
