"""Results on disk: one folder a study and revision, there whole or not at all.

::

    <folder>/<StudyInstanceUID>/r1/     SEG, SR, page, outcome.json
    <folder>/working/<executor>/        being written; emptied at the executor's start
        <try>/results/                  its results, until they are whole
        <try>/replaced/<StudyInstanceUID>/r1/   those of an earlier try, until the new ones are in place

Results stay: they are what is sent again, how a run ended, and the store of earlier PET results.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import MisconfiguredError, RetryLaterError
from app.files.durable import make_folder, sync_folder, sync_tree
from app.node.records.instances import study_folder_name
from app.node.records.states import RunKey

if TYPE_CHECKING:
    from app.domain.outcome import StudyOutcome

REPLACED = "replaced"

_log = logging.getLogger(__name__)


class Outbox:
    """Result folders under ``folder``, which several executors may share."""

    def __init__(self, folder: Path, executor_id: str) -> None:
        self._folder = folder
        self._working = folder / "working" / executor_id
        make_folder(self._working)

    def folder_of(self, run: RunKey) -> Path:
        """Where a revision's results are, when there are any. Raises UnsafeUidError."""
        return self._folder / study_folder_name(run.study_instance_uid) / f"r{run.revision}"

    @contextmanager
    def fill(self, run: RunKey) -> Iterator[Path]:
        """A new folder to write results to, which takes its final place when the block ends well.

        An earlier try's results of the same revision are replaced. Everything is on the disk for good
        when this returns; after an exception nothing of it remains, and earlier results are where they were.

        Raises:
            RetryLaterError: the disk does not take the results; what the block raises goes through as it is.
        """
        final = self.folder_of(run)
        working = self._working / uuid.uuid4().hex
        results = working / "results"
        with _disk_to_wait_for():
            results.mkdir(parents=True)
        try:
            yield results
            with _disk_to_wait_for():
                self._publish(results, final, working / REPLACED)
        finally:
            with _disk_to_wait_for():
                self._put_back(working)
            shutil.rmtree(working, ignore_errors=True)

    def outcome_of(self, run: RunKey) -> StudyOutcome | None:
        """The outcome of a run; ``None`` when it ended before the chain had anything to say.

        Raises:
            MisconfiguredError: its file is damaged, or of a version that this one can't read.
        """
        from app.files.outcome import read_outcome

        try:
            return read_outcome(self.folder_of(run))
        except FileNotFoundError:
            return None

    def readable_outcome_of(self, run: RunKey) -> StudyOutcome | None:
        """As :meth:`outcome_of`; an unreadable one goes into the log and counts as none."""
        try:
            return self.outcome_of(run)
        except MisconfiguredError as error:
            _log.error("earlier result unreadable", extra=run.facts | {"reason": str(error)})
            return None

    def recover(self) -> int:
        """Put back what was being replaced when this executor stopped, and remove what was being written.

        Returns how many folders were being written.
        """
        leftovers = list(self._working.iterdir())
        for leftover in leftovers:
            self._put_back(leftover)
            shutil.rmtree(leftover)
        return len(leftovers)

    def _publish(self, results: Path, final: Path, replaced: Path) -> None:
        """To the final place; a folder can't be renamed over a full one, so that one steps aside first."""
        sync_tree(results)
        make_folder(final.parent)
        if final.exists():
            aside = replaced / final.relative_to(self._folder)
            make_folder(aside.parent)
            final.rename(aside)
        results.rename(final)
        sync_folder(final.parent)
        sync_folder(self._folder)

    def _put_back(self, working: Path) -> None:
        """Results that stepped aside for others that did not come."""
        for aside in (working / REPLACED).glob("*/*"):
            final = self._folder / aside.relative_to(working / REPLACED)
            if not final.exists():
                aside.rename(final)
                sync_folder(final.parent)


@contextmanager
def _disk_to_wait_for() -> Iterator[None]:
    """A full or silent disk is nothing the study is to blame for."""
    try:
        yield
    except OSError as error:
        raise RetryLaterError(
            f"node.data_dir does not take the results: {error.strerror or type(error).__name__}; "
            "look at its free space"
        ) from error
