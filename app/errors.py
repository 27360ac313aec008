"""The error tree: each kind says what happens next.

::

    PsmaNodeError
    ├── UnusableStudyError    this study can't give a result: reject it and say why (carries a Rejection)
    ├── RetryLaterError       something outside is not ready (PACS down, disk full): queue again
    │   └── StartOverError    this process can't compute any more: queue again, and start the process over
    └── MisconfiguredError    the site's set-up is wrong: stop and tell the operator

Any other exception is a fault of this program: the study is marked failed, and nothing is sent.
Messages say what was found, what was expected and what to do, and never name a patient.
"""

from __future__ import annotations

import traceback
from enum import IntEnum
from pathlib import Path

from app.domain.refusal import Reason, Rejection


class ExitCode(IntEnum):
    """What a command reports to whoever started it. Folder mode takes the code of its ``Status``, by name."""

    DONE = 0
    FAILED = 1
    """A fault of this program, or the answer to a question such as ``check`` or ``audit verify`` is no."""
    MISCONFIGURED = 2
    """Wrong settings or arguments, or a machine that does not fit them."""
    REJECTED = 3
    RETRY = 4
    STOPPED = 130
    """Ctrl-C, or in folder mode SIGTERM too: 128 + SIGINT, as shells report it."""
    TERMINATED = 143
    """SIGTERM during long work: 128 + SIGTERM."""


class PsmaNodeError(Exception):
    """Root of every error that this program raises on purpose; ``exit_code`` ends a command that meets it."""

    exit_code = ExitCode.FAILED


class UnusableStudyError(PsmaNodeError):
    """The input can't be used; ``rejection`` says why in full."""

    exit_code = ExitCode.REJECTED

    def __init__(self, *reasons: Reason) -> None:
        self.rejection = Rejection(reasons)
        super().__init__("; ".join(str(reason) for reason in reasons))


class RetryLaterError(PsmaNodeError):
    """Nothing is wrong with the study; try again later."""

    exit_code = ExitCode.RETRY


class StartOverError(RetryLaterError):
    """Nothing is wrong with the study, but whatever this process tries now will fail: try in another one."""


class MisconfiguredError(PsmaNodeError):
    """The site's settings, models or machine need a person; ``problems`` has every one that was found."""

    exit_code = ExitCode.MISCONFIGURED

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def describe_exception(error: BaseException) -> str:
    """What may be logged of an exception: the message of ours; of any other only type and place, because its
    message may quote a header."""
    if isinstance(error, PsmaNodeError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"
