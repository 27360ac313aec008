"""Webhook and mail for what failed, is stuck or fills up: once a fault, and never a patient's name.

Studies are named by UID, reasons by their codes alone: the words around them may quote a header. What was
sent is kept on the disk, so a restart repeats nothing; a fault that ended and comes again is a new one.
"""

from __future__ import annotations

import http.client
import json
import logging
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage

from sqlalchemy import select

from app.domain.refusal import quoted_codes
from app.errors import MisconfiguredError
from app.files.durable import free_mb, write_durably
from app.node.peers import TlsPolicy
from app.node.policy import NodePolicy, NotifyPolicy
from app.node.records.database import fetch, utc_now
from app.node.records.deliveries import Delivery
from app.node.records.runs import Run
from app.node.records.states import DeliveryState, StudyState
from app.node.records.stores import NodeStores
from app.node.tls import expiries
from app.node.tls_words import tls_words

NOTIFIED_FILE = "notified.json"

TIMEOUT_S = 10.0

MAX_TRIES = 6
"""To send one message to one receiver, the wait doubling each time; then it is given up."""

FIRST_WAIT_S = 30.0

MAX_LINES = 20
"""Faults that a message spells out; of the others it gives the number."""

_UNDELIVERED = (
    (DeliveryState.PENDING, "destination", "has not got everything", "psma-node check asks it for C-ECHO"),
    (DeliveryState.SENT, "proof of", "has got everything and proves nothing", "psma-node status says why"),
)
"""State of a delivery that is tried again and again; key, words and advice of the fault."""

_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (smtplib.SMTPNotSupportedError, "the mail server lacks what the settings ask for: {0}"),
    (smtplib.SMTPAuthenticationError, "the mail server refuses smtp_user with smtp_password ({0.smtp_code})"),
    (smtplib.SMTPRecipientsRefused, "the mail server takes none of the receivers"),
    (smtplib.SMTPResponseException, "the mail server answered {0.smtp_code}"),
    (smtplib.SMTPServerDisconnected, "the mail server ended the connection"),
    (urllib.error.HTTPError, "the webhook answered {0.code}"),
)
"""What failed, in our words: a server's own may quote what it was sent, be it a password."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """``key`` is the same as long as the fault lasts."""

    key: str
    what: str
    advice: str


@dataclass
class _Sending:
    """How far one receiver is: faults it knows, tries of the present message, when the next is due."""

    told: set[str]
    tries: int = 0
    due_at_s: float = 0.0


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A webhook that sends us elsewhere has failed: the settings alone say whom the node asks."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Nothing takes the place of the request, so the answer is an error."""


