"""SIGHUP: a running node reads its settings again, takes over what is safe, and names what is not.

Safe is what is looked at anew for each association, study or delivery. Ports, folders, models and everything
that changes a result stay as they are until the next start, so that no study is worked on under two settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
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
    "node": ("log_level", "log_file", "audit_collector", "notify"),
}  # fmt: skip

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
        for line in differences(taken, found):
            _log.warning("%s: takes effect at the next start", line)
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
    """What differs, one line a key: numbers and words of the node's own sections with their values, since
    others may hold a password or name a patient."""
    old, new = (settings_adapter().dump_python(one, mode="json") for one in (before, after))
    for section, keys in old.items():
        for key, value in keys.items():
            other = new[section][key]
            if other == value:
                continue
            plain = section in SAFE and key != "database_url" and not isinstance(value, dict | list)
            words = f" from {value} to {other}" if plain and not isinstance(other, dict | list) else ""
            yield f"{section}.{key} changed{words}"
