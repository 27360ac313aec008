"""An association that we ask for: to send to a PACS, to ask it, and to tell a sender what is safe here.

:class:`ClientEntity` adds what pynetdicom lacks on the side that asks for an association.
(``type: ignore[misc]``: the project reads pynetdicom without its types, so its classes are ``Any`` to mypy.)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from app.errors import RetryLaterError
from app.node.policy import Destination

_EXPLICITLY_REJECTED = frozenset((1, 3, 4))
"""Results of a presentation context that are an answer for good (PS3.8 table 9-18): rejected by the user,
class or transfer syntaxes not supported. 2, by the provider without a reason, also stands for a context that
the answer leaves out: it may pass."""


class NothingAcceptedError(Exception):
    """The peer accepts the association, and none of what it is for."""


@contextmanager
def open_association(
    destination: Destination, calling_ae_title: str, timeout_s: float, contexts: list[PresentationContext]
) -> Iterator[Any]:
    """An established association, released at the end, aborted when left by an exception."""
    association = _associate(ClientEntity(calling_ae_title, timeout_s), destination, contexts)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    association.release()


def _associate(entity: ClientEntity, destination: Destination, contexts: list[PresentationContext]) -> Any:
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    try:
        association = entity.associate(
            destination.host, destination.port, contexts=contexts, ae_title=destination.ae_title
        )
    except OSError as error:  # the name can't be resolved
        raise RetryLaterError(f"{where} can't be reached: {_words(error)}") from error
    if association.is_established:
        _hold_to_answers(association, destination.name)
        proposed = association.requestor.requested_contexts
        if any(not _was_proposed(context, proposed) for context in association.accepted_contexts):
            association.abort()
            raise RetryLaterError(f"{where} accepted a transfer syntax that was not proposed")
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise RetryLaterError(f"{where} rejected the association: {answer.reason_str}")
    if are_rejected_for_good(association.rejected_contexts):
        raise NothingAcceptedError
    if association.rejected_contexts:
        raise RetryLaterError(f"{where} accepted the association, and answered to no presentation context")
    if entity.connection_failure is not None:
        raise RetryLaterError(f"{where} can't be reached: {_words(entity.connection_failure)}")
    raise RetryLaterError(f"{where} took the connection, but did not answer or ended the association at once")


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _was_proposed(accepted: PresentationContext, proposed: Sequence[PresentationContext]) -> bool:
    return any(
        one.context_id == accepted.context_id and accepted.transfer_syntax[0] in one.transfer_syntax
        for one in proposed
    )


def are_rejected_for_good(contexts: Sequence[PresentationContext]) -> bool:
    return bool(contexts) and all(context.result in _EXPLICITLY_REJECTED for context in contexts)


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
    """No Nagle delay, a limit for a peer that stops reading, and closed whatever happens."""

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        opened = super()._create_socket(address)
        return _Connection(self.assoc.ae, opened.family, opened.type, fileno=opened.detach())

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if connection is None:
            return
        with suppress(OSError):  # not connected, or the peer was quicker
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


class _Connection(socket.socket):
    """Keeps the reason why it could not connect, which pynetdicom only logs."""

    def __init__(self, entity: ClientEntity, family: int, kind: int, fileno: int) -> None:
        super().__init__(family, kind, fileno=fileno)
        self._entity = entity

    def connect(self, address: Any) -> None:
        """Connect within the entity's time limit, or remember why not."""
        try:
            super().connect(address)
        except OSError as error:
            self._entity.connection_failure = error
            raise
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def settimeout(self, value: float | None) -> None:
        """pynetdicom lifts the limit once connected; a peer that stops reading would hold us for ever."""
        super().settimeout(self._entity.connection_timeout if value is None else value)
