"""What pynetdicom's acceptor needs to stand up to bad peers; measured, each cites what went wrong without it.

Everything here goes into :meth:`pynetdicom.ae.ApplicationEntity.make_server` as its server class and
request handler, its documented points of extension. (``type: ignore[misc]``: the project reads
pynetdicom without its types, so its classes are ``Any`` to mypy.)
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from app.node.tls import RenewedContext, continue_handshake, tls_words

ASSOCIATE_REQUEST_LIMIT_BYTES = 1_048_576
"""128 contexts with dozens of transfer syntaxes each are some 300 kB; no honest request is longer."""

MAX_QUEUED_MESSAGES = 8
"""An honest sender waits for each answer (no asynchronous operations are negotiated, PS3.7 D.3.3.3)."""

MAX_STRANGER_CONNECTIONS = 8
"""Connections at one time from addresses that no caller has: enough to tell each why it is rejected."""

AWAITING_REQUEST = "Sta2"
"""Connected, no A-ASSOCIATE-RQ yet (PS3.8 table 9-5)."""

MAX_COMMAND_SET_BYTES = 65_536
"""A command set holds a dozen short elements (PS3.7 9.3)."""

_READ_BYTES = 262_144
_PDU_HEADER_BYTES = 6

_log = logging.getLogger(__name__)


class GuardLimitError(OSError):
    """A peer went over a limit; as an OSError it ends the connection where pynetdicom reads it."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds; see :class:`app.node.policy.ReceivePolicy`."""

    max_pdu_bytes: int
    max_data_set_bytes: int
    pdu_timeout_s: float
    max_connections: int
    is_known_address: Callable[[str], bool]
    on_failed_handshake: Callable[[str, str], None] = lambda *_: None
    """Learns of the address of a peer and why it does not come to speak TLS."""


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads PDUs with a size limit and a deadline, and without Nagle's delay.

    Without it: a PDU length of 0xFFFFFFF0 is buffered, half a PDU holds its thread for ever, and each answer
    waits 40 ms for the peer's delayed acknowledgement.
    """

    def __init__(self, association: Association, connection: socket.socket, limits: Limits) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(limits.pdu_timeout_s)
        super().__init__(association, client_socket=connection)
        self._limits = limits
        self._shakes_hands = isinstance(connection, ssl.SSLSocket)
        self.is_hung_up = False
        self.lane: Callable[[], bool] = lambda: True
        """Reads what it serves itself; says whether pynetdicom has to read on."""
        self._buffer = memoryview(b"")
        self._kept = self._given = self._end = 0
        """In the buffer: what next_pdu has given and may be put back, then what it has not given yet."""

    def hang_up(self) -> None:
        """End the connection, from any thread: the one that reads sees its end and cleans up."""
        self.is_hung_up = True
        connection = self.socket
        if connection is not None:
            with suppress(OSError):  # the peer was quicker
                # not SSLSocket's own: what is read afterwards would no longer be deciphered
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    @property
    def ready(self) -> bool:
        """Whether there is something for pynetdicom to read, after the lane has taken its own."""
        if self._shakes_hands and not self._has_shaken_hands():
            return False
        return (self._given < self._end or super().ready) and self.lane()

    def _has_shaken_hands(self) -> bool:
        """Go on with the TLS handshake as far as the peer's bytes allow.

        pynetdicom asks again and again; so ARTIM ends the connection of a peer that says nothing, and until
        then it counts as one that has not asked for an association.
        """
        connection = self.socket
        if connection is None or self.assoc.dul.state_machine.current_state != AWAITING_REQUEST:
            return False
        try:
            self._shakes_hands = not continue_handshake(connection)
        except OSError as error:
            self._give_up()
            self.event_queue.put("Evt17")
            self._limits.on_failed_handshake(self.assoc.requestor.address_info.address, tls_words(error))
            return False
        connection.settimeout(self._limits.pdu_timeout_s)
        return not self._shakes_hands

    def next_pdu(self, wait_s: float) -> memoryview | None:
        """The next PDU, whole, with its header; ``None`` when nothing came for ``wait_s``.

        It stays as it is until :meth:`release`.

        Raises:
            GuardLimitError: the PDU is longer than allowed, or not complete in time.
            ConnectionError: the peer closed the connection.
        """
        if not self._gather(_PDU_HEADER_BYTES, wait_s):
            return None
        length = int.from_bytes(self._buffer[self._given + 2 : self._given + _PDU_HEADER_BYTES], "big")
        self._check_length(length, self._limits.max_pdu_bytes)
        self._gather(_PDU_HEADER_BYTES + length, self._limits.pdu_timeout_s)
        start = self._given
        self._given += _PDU_HEADER_BYTES + length
        return self._buffer[start : self._given]

    def release(self) -> None:
        """What next_pdu has given is done with, as soon as it is called again."""
        self._kept = self._given

    def put_back(self) -> None:
        """What next_pdu has given since the last release comes again, from there or from recv."""
        self._given = self._kept

    def _gather(self, count: int, wait_s: float) -> bool:
        """Have so many bytes not given yet in the buffer; False when nothing came for ``wait_s``."""
        if self._end - self._given >= count:
            return True
        connection = self.socket
        if connection is None:
            raise ConnectionAbortedError("the connection was closed")
        self._make_room(count)
        # the sender of a PDU that has begun to come has its time for the rest
        deadline = time.monotonic() + (self._limits.pdu_timeout_s if self._end > self._given else wait_s)
        try:
            while self._end - self._given < count:
                left_s = deadline - time.monotonic()
                if left_s <= 0 and self._end == self._given:
                    return False
                self._set_time_left(connection, left_s)
                try:
                    arrived = connection.recv_into(self._buffer[self._end :])
                except TimeoutError:
                    continue  # the deadline has passed: the loop looks at its top
                if not arrived:
                    raise ConnectionResetError("the peer closed the connection")
                if self._end == self._given:
                    deadline = time.monotonic() + self._limits.pdu_timeout_s
                self._end += arrived
        finally:
            connection.settimeout(self._limits.pdu_timeout_s)  # for what pynetdicom sends
        _acknowledge_at_once(connection)
        return True

    def _make_room(self, count: int) -> None:
        if not self._buffer:
            self._buffer = memoryview(bytearray(2 * (self._limits.max_pdu_bytes + MAX_COMMAND_SET_BYTES)))
        waiting = self._end - self._kept
        if waiting == 0 or self._given + count > len(self._buffer):
            self._buffer[:waiting] = self._buffer[self._kept : self._end]
            self._given, self._end, self._kept = self._given - self._kept, waiting, 0
        if self._given + count > len(self._buffer):
            raise GuardLimitError(f"a command set came in more than {self._given} bytes")

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly ``nr_bytes``, or fewer when the peer closed; pynetdicom asks for a header, then a body.

        Raises:
            GuardLimitError: the PDU is longer than allowed, or not complete in time.
        """
        connection = self.socket
        if connection is None:
            return bytearray()
        established = self.assoc.is_established
        limit = self._limits.max_pdu_bytes if established else ASSOCIATE_REQUEST_LIMIT_BYTES
        self._check_length(nr_bytes, limit)
        deadline = time.monotonic() + self._limits.pdu_timeout_s
        data = bytearray(nr_bytes)
        view = memoryview(data)
        filled = min(nr_bytes, self._end - self._given)
        view[:filled] = self._buffer[self._given : self._given + filled]
        self._given += filled
        self._kept = self._given
        while filled < nr_bytes:
            self._set_time_left(connection, deadline - time.monotonic())
            try:
                count = connection.recv_into(view[filled : filled + _READ_BYTES])
            except TimeoutError:
                continue  # the deadline has passed: the loop raises at its top
            if count == 0:
                self._wake_association()
                break
            filled += count
        view.release()
        del data[filled:]
        connection.settimeout(self._limits.pdu_timeout_s)
        _acknowledge_at_once(connection)
        return data

    def _wake_association(self) -> None:
        """A connection that closes without a request (a port check) would hold its thread until ARTIM."""
        if self.assoc.dul.state_machine.current_state == AWAITING_REQUEST:
            self.assoc.dul.to_user_queue.put(None)

    def _check_length(self, nr_bytes: int, limit: int) -> None:
        if nr_bytes > limit + _PDU_HEADER_BYTES:
            self._give_up()
            raise GuardLimitError(f"a PDU of {nr_bytes} bytes was announced, at most {limit} are accepted")

    def _give_up(self) -> None:
        self.hang_up()
        self._wake_association()

    def _set_time_left(self, connection: socket.socket, left_s: float) -> None:
        if left_s <= 0:
            self._give_up()
            raise GuardLimitError(f"a PDU was not complete after {self._limits.pdu_timeout_s:g} s")
        connection.settimeout(left_s)


class GuardedDimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Ends an association whose data set grows beyond what the node accepts: memory is not the peer's."""

    message: Any

    def __init__(self, association: Association, limits: Limits) -> None:
        super().__init__(association)
        self._limits = limits

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As its parent does, after looking at what has been gathered so far."""
        excess = self._excess()
        if not excess:
            super().receive_primitive(primitive)
            return
        _log.warning("association ended: %s", excess)
        self.message = None
        self.dul.event_queue.put("Evt19")

    def _excess(self) -> str:
        """What the peer has overdone, in words; empty when nothing."""
        if self.msg_queue.qsize() >= MAX_QUEUED_MESSAGES:
            return f"{MAX_QUEUED_MESSAGES} requests sent without waiting for an answer"
        message = self.message
        if message is None:
            return ""
        if message.encoded_command_set.tell() > MAX_COMMAND_SET_BYTES:
            return f"a command set of more than {MAX_COMMAND_SET_BYTES} bytes"
        if message.data_set.tell() > self._limits.max_data_set_bytes:
            return f"a data set of more than {self._limits.max_data_set_bytes} bytes"
        return ""


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Holds a limited number of connections, so that silent ones don't lock others out until ARTIM."""

    limits: Limits
    new_lane: Callable[[Association, GuardedSocket], Callable[[], bool]]
    tls: RenewedContext | None = None
    """``None`` for plain TCP; a listener with TLS never speaks plain."""
    request_queue_size = 128
    """Connections the system holds until they are looked at; with the usual 5 a burst waits for seconds."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a new connection is taken at all (:meth:`socketserver.BaseServer.verify_request`)."""
        open_now = self.active_associations
        known = self.limits.is_known_address
        if not known(client_address[0]):
            strangers = sum(not known(peer.requestor.address_info.address) for peer in open_now)
            return strangers < MAX_STRANGER_CONNECTIONS
        if len(open_now) >= self.limits.max_connections:
            _close_oldest_silent(open_now)
        return True


