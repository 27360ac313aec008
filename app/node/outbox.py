"""Results on disk: one folder a study and revision, there whole or not at all.

::

    <folder>/<StudyInstanceUID>/r1/     SEG, SR, page, outcome.json
    <folder>/working/<executor>/        being written; emptied at the executor's start

Results stay: they are what is sent again, and the store of earlier PET results.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.durable_file import make_folder, sync_folder
from app.node.run_ledger import RunKey
from app.node.uid_safety import study_folder_name


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
        when this returns; after an exception nothing of it remains.
        """
        final = self.folder_of(run)
        working = self._working / uuid.uuid4().hex
        results, replaced = working / "results", working / "replaced"
        results.mkdir(parents=True)
        try:
            yield results
            _sync_tree(results)
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                # a folder can't be renamed over a full one; a crash between the two renames leaves no result,
                # and the step runs again
                final.rename(replaced)
            results.rename(final)
            sync_folder(final.parent)
            sync_folder(self._folder)
        finally:
            shutil.rmtree(working, ignore_errors=True)

    def recover(self) -> int:
        """Remove what was being written when this executor stopped; returns how many folders that were."""
        leftovers = list(self._working.iterdir())
        for leftover in leftovers:
            shutil.rmtree(leftover)
        return len(leftovers)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder)
