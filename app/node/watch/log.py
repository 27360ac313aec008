"""The node's log: one JSON object a line, and nothing in it that could name a patient.

Our own messages are fixed sentences; what varies goes into named fields, and only those listed in
:data:`FIELDS` are written. A library's message may quote a header (pydicom's do), so of the libraries that
see images only logger, level and place are written; the same holds for the message of an exception that is
not one of ours. The study is passed explicitly, as ``extra={"study": uid}``: Holoscan computes on threads
of its own, where context variables do not follow.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from app.errors import describe_exception
from app.files.durable import disk_error

FIELDS = frozenset(
    {
        "study", "revision", "attempt", "state", "stage", "reason", "next_try", "destination", "executor",
        "calling_ae", "called_ae", "host", "listener", "port", "instances", "bytes", "sop_instance",
        "dicom_status", "duration_s", "model", "path", "version", "signal", "settings_digest", "advice",
        "kind", "workflows", "requests", "files", "transaction", "pet_study",
    }
)  # fmt: skip
"""Names under which a value may be written."""

OWN_LOGGERS = ("app", "operators", "psma_node")
BLIND_LOGGERS = ("dbos",)
"""Libraries whose messages are kept: they see identifiers of jobs, never an image."""

WITHHELD = "message withheld: it may quote a header"
MAX_FRAMES = 12
"""Frames of a traceback that are written, innermost last."""


_log = logging.getLogger(__name__)


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; never raises because of a value."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        line.update({name: _plain(record.__dict__[name]) for name in sorted(FIELDS & record.__dict__.keys())})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe_exception(record.exc_info[1])
            line["frames"] = _frames(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


def configure_logging(log_file: Path | None = None, level: str = "INFO") -> None:
    """Send every log record of this process as JSON lines to stderr, and to ``log_file`` when given.

    Replaces the handlers of the root logger and of libraries that brought their own; Python warnings
    become records too, and so do exceptions that end a thread, which Python would print with their message.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            place, advice = f"node.log_file {log_file}", "may the node's user write there?"
            raise disk_error(error, place, advice, log_file.exists()) from error
    for handler in handlers:
        handler.setFormatter(JsonLineFormatter())
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, logging.FileHandler):
            former.close()
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    for name in ("dbos", "pydicom", "pynetdicom"):
        adopt_logger(name)
    # the node tells of every association that fails, in words; these would follow, withheld
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_end_of_thread


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _log.error("a thread ended", exc_info=ended.exc_value)


def adopt_logger(name: str) -> None:
    """Take away the handlers that a library gave its logger, so that its records reach ours."""
    logger = logging.getLogger(name)
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = True
    logger.setLevel(logging.WARNING)


def _event(record: logging.LogRecord) -> str:
    top = record.name.partition(".")[0]
    if top in OWN_LOGGERS or top in BLIND_LOGGERS:
        return record.getMessage()
    return f"{WITHHELD} ({Path(record.pathname).name}:{record.lineno})"


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-MAX_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
