"""An association that we ask for: to send to a PACS, to ask it, and to tell a sender what is safe here.

:class:`ClientEntity` adds what pynetdicom lacks on the side that asks for an association.
(``type: ignore[misc]``: the project reads pynetdicom without its types, so its classes are ``Any`` to mypy.)
"""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from app.errors import MisconfiguredError, RetryLaterError
from app.node.peers import NO_TLS, Destination, TlsPolicy
from app.node.tls import RenewedContext, client_context, shake_hands
from app.node.tls_words import SHOW_OURS, tls_advice, tls_words

_EXPLICITLY_REJECTED = frozenset((1, 3, 4))
"""Results of a presentation context that are an answer for good (PS3.8 table 9-18): rejected by the user,
class or transfer syntaxes not supported. 2, by the provider without a reason, also stands for a context that
the answer leaves out: it may pass."""

CALLED_UNKNOWN = (1, 7)
"""Source and reason of a rejection: called AE title not recognised (PS3.8 table 9-21)."""


class NoAssociationError(RetryLaterError):
    """There is none now.

    Attributes:
        advice: what a person can look at; empty where the message says it.
        hung_up: the peer took the connection and ended it without a word, or said nothing.
    """

    def __init__(self, words: str, advice: str = "", hung_up: bool = False) -> None:
        super().__init__(words)
        self.advice, self.hung_up = advice, hung_up


class NothingAcceptedError(Exception):
    """The peer accepts the association, and none of what it is for."""


@dataclass(frozen=True)
class Proposal:
    """What an association is asked for: contexts, roles (PS3.7 D.3.3.4), handlers of what the peer asks."""

    contexts: list[PresentationContext]
    roles: list[Any] = field(default_factory=list)
    handlers: list[Any] = field(default_factory=list)


@contextmanager
def open_association(
    destination: Destination,
    calling_ae_title: str,
    timeout_s: float,
    proposal: Proposal,
    tls: TlsPolicy = NO_TLS,
) -> Iterator[Any]:
    """An established association, released at the end, aborted when left by an exception.

    Raises:
        RetryLaterError: there is none now.
        NothingAcceptedError: the peer rejects every context, in so many words.
    """
    entity = ClientEntity(calling_ae_title, timeout_s)
    association = _associate(entity, destination, proposal, tls)
    serving = serve_one_by_one(association)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    with serving:
        association.release()


def _tls_arguments(destination: Destination, tls: TlsPolicy) -> tuple[ssl.SSLContext, str] | None:
    """The context and the name that the peer's certificate has to carry; ``None`` for plain TCP."""
    if not destination.tls:
        return None
    try:
        return _renewed_context(tls).current(), destination.tls_name or destination.host
    except MisconfiguredError as error:
        raise NoAssociationError(f"{destination.name} can't be spoken to by TLS: {error}") from error


@functools.cache
def _renewed_context(tls: TlsPolicy) -> RenewedContext:
    return RenewedContext(tls, client_context)


def _associate(entity: ClientEntity, destination: Destination, proposal: Proposal, tls: TlsPolicy) -> Any:
    where = _where(destination)
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            proposal.contexts,
            destination.ae_title,
            ext_neg=proposal.roles,
            evt_handlers=proposal.handlers,
            tls_args=_tls_arguments(destination, tls),
        )
    except OSError as error:
        advice = f"is the name {destination.host} right, and does this host's name server know it?"
        raise NoAssociationError(f"{where} can't be reached: {tls_words(error)}", advice) from error
    if association.is_established:
        _hold_to_answers(association, destination.name)
        proposed = association.requestor.requested_contexts
        if any(not _was_proposed(context, proposed) for context in association.accepted_contexts):
            association.abort()
            raise RetryLaterError(f"{where} accepted a transfer syntax that was not proposed")
        return association
    if association.dul.socket is not None:  # pynetdicom leaves it open where it can't read the answer
        association.dul.socket.hang_up()
    if are_rejected_for_good(association.rejected_contexts):
        raise NothingAcceptedError
    raise _failure(entity, association, destination, tls)


def _failure(
    entity: ClientEntity, association: Any, destination: Destination, tls: TlsPolicy
) -> NoAssociationError:
    """Why there is none, and what to look at."""
    where, failure = _where(destination), entity.connection_failure
    knows_us = f"does it know {entity.ae_title.strip()} at this host's address?"
    if association.is_rejected:
        answer = association.acceptor.primitive
        is_called = (answer.result_source, answer.diagnostic) == CALLED_UNKNOWN
        advice = f"is {destination.ae_title} its AE title?" if is_called else knows_us
        return NoAssociationError(f"{where} rejected the association: {answer.reason_str}", advice)
    if association.rejected_contexts:
        words = f"{where} accepted the association, and answered to no presentation context"
        return NoAssociationError(words, knows_us)
    if failure is not None and (advice := tls_advice(failure)):
        return NoAssociationError(f"{where} can't be spoken to by TLS: {tls_words(failure)}", advice)
    if failure is not None and not isinstance(failure, ConnectionResetError | BrokenPipeError):
        advice = f"does it run, are host and port right, does a firewall let this host through, {knows_us}"
        return NoAssociationError(f"{where} can't be reached: {tls_words(failure)}", advice)
    advice = knows_us
    if destination.tls:
        refused = f"its log says why; is our certificate known there? {knows_us}"
        advice = refused if tls.certificate else SHOW_OURS
    how = f": {tls_words(failure)}" if failure is not None else ""
    words = f"{where} took the connection, but did not answer or ended the association at once{how}"
    return NoAssociationError(words, advice, hung_up=True)


