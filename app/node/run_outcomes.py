"""How runs ended, from their results in the outbox."""

from __future__ import annotations

import logging

from app.domain.outcome import StudyOutcome
from app.errors import MisconfiguredError
from app.node.outbox import Outbox
from app.node.run_ledger import RunKey
from app.outcome_file import read_outcome

_log = logging.getLogger(__name__)


def outcome_of(outbox: Outbox, run: RunKey) -> StudyOutcome | None:
    """The outcome of a run; ``None`` when it ended before the chain had anything to say.

    Raises:
        MisconfiguredError: its file is damaged, or of a version that this one can't read.
    """
    try:
        return read_outcome(outbox.folder_of(run))
    except FileNotFoundError:
        return None


def readable_outcome_of(outbox: Outbox, run: RunKey) -> StudyOutcome | None:
    """As :func:`outcome_of`; an unreadable one is told to the log and counts as none."""
    try:
        return outcome_of(outbox, run)
    except MisconfiguredError as error:
        facts = {"study": run.study_instance_uid, "revision": run.revision, "reason": str(error)}
        _log.error("earlier result unreadable", extra=facts)
        return None


def is_readable(outbox: Outbox, run: RunKey) -> bool:
    """Whether a run's outcome can be read, or there is none."""
    try:
        outcome_of(outbox, run)
    except MisconfiguredError:
        return False
    return True