def _close_oldest_silent(associations: list[Association]) -> None:
    """Make room: of the connections that have not asked for anything yet, the oldest goes."""
    for association in associations:  # threads are listed in the order they were started
        connection = association.dul.socket
        if association.dul.state_machine.current_state == AWAITING_REQUEST and not connection.is_hung_up:
            _log.warning("a silent connection was closed to make room")
            connection.hang_up()
            return


class GuardedHandler(RequestHandler):  # type: ignore[misc]
    """Builds associations with the guards in place."""

    server: GuardedServer
    request: socket.socket

    def _create_association(self) -> Association:
        if self.server.tls is not None:  # the handshake is the association's own, never the listener's
            self.request = self.server.tls.current().wrap_socket(
                self.request, server_side=True, do_handshake_on_connect=False
            )
        association = super()._create_association()
        limits = self.server.limits
        # the parent's socket announced "connection opened" (Evt5); the guarded one announces it again
        association.dul.event_queue.get_nowait()
        association.dul.socket = GuardedSocket(association, self.request, limits)
        association.dul.socket.lane = self.server.new_lane(association, association.dul.socket)
        association.dimse = GuardedDimse(association, limits)
        return association


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Re-arm quick acknowledgements (Linux forgets them): senders with Nagle on wait for each otherwise."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
