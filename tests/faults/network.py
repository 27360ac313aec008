"""A link between a caller and a listener, on loopback: it passes PDU after PDU on, until it breaks at one."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.faults.killing import Moment, Point

LOOK_S = 0.02
"""How often a connection looks whether it has been cut, when nothing comes."""

HEADER_BYTES = 6
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""


class _LostError(Exception):
    """Nothing will pass on this connection any more."""


class Link:
    """Carries the connections that are opened to ``port`` on to whoever listens on ``target_port``.

    What the caller sends goes ``there``, what the listener answers goes ``back``; of both the PDUs are
    counted. :meth:`at` has something done at one of them.
    """

    def __init__(self, target_port: int, there: str, back: str, node_calls: bool) -> None:
        self._target_port = target_port
        self._there, self._back, self._node_calls = there, back, node_calls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.counts: Counter[str] = Counter()
        self._acts: dict[tuple[str, int], tuple[Moment, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._is_cut = False
        self._resets = self._losses = 0
        self._silent: list[socket.socket] = []
        """The node's ends of what was lost: nobody tells it."""
        threading.Thread(target=self._listen, daemon=True).start()

    def at(self, point: Point, act: Callable[[], None]) -> None:
        """Do something at the n-th PDU of a way, before it, after it, or with half of it sent."""
        self._acts[point.kind, point.number] = point.moment, act

    def reset(self, seconds: float) -> None:
        """Every connection is reset, and so are new ones for a while."""
        self._is_cut = True
        self._resets += 1
        _later(seconds, lambda: setattr(self, "_is_cut", False))

    def stall(self, seconds: float) -> None:
        """Nothing passes for a while; then it goes on where it was."""
        self._passing.clear()
        _later(seconds, self._passing.set)

    def lose(self, seconds: float) -> None:
        """Nothing passes for a while; afterwards the node's peer has given up, of which the node hears
        nothing."""
        self._losses += 1
        self.stall(seconds)

    def end(self) -> None:
        """Reset everything."""
        self._is_cut = True
        self._resets += 1
        self._passing.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for one in self._silent:
            one.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._carry, args=(caller,), daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        born = self._resets, self._losses
        with ExitStack() as ends:
            ends.callback(_reset, caller)
            with suppress(OSError):
                if self._is_cut:
                    return
                listener = socket.create_connection(("127.0.0.1", self._target_port))
                ends.callback(_reset, listener)
                try:
                    self._pass_on(caller, listener, born)
                    caller.close()
                    listener.close()
                except _LostError:
                    ends.pop_all()
                    near, far = (caller, listener) if self._node_calls else (listener, caller)
                    _reset(far)
                    self._silent.append(near)

    def _pass_on(self, caller: socket.socket, listener: socket.socket, born: tuple[int, int]) -> None:
        """Until both have said that they send no more. Raises OSError, _LostError."""
        ways = {caller: (listener, self._there), listener: (caller, self._back)}
        while ways:
            ready, _, _ = select.select(list(ways), (), (), LOOK_S)
            self._look(born)
            for source in ready:
                sink, way = ways[source]
                pdu = _pdu(source)
                if pdu:
                    self._pass(pdu, sink, way, born)
                else:
                    sink.shutdown(socket.SHUT_WR)
                    del ways[source]

    def _pass(self, pdu: bytes, sink: socket.socket, way: str, born: tuple[int, int]) -> None:
        with self._lock:
            self.counts[way] += 1
            moment, act = self._acts.pop((way, self.counts[way]), (Moment.AFTER, None))
        cut = {Moment.BEFORE: 0, Moment.HALF: len(pdu) // 2, Moment.AFTER: len(pdu)}[moment]
        self._look(born)
        sink.sendall(pdu[:cut])
        if act is not None:
            act()
            self._look(born)
            sink.sendall(pdu[cut:])

    def _look(self, born: tuple[int, int]) -> None:
        """Go on when that is possible. Raises OSError, _LostError."""
        self._passing.wait()
        if self._resets != born[0]:
            raise ConnectionResetError
        if self._losses != born[1]:
            raise _LostError


def _pdu(source: socket.socket) -> bytes:
    """The next one, or what there is of it when its sender ends. Raises OSError."""
    header = _up_to(source, HEADER_BYTES)
    return header + _up_to(source, int.from_bytes(header[2:], "big") if len(header) == HEADER_BYTES else 0)


def _up_to(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := source.recv(count - len(data))):
        data += part
    return data


def _reset(end: socket.socket) -> None:
    """No harm to who has ended by itself."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    end.close()


def _later(seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


@contextmanager
def link(target_port: int, listener: str, node_calls: bool = False) -> Iterator[Link]:
    """A link whose ways are "to" and "from" its ``listener``."""
    made = Link(target_port, f"to {listener}", f"from {listener}", node_calls)
    try:
        yield made
    finally:
        made.end()
