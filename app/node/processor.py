"""What the node asks of the chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from app.domain.outcome import NO_FACTS, NOTHING_EARLIER, EarlierResults, RunFacts, StudyOutcome

OnStage = Callable[[str], None]
"""Told the name of each stage of the chain as it begins."""


class StudyProcessor(Protocol):
    """The chain, with warm models. One study at a time; runs long; called in a worker thread."""

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierResults = NOTHING_EARLIER,
        facts: RunFacts = NO_FACTS,
    ) -> StudyOutcome:
        """Run the chain on one study. Every standing result of ``earlier`` is replaced or withdrawn.

        Args:
            paths: every instance of the study.
            out: an empty folder for SEG, SR, page and ``outcome.json``.
            revision: 1 for the first content of the study, one more for each late arrival.
            earlier: what the revisions before it have said.
            facts: what the node knows of the run, for the report.

        Raises:
            UnusableStudyError, RetryLaterError, MisconfiguredError: as :mod:`app.errors` says.
        """
        ...


ProcessorFactory = Callable[[OnStage], StudyProcessor]
"""Loads the models and returns a chain that tells its stages to the function given."""