def _where(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def _was_proposed(accepted: PresentationContext, proposed: Sequence[PresentationContext]) -> bool:
    return any(
        one.context_id == accepted.context_id and accepted.transfer_syntax[0] in one.transfer_syntax
        for one in proposed
    )


def are_rejected_for_good(contexts: Sequence[PresentationContext]) -> bool:
    return bool(contexts) and all(context.result in _EXPLICITLY_REJECTED for context in contexts)


def answer_in_words(name: str, status: int | None, request: str) -> str:
    """What a peer answered to a ``request`` (C-FIND, say); without a status it gave no answer."""
    found = "did not answer" if status is None else f"answered {status:04X} to"
    return f"{name} {found} {request}"


def _hold_to_answers(association: Any, name: str) -> None:
    """A request gets its own answer, or none.

    pynetdicom's reactor polls for requests and sometimes takes an answer instead (3 in 11 510). Only the
    reactor asks without blocking, so a question without blocking gets nothing. And pynetdicom takes whatever
    comes next for the answer: one to another message, or about another instance, acknowledges nothing
    (PS3.7 9.3.1.2).
    """
    dimse = association.dimse
    get_message, send_message = dimse.get_msg, dimse.send_msg
    asked: list[Any] = []

    def send(message: Any, context_id: int) -> None:
        if message.MessageIDBeingRespondedTo is None:
            asked[:] = [message]
        send_message(message, context_id)

    def receive(block: bool = False) -> tuple[int | None, Any]:
        context_id, message = get_message(block=True) if block else (None, None)
        if message is not None and asked and _is_foreign(message, asked[0]):
            raise RetryLaterError(f"{name} answered to another message than the one that was sent")
        return context_id, message

    dimse.send_msg, dimse.get_msg = send, receive


def serve_one_by_one(association: Any) -> threading.Lock:
    """Held while a request of the peer is served.

    pynetdicom serves an N-EVENT-REPORT on a thread of its own, and marks its reactor as running when that
    ends. A release that has just paused the reactor then waits for ever; an earlier one goes out before the
    acknowledgement, which nobody takes any more.
    """
    serve, serving = association._serve_request, threading.Lock()

    def serve_alone(message: Any, context_id: int) -> None:
        with serving:
            serve(message, context_id)

    association._serve_request = serve_alone
    return serving


def _is_foreign(message: Any, asked: Any) -> bool:
    """Whether a message is an answer, and not to what was asked."""
    if message.MessageIDBeingRespondedTo is None:
        return False
    wanted, found = (getattr(one, "AffectedSOPInstanceUID", None) for one in (asked, message))
    is_other = type(message) is not type(asked) or message.MessageIDBeingRespondedTo != asked.MessageID
    return is_other or (bool(found) and wanted is not None and found != wanted)


class ClientEntity(AE):  # type: ignore[misc]
    """An AE that says why a connection failed, and whose transfers can't stall for ever."""

    def __init__(self, ae_title: str, timeout_s: float) -> None:
        super().__init__(ae_title=ae_title)
        self.connection_timeout = self.acse_timeout = self.dimse_timeout = timeout_s
        self.network_timeout = None  # each answer has its own limit; preparing a large file may take longer
        self.connection_failure: OSError | None = None

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: Any
    ) -> AssociationSocket:
        connection = ClientSocket(assoc, address=address)
        connection.tls_args = tls_args
        return connection


class ClientSocket(AssociationSocket):  # type: ignore[misc]
    """No Nagle delay, TLS where it is wanted, a limit for a peer that stalls, closed whatever happens."""

    socket: Any

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect and shake hands within the entity's time limit, or remember why not, which pynetdicom's
        own only logs; the limit stays, so that a peer that stops reading does not hold us for ever."""
        entity = self.assoc.ae
        primitive.result = "Evt17"
        try:
            self.socket.settimeout(entity.connection_timeout)
            self.socket.connect(primitive.address_info.as_tuple)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls_args is not None:
                context, name = self.tls_args
                self.socket = shake_hands(self.socket, context, name)
            self.assoc.requestor.address_info = AddressInformation.from_tuple(self.socket.getsockname())
            self._is_connected = True
            primitive.result = "Evt2"
        except OSError as error:
            entity.connection_failure = error
            self._shutdown_socket()
            self.socket = None
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def recv(self, nr_bytes: int) -> bytearray:
        """As its parent does; in TLS 1.3 a server refuses our certificate after the handshake: here."""
        try:
            return bytearray(super().recv(nr_bytes))
        except OSError as error:
            self.assoc.ae.connection_failure = error
            raise

    def hang_up(self) -> None:
        """Close the connection, whatever state it is in."""
        self._shutdown_socket()

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if connection is None:
            return
        with suppress(OSError):  # not connected, or the peer was quicker
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