class Notifier:
    """Looks for faults and sends what is new; used by one thread, which may wait for a receiver."""

    def __init__(self, stores: NodeStores, node: NodePolicy, tls: TlsPolicy) -> None:
        self._stores = stores
        self.node = node
        self._tls = tls
        self._file = node.data_dir / NOTIFIED_FILE
        self._receivers: dict[str, _Sending] = {}

    def look(self) -> None:
        """Send each receiver the faults that it does not know yet, all in one message."""
        policy = self.node.notify
        faults = list(self._faults(policy)) if policy.receivers else []
        for name in policy.receivers:
            sending = self._receivers.setdefault(name, _Sending(self._known(name)))
            before = set(sending.told)
            sending.told &= {fault.key for fault in faults}
            new = [fault for fault in faults if fault.key not in sending.told]
            if new and time.monotonic() >= sending.due_at_s:
                self._send(name, sending, new)
            if sending.told != before:
                self._keep()

    def _send(self, name: str, sending: _Sending, faults: list[Fault]) -> None:
        send: Callable[[list[Fault]], None] = self._post if name == "webhook" else self._mail
        sending.tries += 1
        try:
            send(faults)
        except (OSError, smtplib.SMTPException, http.client.HTTPException, ValueError) as error:
            facts = {"kind": name, "attempt": sending.tries, "reason": _why(error)}
            if sending.tries < MAX_TRIES:
                sending.due_at_s = time.monotonic() + FIRST_WAIT_S * 2 ** (sending.tries - 1)
                _log.warning("a notice was not sent, and is tried again", extra=facts)
                return
            _log.error("a notice was not sent, and is given up", extra=facts)
        sending.tries, sending.due_at_s = 0, 0.0
        sending.told |= {fault.key for fault in faults}

    def _post(self, faults: list[Fault]) -> None:
        content = {
            "node": self.node.executor,
            "text": self._text(faults),
            "faults": [{"what": fault.what, "advice": fault.advice} for fault in faults[:MAX_LINES]],
        }
        request = urllib.request.Request(  # noqa: S310  the policy takes http and https alone
            self.node.notify.url, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        secure = urllib.request.HTTPSHandler(context=self._context())
        with urllib.request.build_opener(secure, _NoRedirection).open(request, timeout=TIMEOUT_S):
            pass

    def _mail(self, faults: list[Fault]) -> None:
        policy, message = self.node.notify, EmailMessage()
        message["Subject"] = f"PSMA node {self.node.executor}: {len(faults)} new fault(s)"
        message["From"] = policy.mail_from
        message["To"] = ", ".join(policy.mail_to)
        message.set_content(self._text(faults))
        with smtplib.SMTP(policy.smtp_host, policy.smtp_port, timeout=TIMEOUT_S) as server:
            if policy.smtp_tls:
                server.starttls(context=self._context())
            if policy.smtp_user:
                server.login(policy.smtp_user, policy.smtp_password)
            refused = server.send_message(message)
        if refused:
            words = f"{len(refused)} of {len(policy.mail_to)} receivers are refused"
            _log.warning("a notice did not go to all", extra={"kind": "mail", "reason": words})

    def _text(self, faults: list[Fault]) -> str:
        lines = [f"{fault.what}. {fault.advice}." for fault in faults[:MAX_LINES]]
        if len(faults) > MAX_LINES:
            lines.append(f"and {len(faults) - MAX_LINES} more: psma-node status")
        return "\n".join([f"PSMA node {self.node.executor}:", *lines, ""])

    def _context(self) -> ssl.SSLContext:
        """The system's CAs, and the site's."""
        context = ssl.create_default_context()
        if self._tls.authorities:
            context.load_verify_locations(self._tls.authorities)
        return context

    def _known(self, name: str) -> set[str]:
        try:
            return set(json.loads(self._file.read_bytes()).get(name, []))
        except FileNotFoundError:
            return set()
        except (ValueError, AttributeError, TypeError):
            _log.warning("notified.json is damaged: what is wrong now is told once more")
            return set()

    def _keep(self) -> None:
        told = {name: sorted(sending.told) for name, sending in self._receivers.items()}
        write_durably(self._file, json.dumps(told).encode())

    def _faults(self, policy: NotifyPolicy) -> Iterator[Fault]:
        yield from self._failed_studies()
        long_ago = utc_now() - timedelta(seconds=policy.stuck_after_s)
        waits = Run.state.in_((StudyState.QUEUED, StudyState.RUNNING)) & (Run.queued_at < long_ago)
        for run in fetch(self._stores.engine, select(Run).where(waits)):
            yield Fault(
                f"stuck {run.study_instance_uid} {run.revision}",
                f"study {run.study_instance_uid} is {run.state} for more than {policy.stuck_after_s:.0f} s",
                "psma-node status says for what it waits",
            )
        for state, key, fault, advice in _UNDELIVERED:
            tried = (Delivery.state == state, Delivery.failures > 0, Delivery.created_at < long_ago)
            for name in fetch(self._stores.engine, select(Delivery.destination).where(*tried).distinct()):
                what = f"destination {name} {fault} for more than {policy.stuck_after_s:.0f} s"
                yield Fault(f"{key} {name}", what, advice)
        yield from self._resources()

    def _failed_studies(self) -> Iterator[Fault]:
        for run in self._stores.runs.given_up():
            codes = quoted_codes(run.reason)
            yield Fault(
                f"failed {run.study_instance_uid} {run.revision} {run.attempt}",
                f"study {run.study_instance_uid} failed{': ' if codes else ''}{', '.join(codes)}",
                "psma-node status says why; psma-node retry tries it again",
            )

    def _resources(self) -> Iterator[Fault]:
        room_mb = free_mb(self.node.data_dir)
        if room_mb < self.node.notify.free_mb:
            yield Fault(
                "disk", f"{room_mb:.0f} MB are free in node.data_dir", "make room before images are refused"
            )
        try:
            ends = expiries(self._tls)
        except MisconfiguredError:
            yield Fault("tls", "the certificates under tls can't be read", "psma-node check says why")
            return
        for name, end in ends.items():
            if end - utc_now() < timedelta(days=self._tls.warn_days):
                yield Fault(f"ends {name} {end:%Y-%m-%d}", f"{name} ends on {end:%Y-%m-%d}", "renew it")


def _why(error: Exception) -> str:
    """Why a message was not sent, in plain words; nothing of what was sent or answered."""
    words = next((words for kind, words in _WORDS if isinstance(error, kind)), "")
    if words:
        return words.format(error)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return tls_words(cause) if isinstance(cause, OSError) else type(error).__name__
