"""Storage commitment on associations that others open (PS3.4 Annex J), in both roles.

A sender asks by N-ACTION whether what it sent is safe here, so that it may delete it. The request is written
down before it is acknowledged; then every file that it names is read, and the answer goes out on the same
association, or later on one of ours (:class:`app.node.deliver.owed.OwedAnswers`).

A destination answers a request of ours by N-EVENT-REPORT. It is taken from the address and the AE title of
that destination alone.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from io import BytesIO
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError

from app.errors import RetryLaterError
from app.node.peers import DeliverPolicy, unmapped
from app.node.receive.opening import caller_of
from app.node.records.commitment_messages import (
    ALL_COMMITTED,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    SOME_FAILED,
    event_data,
    read_event,
    read_request,
)
from app.node.records.commitments import OwedCommitment, kept_here, record_answer, record_told
from app.node.records.database import utc_now
from app.node.records.stores import NodeStores

GRACE_S = 15.0
"""Once every file was looked at, an answer on the association of its request may take so long until it is
sent on one of ours as well."""

SUCCESS, PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0112, 0x0115
NO_SUCH_ACTION, NOT_AUTHORIZED, RESOURCE_LIMITATION = 0x0123, 0x0124, 0x0213
"""Statuses (PS3.7 Annex C)."""

_log = logging.getLogger(__name__)


class CommitmentDesk:
    """Takes both kinds of requests, on the threads of their associations.

    Args:
        stores: of this node.
        policy: whose answers are taken.
        wake: called when a delivery may go on.
    """

    def __init__(self, stores: NodeStores, policy: DeliverPolicy, wake: Callable[[], None]) -> None:
        self._stores = stores
        self._wake = wake
        self._addresses: dict[str, frozenset[str]] = {}
        self._unknown: set[str] = set()
        """Hosts of which the log says that they are not known."""
        self._answering: dict[tuple[str, str], float] = {}
        """Until when, by the steady clock, the association of a request may bring its answer."""
        self.follow(policy)

    def follow(self, policy: DeliverPolicy) -> None:
        """Take the answers of these destinations from now on; no name server is waited for."""
        self._destinations = tuple(one for one in policy.destinations if one.commitment)
        self.look_up(socket.AI_NUMERICHOST)
        if any(one.host not in self._addresses for one in self._destinations):
            threading.Thread(target=self.look_up, name="addresses", daemon=True).start()

    def context(self) -> PresentationContext:
        """What is negotiated: a sender is the user, a destination that answers asks to be the provider."""
        context = build_context(PUSH_MODEL)
        context.scu_role = context.scp_role = True
        return context

    def handlers(self) -> list[tuple[evt.InterventionEvent, Callable[[evt.Event], tuple[int, None]]]]:
        """For a server of associations."""
        return [(evt.EVT_N_ACTION, self._asked), (evt.EVT_N_EVENT_REPORT, self._answered)]

    def look_up(self, flags: int = 0) -> None:
        """Where the destinations are: names of hosts are looked up now, not while a caller waits."""
        here: dict[str, frozenset[str]] = {}
        for host in {one.host for one in self._destinations}:
            try:
                found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, flags=flags)
            except OSError as error:
                if not flags and host not in self._unknown:
                    facts = {"host": host, "reason": str(error)}
                    _log.warning("a destination's host is not known now", extra=facts)
                    self._unknown.add(host)
                continue
            here[host] = frozenset(str(address[4][0]) for address in found)
            self._unknown.discard(host)
        # another one: associations go through it meanwhile; a host that is not known now stays where it was
        known = self._addresses | here
        wanted = {one.host for one in self._destinations}  # settings may have changed since
        self._addresses = {host: found for host, found in known.items() if host in wanted}

    def may_answer(self, owed: OwedCommitment) -> bool:
        """Whether the association of a request may still bring its answer."""
        return time.monotonic() < self._answering.get(_named(owed), 0.0)

    def knows_address(self, address: str) -> bool:
        """Whether a destination that may answer is at an address."""
        return any(str(unmapped(address)) in found for found in self._addresses.values())

    def knows(self, ae_title: str, address: str) -> bool:
        """Whether it is a destination that may answer."""
        return bool(self._callers(ae_title, address))

    def _callers(self, ae_title: str, address: str) -> set[str]:
        return {
            one.name
            for one in self._destinations
            if one.ae_title == ae_title and str(unmapped(address)) in self._addresses.get(one.host, ())
        }

    def _answered(self, event: evt.Event) -> tuple[int, None]:
        calling, address = caller_of(event.assoc)
        names = self._callers(calling, address)
        if not names:
            _log.warning("an answer from no destination", extra={"calling_ae": calling, "host": address})
            return NOT_AUTHORIZED, None
        answer = read_event(event.event_information)
        try:
            keys = record_answer(self._stores.commitments, self._stores.audit, answer, names)
            for key in keys:
                self._stores.deliveries.hasten(key)
        except (SQLAlchemyError, OSError) as error:
            _log.error("an answer can't be written down", extra={"reason": type(error).__name__})
            return PROCESSING_FAILURE, None
        if not keys:
            _log.warning("an answer to no request of ours", extra={"calling_ae": calling, "host": address})
        self._wake()
        return SUCCESS, None

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        if event.action_type != REQUEST_STORAGE_COMMITMENT:
            return NO_SUCH_ACTION, None
        if event.request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            return NO_SUCH_INSTANCE, None
        try:
            request = read_request(event.action_information)
        except ValueError as error:
            _log.warning("a request for storage commitment is refused", extra={"reason": str(error)})
            return INVALID_ARGUMENT, None
        calling, address = caller_of(event.assoc)
        next_try_at = utc_now() + timedelta(seconds=GRACE_S)
        try:
            by_tls = event.assoc.dimse.is_tls
            owed = self._stores.commitments.owe(calling, address, request, next_try_at, by_tls)
        except SQLAlchemyError as error:
            _log.error("a request can't be written down", extra={"reason": type(error).__name__})
            return RESOURCE_LIMITATION, None
        answer = threading.Thread(
            target=self._answer, args=(event.assoc, event.context, owed), name="commitment", daemon=True
        )
        event.assoc.dimse.after_action = answer.start
        return SUCCESS, None

    def _answer(self, association: Any, context: Any, owed: OwedCommitment) -> None:
        """Look at every file, then tell the sender, when its association is still open."""
        name, has_reported = _named(owed), False
        self._answering[name] = float("inf")
        try:
            has_reported = self._report(association, context, owed)
        finally:
            now_s = time.monotonic()
            self._answering[name] = now_s + GRACE_S if has_reported else 0.0
            for one in [one for one, until_s in tuple(self._answering.items()) if until_s < now_s]:
                self._answering.pop(one, None)

    def _report(self, association: Any, context: Any, owed: OwedCommitment) -> bool:
        """Whether a report was sent; it has arrived once it is acknowledged."""
        try:
            failed = kept_here(self._stores.inbox, owed.references)
        except (RetryLaterError, SQLAlchemyError, OSError) as error:
            _log.error("it can't be told now what is safe", extra={"reason": type(error).__name__})
            return False
        if not association.is_established:
            return False
        message = N_EVENT_REPORT()
        message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = PUSH_MODEL, PUSH_MODEL_INSTANCE
        message.EventTypeID = SOME_FAILED if failed else ALL_COMMITTED
        data = event_data(owed.transaction_uid, owed.references, failed)
        syntax = context.transfer_syntax
        encoded = encode(data, syntax.is_implicit_VR, syntax.is_little_endian)
        message.EventInformation = BytesIO(encoded or b"")
        association.dimse.report(message, context.context_id, partial(self._told, owed, failed))
        return True

    def _told(self, owed: OwedCommitment, failed: Mapping[str, int]) -> None:
        """The sender has acknowledged its answer. What can't be written down now is told once more."""
        try:
            record_told(self._stores.commitments, self._stores.audit, owed, failed)
        except (SQLAlchemyError, OSError) as error:
            _log.error("an answer given can't be written down", extra={"reason": type(error).__name__})


def _named(owed: OwedCommitment) -> tuple[str, str]:
    return owed.calling_ae, owed.transaction_uid
