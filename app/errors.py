"""The error tree: each kind says what happens next.

::

    PsmaNodeError
    ├── UnusableStudyError    this study can't give a result: reject it, tell why (carries a Rejection)
    ├── RetryLaterError       something outside is not ready (PACS down, disk full): queue again
    │   └── StartOverError    this process can't compute any more: queue again, and start the process over
    └── MisconfiguredError    the site's set-up is wrong: stop, tell the operator

Anything else that is raised is a fault of ours: the study is marked failed, nothing is sent.
Messages say what was found, what was expected and what to do, and never name a patient.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from app.domain.refusal import Reason, Rejection


class PsmaNodeError(Exception):
    """Root of every error this program raises on purpose."""


class UnusableStudyError(PsmaNodeError):
    """The input can't be used; ``rejection`` says why in full."""

    def __init__(self, *reasons: Reason) -> None:
        self.rejection = Rejection(reasons)
        super().__init__("; ".join(str(reason) for reason in reasons))


class RetryLaterError(PsmaNodeError):
    """Nothing is wrong with the study; try again later."""


class StartOverError(RetryLaterError):
    """Nothing is wrong with the study, but whatever this process tries now will fail: try in another."""


class MisconfiguredError(PsmaNodeError):
    """The site's settings, models or machine need a person."""


def describe_exception(error: BaseException) -> str:
    """What may be said about an exception: all of ours; of any other its type and place, for its message may
    quote a header."""
    if isinstance(error, PsmaNodeError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"
