"""The Store SCP: what the node answers to those who send (PS3.4 Annex B), and to an echo (Annex A).

An observer learns of each :class:`~app.node.receive.reception.Reception` before the sender gets its answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification

from app.errors import MisconfiguredError, RetryLaterError
from app.node.policy import Listener, ReceivePolicy, TlsPolicy
from app.node.receive.association_guard import GuardedHandler, GuardedServer, Limits
from app.node.receive.reception import SUCCESS, InboxIntake, Observer, Reception, ReceptionEvent
from app.node.receive.store_lane import StoreLane, StoreRequest
from app.node.records.inbox import Inbox
from app.node.records.instances import StoreCommand
from app.node.records.pending import translated_errors
from app.node.tls import RenewedContext, server_context

ACCEPTED_TRANSFER_SYNTAXES: tuple[str, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.RLELossless,
    uid.ExplicitVRBigEndian,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
)
"""All that carry their pixels with them (PS3.5 Annex A), in order of preference where a sender offers several
in one context: explicit VR first, which keeps private elements readable; lossless before lossy. Whether an
image can be used is decided on loading."""

CONNECTIONS_PER_ASSOCIATION = 4
"""Connections that may be open, most of them not associated yet, for each allowed association."""

STOP_POLL_S = 0.1
"""How often the listener looks whether it should stop; new connections don't wait for it."""

ABORT_S = 2.0
"""Aborted associations may take so long to end, all together; then their connections are cut."""

NO_TLS = TlsPolicy()
"""For a node whose listeners are plain."""

_log = logging.getLogger(__name__)


class _Refusal(Enum):
    """A-ASSOCIATE-RJ result, source, reason (PS3.8 table 9-21)."""

    NO_REASON = (1, 1, 1)
    UNKNOWN_CALLER = (1, 1, 3)
    UNKNOWN_CALLED = (1, 1, 7)
    TOO_MANY = (2, 3, 2)


