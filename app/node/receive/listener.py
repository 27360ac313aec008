"""The listening side: who is let in, how many, and how an association that fails is told.

Everything here goes into :meth:`pynetdicom.ae.ApplicationEntity.make_server` as its server class and request
handler, its documented points of extension.
"""

from __future__ import annotations

import errno
import gc
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from app.errors import describe_exception
from app.node.receive.association_guard import AWAITING_REQUEST, GuardedDimse, GuardedSocket, Limits
from app.node.tls import RenewedContext

MAX_STRANGER_CONNECTIONS = 8
"""Connections at one time from addresses that no caller has: enough to tell each why it is rejected."""

ABORT_S = 2.0
"""Aborted associations may take so long to end, all together; then their connections are cut."""

OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PAUSE_S = 1.0
"""With no descriptor or memory left for a connection, until the next try: it stays ready meanwhile."""

TOO_MANY_STRANGERS = f"{MAX_STRANGER_CONNECTIONS} connections from addresses of no caller are open already"

MADE_ROOM = "it said nothing, and was closed to make room for another"


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Silent:
    """A connection of which nothing has come yet."""

    address: Any
    until_s: float


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Holds a limited number of connections, so that silent ones don't lock others out until ARTIM.

    A connection becomes an association, with its two threads, once its first byte has come. Until then it
    waits in the listener's own loop: of those, the oldest gives way when there are too many.
    """

    limits: Limits
    new_lane: Callable[[Association, GuardedSocket], Callable[[], bool]]
    on_end: Callable[[Association, GuardedSocket], None]
    """Learns of each association that has ended, however it did."""
    on_silent_end: Callable[[str, str], None]
    """Learns of the address of a connection that never said anything, and why it was closed."""
    tls: RenewedContext | None = None
    """``None`` for plain TCP; a listener with TLS never speaks plain."""
    request_queue_size = 128
    """Connections the system holds until they are looked at; with the usual 5 a burst waits for seconds."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._ending, self._ended = threading.Event(), threading.Event()
        self._silent: dict[socket.socket, Silent] = {}
        """In the order in which they came."""
        self.has_garbage = False
        super().__init__(*arguments, **keywords)

    def service_actions(self) -> None:
        """Collect what ended associations have left, in cycles, once none is open.

        The parent collects every few seconds, which stops all threads, those that receive as well.
        """
        if self.has_garbage and not self.active_associations:
            self.has_garbage = False
            gc.collect()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Let in, until :meth:`shutdown`; other than its parent's, it waits for the first bytes too."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.socket, selectors.EVENT_READ)
                while not self._ending.is_set():
                    self._turn(selector, poll_interval)
                for connection in tuple(self._silent):
                    self._drop(selector, connection)
        finally:
            self._ended.set()

    @property
    def has_ended(self) -> bool:
        """Whether nobody is let in any more, be it by a fault."""
        return self._ended.is_set()

    def _turn(self, selector: selectors.BaseSelector, longest_s: float) -> None:
        ready = [key.fileobj for key, _ in selector.select(longest_s)]
        if self.socket in ready:
            self._accept(selector)
        for connection in ready:
            if connection in self._silent:
                self._let_in(selector, connection)
        self._close_late(selector)
        if not ready:
            self.service_actions()

    def shutdown(self) -> None:
        """End :meth:`serve_forever`, which must have been begun, and close the listening socket."""
        self._ending.set()
        self._ended.wait()
        self.server_close()
        self.ae._servers.remove(self)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a new connection is taken at all (:meth:`socketserver.BaseServer.verify_request`)."""
        known = self.limits.is_known_address
        if known(client_address[0]):
            return True
        here = [silent.address[0] for silent in self._silent.values()]
        here += [peer.requestor.address_info.address for peer in self.active_associations]
        return sum(not known(address) for address in here) < MAX_STRANGER_CONNECTIONS

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, address = self.get_request()
        except OSError as error:
            # else it was gone before it was looked at
            if error.errno in OUT_OF_ROOM:
                _log.error("no connection can be taken now", extra={"reason": error.strerror})
                self._ending.wait(PAUSE_S)
            return
        if not self.verify_request(connection, address):
            self.shutdown_request(connection)
            self.on_silent_end(address[0], TOO_MANY_STRANGERS)
            return
        if len(self._silent) >= self.limits.max_connections:
            self._drop(selector, next(iter(self._silent)), MADE_ROOM)
        self._silent[connection] = Silent(address, time.monotonic() + self.ae.acse_timeout)
        selector.register(connection, selectors.EVENT_READ)

    def _let_in(self, selector: selectors.BaseSelector, connection: Any) -> None:
        try:
            is_open = bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            is_open = False
        if not is_open:  # a port check
            self._drop(selector, connection)
            return
        open_now = self.active_associations
        if len(open_now) >= self.limits.max_connections:
            _close_oldest_undecided(open_now)
        selector.unregister(connection)
        address = self._silent.pop(connection).address
        try:
            self.finish_request(connection, address)
        except Exception as error:  # noqa: BLE001  one connection must not end the listener
            _log.error("a connection could not be served", exc_info=error)
            self.shutdown_request(connection)
            self.on_silent_end(address[0], f"the node could not serve it: {describe_exception(error)}")

    def _close_late(self, selector: selectors.BaseSelector) -> None:
        """ARTIM (PS3.8 9.1.5) for those that have not said anything."""
        while self._silent:
            connection, silent = next(iter(self._silent.items()))
            if silent.until_s > time.monotonic():
                return
            why = f"no association request came for {self.ae.acse_timeout:g} s"
            self._drop(selector, connection, why)

    def _drop(self, selector: selectors.BaseSelector, connection: Any, why: str = "") -> None:
        selector.unregister(connection)
        address = self._silent.pop(connection).address[0]
        self.shutdown_request(connection)
        if why:
            self.on_silent_end(address, why)


def _close_oldest_undecided(associations: list[Association]) -> None:
    """Make room: of those whose request has begun and not come whole, the oldest goes."""
    for association in associations:  # threads are listed in the order they were started
        connection = association.dul.socket
        if association.dul.state_machine.current_state == AWAITING_REQUEST and not connection.is_hung_up:
            connection.note(MADE_ROOM)
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
        # the parent's socket announced "connection opened" (Evt5); the guarded one announces it again
        association.dul.event_queue.get_nowait()
        connection = GuardedSocket(association, self.request, self.server.limits)
        association.dul.socket = connection
        connection.lane = self.server.new_lane(association, connection)
        association.dimse = GuardedDimse(association)
        association.dimse.is_tls = self.server.tls is not None
        run, send_abort, on_end = association.run, association.acse.send_abort, self.server.on_end

        def run_to_the_end() -> None:
            try:
                run()
            finally:
                on_end(association, connection)
                self.server.has_garbage = True

        def abort_in_words(source: int) -> None:
            if association.dul.idle_timer_expired():
                connection.note(f"nothing came for {association.network_timeout:g} s")
            send_abort(source)

        association.run, association.acse.send_abort = run_to_the_end, abort_in_words
        return association


def abort(associations: Sequence[Any]) -> None:
    """End them all at once; one whose image waits for the disk, or whose peer says nothing, is cut off."""
    for one in associations:
        if one.dul.socket is not None:
            one.dul.socket.note("the node was stopped")
    aborts = [threading.Thread(target=one.abort, name="store-scp-abort", daemon=True) for one in associations]
    for thread in aborts:
        thread.start()
    deadline = time.monotonic() + ABORT_S
    for thread, association in zip(aborts, associations, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive() and association.dul.socket is not None:
            association.dul.socket.hang_up()


def is_let_in(association: Any) -> bool:
    """Whether it counts among those that are open, be it that it is still being accepted."""
    connection = association.dul.socket
    is_over = association.is_released or association.is_aborted or connection is None
    return association.is_established or (not is_over and connection.is_accepted)
