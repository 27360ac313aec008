"""SIGHUP: a running node reads its settings again, takes over what is safe, and names what is not.

Safe is what is looked at anew for each association, study or delivery. Ports, folders, models and everything
that changes a result stay as they are until the next start, so that no study is worked on under two settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import MisconfiguredError, PsmaNodeError
from app.node.records.audit import AuditEvent
from app.node.watch.log import configure_logging
from app.settings import Settings, load_settings, settings_adapter

if TYPE_CHECKING:
    from app.node.service import NodeService

SAFE = {
    "receive": ("allowed_callers", "urgent_callers", "settle_s", "give_up_s"),
    "deliver": (
        "destinations", "calling_ae_title", "timeout_s", "first_retry_s", "max_retry_s", "max_age_days",
        "commitment_wait_s", "max_proofs",
    ),
    "node": ("log_level", "log_file", "audit_collector", "notify", "retention", "keep_days"),
}  # fmt: skip

WITHHELD = ("node.database_url", "node.notify.url", "node.notify.smtp_password", "load.administrations")
"""They may hold a password, or name a patient."""

_log = logging.getLogger(__name__)


class Reloader:
    """Reads the settings of a running node again, from where they were read at its start."""

    def __init__(
        self, service: NodeService, running: Settings, config: Path | None, overrides: list[str]
    ) -> None:
        self._service = service
        self._running = running
        self._config = config
        self._overrides = overrides

    def __call__(self) -> None:
        """Take over what is safe; settings that are wrong change nothing. The log file is opened anew."""
        try:
            found = load_settings(self._config, self._overrides)
        except MisconfiguredError as error:
            self._open_log(self._running)
            _log.error("the new settings are wrong, and none is taken over", extra={"reason": str(error)})
            return
        taken = merged(self._running, found)
        changes = list(differences(self._running, taken))
        self._service.take_over(taken.node, taken.receive, taken.deliver)
        self._running = taken
        self._open_log(taken)
        for line in changes:
            _log.info(line)
        left = list(differences(taken, found))
        for line in left:
            _log.warning("%s: takes effect at the next start", line)
        if not changes and not left:
            _log.info("the settings were read again, and are as they were")
        if changes:
            self._service.note(AuditEvent.SETTINGS_CHANGED, {"changes": changes})

    def _open_log(self, settings: Settings) -> None:
        """Under the same name a new file after logrotate has renamed the old one; the former log stays where
        it can't be opened."""
        file = settings.node.log_file
        try:
            configure_logging(Path(file) if file else None, settings.node.log_level)
        except PsmaNodeError as error:
            _log.error("the log file can't be opened", extra={"path": file, "reason": str(error)})


def merged(running: Settings, found: Settings) -> Settings:
    """The running settings with those of the others that are safe to take over."""
    sections: dict[str, Any] = {}
    for section, keys in SAFE.items():
        new = {key: getattr(getattr(found, section), key) for key in keys}
        sections[section] = replace(getattr(running, section), **new)
    return replace(running, **sections)


def differences(before: Settings, after: Settings) -> Iterator[str]:
    """What differs, one line a value, from what to what; of :data:`WITHHELD` only that it differs."""
    old, new = (settings_adapter().dump_python(one, mode="json") for one in (before, after))
    return _differences("", old, new)


def _differences(place: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if place in WITHHELD:
        yield f"{place} changed"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            yield from _differences(f"{place}.{key}".removeprefix("."), old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(one, dict) for one in old + new):
        for number, (one, other) in enumerate(zip_longest(old, new)):
            yield from _differences(f"{place}.{number}", one, other)
    else:
        yield f"{place} changed from {_words(old)} to {_words(new)}"


def _words(value: Any) -> str:
    """A value as YAML has it on one line; of a record what it sets."""
    if isinstance(value, dict):
        parts = (f"{key}: {_words(one)}" for key, one in value.items() if one not in (None, "", []))
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    if value is None or value == "":
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