class StoreScp:
    """Listens for studies and keeps them in the inbox.

    ``observe`` is called with each reception on the association's thread, before the sender gets its answer.
    When it raises RetryLaterError, a success becomes A700; the sender sends again, which is harmless.
    """

    def __init__(
        self, policy: ReceivePolicy, inbox: Inbox, observe: Observer, tls: TlsPolicy = NO_TLS
    ) -> None:
        self._policy = policy
        self._inbox = inbox
        self._observe = observe
        self._tls = tls
        self._servers: tuple[GuardedServer, ...] = ()
        self._stopping = False
        self._storage = {
            context.abstract_syntax: build_context(context.abstract_syntax, list(ACCEPTED_TRANSFER_SYNTAXES))
            for context in AllStoragePresentationContexts
        }

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports listened on, in the policy's order; free ones that were found where it says 0."""
        found = tuple(int(server.server_address[1]) for server in self._servers)
        return found or tuple(address.port for address in self._policy.addresses)

    @property
    def port(self) -> int:
        """The first of them."""
        return self.ports[0]

    @property
    def listens(self) -> bool:
        return bool(self._servers) and not self._stopping

    def start(self) -> None:
        """Take the ports, put the inbox in order, then answer.

        The ports come first: while another node has them, files being written in the inbox are that node's.

        Raises:
            MisconfiguredError: an address can't be listened on, a certificate can't be used, or another node
                receives into the inbox.
            RetryLaterError: the inbox's disk or database, or the observer's, does not answer.
        """
        # its own handlers describe every PDU in words, for the log, at a third of the time of an image
        _config.LOG_HANDLER_LEVEL = "none"
        servers: list[GuardedServer] = []
        try:
            for address in self._policy.addresses:
                servers.append(self._listen(address))
            self._recover()
            self._inbox.follow(self._policy.min_free_mb)
        except BaseException:
            for server in servers:
                server.server_close()
            raise
        self._servers = tuple(servers)
        for server, address in zip(servers, self._policy.addresses, strict=True):
            serve = partial(server.serve_forever, STOP_POLL_S)
            threading.Thread(target=serve, name="store-scp", daemon=True).start()
            found = replace(address, port=int(server.server_address[1]))
            _log.info("listening as %s on %s", self._policy.ae_title, found)

    def stop(self, drain_s: float = 10.0) -> None:
        """Take no new association, let open ones end for ``drain_s``, then abort what is left.

        It returns even when the disk or the database does not answer: what is kept and not indexed then is
        found at the next start.
        """
        if not self._servers:
            return
        self._stopping = True
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + drain_s
        while self._associations() and time.monotonic() < deadline:
            time.sleep(STOP_POLL_S / 5)
        _abort(self._associations())
        self._servers, self._stopping = (), False
        try:
            self._inbox.stop_following()
        except (RetryLaterError, OSError) as error:
            _log.error("not indexed, which the next start does", extra={"reason": str(error)})

    def _recover(self) -> None:
        """Put the inbox in order. The observer learns of a conflict that nobody knew of before the stop."""
        with translated_errors():
            known = {row.path for row in self._inbox.conflicting()}
            self._inbox.recover()
            new = [row for row in self._inbox.conflicting() if row.path not in known]
        for row in {row.sop_instance_uid: row for row in new}.values():
            uids = row.study_instance_uid, row.sop_instance_uid
            found = "found at a start, not written down before"
            self._observe(Reception(ReceptionEvent.CONFLICT, row.calling_ae, "", found, SUCCESS, *uids))

    def _listen(self, address: Listener) -> GuardedServer:
        policy = self._policy
        tls = None
        if address.tls:
            make = partial(server_context, client_certificates=address.client_certificate)
            tls = RenewedContext(self._tls, make)
        entity = AE(ae_title=policy.ae_title)
        entity.maximum_pdu_size = policy.max_pdu_bytes
        entity.acse_timeout = policy.association_timeout_s
        entity.network_timeout = policy.idle_timeout_s
        # out of the way: pynetdicom would count silent connections too; _refusal counts established ones
        entity.maximum_associations = 1_000_000
        try:
            server: GuardedServer = entity.make_server(
                (address.host, address.port),
                contexts=[build_context(Verification)],
                evt_handlers=[(evt.EVT_REQUESTED, self._on_requested)],
                server_class=GuardedServer,
                request_handler=GuardedHandler,
            )
        except OSError as error:
            raise MisconfiguredError(
                f"receive.host {address} can't be listened on: {error.strerror}; "
                "stop what listens there, or set receive.host and receive.port (below 1024: a right)"
            ) from error
        server.tls = tls
        server.limits = Limits(
            max_pdu_bytes=policy.max_pdu_bytes,
            max_data_set_bytes=int(policy.max_instance_mb * 1e6),
            pdu_timeout_s=policy.pdu_timeout_s,
            max_connections=CONNECTIONS_PER_ASSOCIATION * policy.max_associations,
            is_known_address=self._is_known_address,
            on_failed_handshake=self._on_failed_handshake,
        )
        server.new_lane = lambda association, connection: (
            StoreLane(association, connection, self._begin, server.limits.max_data_set_bytes).run
        )
        entity._servers.append(server)  # its shutdown() takes it from there
        return server

    def _on_failed_handshake(self, address: str, why: str) -> None:
        try:
            self._observe(Reception(ReceptionEvent.ASSOCIATION_REJECTED, "", address, why))
        except RetryLaterError as error:
            _log.error("not written down", extra={"reason": str(error)})

    def _is_known_address(self, address: str) -> bool:
        return any(caller.allows_address(address) for caller in self._policy.allowed_callers)

    def _on_requested(self, event: evt.Event) -> None:
        """Reject, or offer contexts. Closed unless decided otherwise: pynetdicom only logs what is raised."""
        association = event.assoc
        refusal: _Refusal | None = _Refusal.NO_REASON
        try:
            refusal = self._refusal(association)
        finally:
            if refusal is None:
                association.acceptor.supported_contexts = self._contexts_for(association)
            else:
                association.acse.send_reject(*refusal.value)
                association.kill()

    def _refusal(self, association: Any) -> _Refusal | None:
        request = association.requestor.primitive
        calling, address = request.calling_ae_title.strip(), association.requestor.address_info.address
        if not any(caller.allows(calling, address) for caller in self._policy.allowed_callers):
            refusal, detail = _Refusal.UNKNOWN_CALLER, "this AE title may not send from this address"
        elif request.called_ae_title.strip() != self._policy.ae_title.strip():
            refusal, detail = _Refusal.UNKNOWN_CALLED, f"it called another AE than {self._policy.ae_title}"
        elif self._established() >= self._policy.max_associations:
            refusal, detail = _Refusal.TOO_MANY, f"{self._policy.max_associations} associations are open"
        else:
            return None
        self._observe(Reception(ReceptionEvent.ASSOCIATION_REJECTED, calling, address, detail))
        return refusal

    def _established(self) -> int:
        return sum(one.is_established for one in self._associations())

    def _associations(self) -> list[Any]:
        return [one for server in self._servers for one in server.active_associations]

    def _contexts_for(self, association: Any) -> list[PresentationContext]:
        """Ours for what was asked alone: copying all 170 for each association takes 0.1 s."""
        asked = {
            context.abstract_syntax
            for context in association.requestor.primitive.presentation_context_definition_list
        }
        storage = (self._storage[sop_class] for sop_class in sorted(asked & self._storage.keys()))
        return [build_context(Verification), *storage]

    def _begin(self, association: Any, request: StoreRequest) -> InboxIntake:
        requestor = association.requestor
        command = StoreCommand(
            sop_instance_uid=request.sop_instance_uid.decode("ascii", errors="replace"),
            sop_class_uid=request.sop_class_uid.decode("ascii", errors="replace"),
            transfer_syntax_uid=str(association._accepted_cx[request.context_id].transfer_syntax[0]),
            calling_ae=requestor.primitive.calling_ae_title.strip(),
        )
        intake = InboxIntake(self._inbox, self._observe, command, requestor.address_info.address)
        intake.begin(self._policy.min_free_mb)
        return intake


def _abort(associations: Sequence[Any]) -> None:
    """End them all at once; one whose image waits for the disk, or whose peer says nothing, is cut off."""
    aborts = [threading.Thread(target=one.abort, name="store-scp-abort", daemon=True) for one in associations]
    for abort in aborts:
        abort.start()
    deadline = time.monotonic() + ABORT_S
    for abort, association in zip(aborts, associations, strict=True):
        abort.join(max(0.0, deadline - time.monotonic()))
        if abort.is_alive() and association.dul.socket is not None:
            association.dul.socket.hang_up()
