"""Our side of an association that we ask for, with what pynetdicom's lacks.

(``type: ignore[misc]``: the project reads pynetdicom without its types, so its classes are ``Any`` to mypy.)
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket


class ClientEntity(AE):  # type: ignore[misc]
    """An AE that says why a connection failed, and whose transfers can't stall for ever.

    Args:
        ae_title: ours.
        timeout_s: for the connection, for each answer, and for a stalled transfer.
    """

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
