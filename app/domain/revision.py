"""What earlier revisions of a study have said, which a later one replaces or withdraws.

A result can't be taken back from a PACS. So whatever a new revision says names what it takes the place of;
and where it gives no result at all, a notice withdraws the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.domain.analysis import Decision, SupersededReport


@dataclass(frozen=True)
class StandingResult:
    """A result of an earlier revision that nothing has replaced or withdrawn yet; its SR is on disk."""

    report: SupersededReport
    report_file: Path


@dataclass(frozen=True)
class EarlierResults:
    """What is known of a study's earlier revisions.

    Attributes:
        last_words: the latest report on each functional series, be it a result or a notice of withdrawal.
        standing: results that must be replaced or withdrawn.
    """

    last_words: tuple[SupersededReport, ...] = ()
    standing: tuple[StandingResult, ...] = ()


NOTHING_EARLIER = EarlierResults()


@dataclass(frozen=True)
class RunFacts:
    """What the node knows of a run beside its images.

    Attributes:
        begun_at: when this try began, with its zone.
        decisions: what the node decided before the chain began.
    """

    begun_at: datetime | None = None
    decisions: tuple[Decision, ...] = ()


NO_FACTS = RunFacts()
