"""What processes a study: the chain, of which each worker has a warm one, and the judge of headers."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from app.domain.outcome import EarlierRevisions, OnStage, RunContext, StudyOutcome


class StudyProcessor(Protocol):
    """The chain, with warm models. One study at a time; runs long; called in a worker thread."""

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierRevisions = EarlierRevisions(),
        context: RunContext = RunContext(),
    ) -> StudyOutcome:
        """Run the chain on one study. Every standing result of ``earlier`` is replaced or withdrawn.

        Args:
            paths: every instance of the study.
            out: an empty folder for SEG, SR, page and ``outcome.json``.
            revision, earlier: which one this is, and what a PACS has of those before it.
            context: what the node knows of the run, for the report.

        Raises:
            UnusableStudyError, RetryLaterError, MisconfiguredError: as :mod:`app.errors` says.
        """
        ...


Judge = Callable[[Sequence[Path], Path, int, EarlierRevisions, RunContext], StudyOutcome | None]
"""As :meth:`StudyProcessor.process` for what headers alone refuse; ``None`` where the chain has to look."""

ProcessorFactory = Callable[[OnStage], StudyProcessor]
"""Loads the models and returns a chain that calls the function given with each of its stages."""


class ProcessorPool:
    """``size`` warm chains, one for each worker; a chain reports its stages to its present user."""

    def __init__(self, factory: ProcessorFactory, size: int) -> None:
        self.size = size
        self._idle: queue.SimpleQueue[tuple[StudyProcessor, _StageRelay]] = queue.SimpleQueue()
        for _ in range(size):
            relay = _StageRelay()
            self._idle.put((factory(relay), relay))

    @contextmanager
    def borrow(self, on_stage: Callable[[str], None]) -> Iterator[StudyProcessor]:
        """A chain for the time of the block; waits until one is idle."""
        processor, relay = self._idle.get()
        relay.listener = on_stage
        try:
            yield processor
        finally:
            relay.listener = None
            self._idle.put((processor, relay))


class _StageRelay:
    def __init__(self) -> None:
        self.listener: Callable[[str], None] | None = None

    def __call__(self, stage: str) -> None:
        listener = self.listener
        if listener is not None:
            listener(stage)
