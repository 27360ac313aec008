"""Whose turn it is: which of the studies that wait for a worker goes first, and what stands before another.

The lower rank goes first; within a rank the senders take turns, each with its oldest. What has waited for
``OVERDUE`` goes when three in a row have overtaken it, so nothing waits for ever, and what is urgent waits
for one such study at most beside the one under way.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from app.node.records.states import Rank, RunKey, Turn

OVERDUE = timedelta(hours=1)

OVERTAKEN_AT_MOST = 3

REMEMBERED = 100
"""Starts looked back at, to see which sender was served last."""


def in_turn(waiting: Sequence[Turn], started: Sequence[Turn], now: datetime) -> Iterator[Turn]:
    """``waiting`` in the order in which workers take them, if nothing else comes.

    Args:
        waiting: those whose time has come.
        started: the last ones to go to a worker, the latest first.
        now: aware.
    """
    lines: dict[tuple[int, str], deque[Turn]] = defaultdict(deque)
    for turn in sorted(waiting, key=lambda item: (item.queued_at, item.key.revision)):
        lines[turn.rank, turn.sender].append(turn)
    passed = [turn.rank for turn in reversed(started)]
    served = {turn.sender: number for number, turn in enumerate(reversed(started))}
    for number in itertools.count(len(started)):
        if not lines:
            return
        oldest = min(lines, key=lambda line: lines[line][0].queued_at)
        first = min(lines, key=lambda line: (line[0], served.get(line[1], -1), lines[line][0].queued_at))
        overtaken = [rank < oldest[0] for rank in passed[-OVERTAKEN_AT_MOST:]]
        is_overdue = now - lines[oldest][0].queued_at > OVERDUE
        line = oldest if is_overdue and sum(overtaken) == OVERTAKEN_AT_MOST else first
        turn = lines[line].popleft()
        if not lines[line]:
            del lines[line]
        served[turn.sender] = number
        passed.append(turn.rank)
        yield turn


def places(waiting: Sequence[Turn], started: Sequence[Turn], now: datetime) -> dict[RunKey, str]:
    """Of each that waits for a worker: its place in the queue and why, in words."""
    before: Counter[int] = Counter()
    found = {}
    for number, turn in enumerate(in_turn(waiting, started, now), start=1):
        ranks = ", ".join(f"{count} {Rank(rank).name.lower()}" for rank, count in sorted(before.items()))
        own = Rank(turn.rank).name.lower()
        found[turn.key] = f"number {number} in the queue ({own}{f', after {ranks}' if ranks else ''})"
        before[turn.rank] += 1
    return found
