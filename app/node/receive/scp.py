"""The Store SCP: what the node answers to those who send (PS3.4 Annex B), and to an echo (Annex A).

An observer learns of each :class:`~app.node.receive.reception.Reception` before the sender gets its answer.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification

from app.errors import MisconfiguredError, RetryLaterError
from app.node.peers import NO_TLS, Listener, ReceivePolicy, TlsPolicy
from app.node.receive.association_guard import GuardedSocket, Limits, listener_words
from app.node.receive.commitment import CommitmentDesk
from app.node.receive.listener import GuardedHandler, GuardedServer, abort, is_let_in
from app.node.receive.opening import (
    NO_REASON,
    TOO_MANY,
    UNKNOWN_CALLED,
    UNKNOWN_CALLER,
    UNKNOWN_CONTEXT,
    Rejection,
    caller_of,
)
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

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The only one that there is (PS3.7 A.2.1)."""

DAMAGED = "its association request is damaged, or not of protocol version 1 (PS3.8 9.3.2)"

STOP_POLL_S = 0.1
"""How often the listener looks whether it should stop; new connections don't wait for it."""

_log = logging.getLogger(__name__)


class StoreScp:
    """Listens for studies and keeps them in the inbox.

    ``observe`` is called with each reception on the association's thread, before the sender gets its answer.
    When it raises RetryLaterError, a success becomes A700; the sender sends again, which is harmless.
    """

    def __init__(
        self,
        policy: ReceivePolicy,
        inbox: Inbox,
        observe: Observer,
        tls: TlsPolicy = NO_TLS,
        desk: CommitmentDesk | None = None,
    ) -> None:
        """``desk`` answers to storage commitment; without it the node takes part in none."""
        self._desk = desk
        self.policy = policy
        self._inbox = inbox
        self._observe = observe
        self._tls = tls
        self._servers: tuple[GuardedServer, ...] = ()
        self._stopping = False
        self._admitting = threading.Lock()
        self._storage = {
            context.abstract_syntax: build_context(context.abstract_syntax, list(ACCEPTED_TRANSFER_SYNTAXES))
            for context in AllStoragePresentationContexts
        }

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports listened on, in the policy's order; free ones that were found where it says 0."""
        found = tuple(int(server.server_address[1]) for server in self._servers)
        return found or tuple(address.port for address in self.policy.addresses)

    @property
    def port(self) -> int:
        """The first of them."""
        return self.ports[0]

    @property
    def listens(self) -> bool:
        return bool(self._servers) and not self._stopping and not any(one.has_ended for one in self._servers)

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
            for address in self.policy.addresses:
                servers.append(self._listen(address))
            self._recover()
            self._inbox.follow(self.policy.min_free_mb)
        except BaseException:
            for server in servers:
                server.server_close()
            raise
        self._servers = tuple(servers)
        for server, address in zip(servers, self.policy.addresses, strict=True):
            serve = partial(server.serve_forever, STOP_POLL_S)
            threading.Thread(target=serve, name="store-scp", daemon=True).start()
            found = replace(address, port=int(server.server_address[1]))
            _log.info("listening as %s on %s", self.policy.ae_title, found)

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
        abort(self._associations())
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
        policy = self.policy
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
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_requested),
                    *(self._desk.handlers() if self._desk else ()),
                ],
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
            pdu_timeout_s=policy.pdu_timeout_s,
            max_connections=CONNECTIONS_PER_ASSOCIATION * policy.max_associations,
            is_known_address=self._is_known_address,
        )
        max_data_set_bytes = int(policy.max_instance_mb * 1e6)
        server.new_lane = lambda association, connection: (
            StoreLane(association, connection, self._begin, max_data_set_bytes).run
        )
        server.on_end = self._on_end
        where = listener_words(server.server_address[1], address.tls)
        server.on_silent_end = lambda peer, why: self._tell(
            Reception(ReceptionEvent.ASSOCIATION_REJECTED, "", peer, why, listener=where)
        )
        entity._servers.append(server)  # its shutdown() takes it from there
        return server

    def _on_end(self, association: Any, connection: GuardedSocket) -> None:
        """One line for each association that fails, by whatever fault; those rejected here have theirs."""
        if association.is_released or connection.is_told:
            return
        opening = connection.opening
        began = connection.is_accepted
        self._tell(
            Reception(
                event=ReceptionEvent.ASSOCIATION_FAILED if began else ReceptionEvent.ASSOCIATION_REJECTED,
                calling_ae=opening.calling,
                address=association.requestor.address_info.address,
                detail=connection.fault or ("it was aborted" if began else DAMAGED),
                called_ae=opening.called,
                listener=connection.listener,
            )
        )

    def _tell(self, reception: Reception) -> None:
        try:
            self._observe(reception)
        except RetryLaterError as error:
            _log.error("not written down", extra={"reason": str(error)})

    def _is_known_address(self, address: str) -> bool:
        may_answer = self._desk is not None and self._desk.knows_address(address)
        return may_answer or any(one.allows_address(address) for one in self.policy.allowed_callers)

    def _may_send(self, calling: str, address: str) -> bool:
        return any(caller.allows(calling, address) for caller in self.policy.allowed_callers)

    def _on_requested(self, event: evt.Event) -> None:
        """Reject, or offer contexts. Closed unless decided otherwise: pynetdicom only logs what is raised."""
        association = event.assoc
        rejection: Rejection | None = NO_REASON
        try:
            rejection = self._rejection(association)
        finally:
            if rejection is None:
                association.acceptor.supported_contexts = self._contexts_for(association)
            else:
                association.dul.socket.is_told = True
                association.acse.send_reject(*rejection)
                association.kill()

    def _rejection(self, association: Any) -> Rejection | None:
        opening = association.dul.socket.opening
        address = association.requestor.address_info.address
        with self._admitting:  # else all who ask at one instant would find room
            rejection, detail = self._judge(association, opening.calling, address)
            association.dul.socket.is_accepted = rejection is None
        if rejection is not None:
            event = ReceptionEvent.ASSOCIATION_REJECTED
            ends = {"called_ae": opening.called, "listener": association.dul.socket.listener}
            self._observe(Reception(event, opening.calling, address, detail, **ends))
        return rejection

    def _judge(self, association: Any, calling: str, address: str) -> tuple[Rejection | None, str]:
        """How to reject an association, and why, in words; ``None`` to accept it."""
        request, policy = association.requestor.primitive, self.policy
        caller = next((one for one in policy.allowed_callers if one.allows(calling, address)), None)
        if request.application_context_name != APPLICATION_CONTEXT:
            return UNKNOWN_CONTEXT, "its application context is not that of DICOM (PS3.7 A.2.1)"
        if caller is None and not (self._desk and self._desk.knows(calling, address)):
            return UNKNOWN_CALLER, "this AE title may not send from this address"
        if request.called_ae_title.strip() != policy.ae_title:
            return UNKNOWN_CALLED, f"it called another AE than {policy.ae_title}"
        open_now = [one for one in self._associations() if is_let_in(one)]
        if len(open_now) >= policy.max_associations:
            return TOO_MANY, f"{policy.max_associations} associations are open"
        if caller is not None and caller.max_associations:
            theirs = (
                caller.allows(one.dul.socket.opening.calling, one.requestor.address_info.address)
                for one in open_now
                if one.dul.socket is not None
            )
            if sum(theirs) >= caller.max_associations:
                return TOO_MANY, f"{caller.max_associations} associations of this caller are open"
        return None, ""

    def _associations(self) -> list[Any]:
        return [one for server in self._servers for one in server.active_associations]

    def _contexts_for(self, association: Any) -> list[PresentationContext]:
        """Ours for what was asked alone: copying all 170 for each association takes 0.1 s."""
        request = association.requestor.primitive
        asked = {context.abstract_syntax for context in request.presentation_context_definition_list}
        wanted = sorted(asked & self._storage.keys()) if self._may_send(*caller_of(association)) else ()
        services = [build_context(Verification), *([self._desk.context()] if self._desk else ())]
        return [*services, *(self._storage[sop_class] for sop_class in wanted)]

    def _begin(self, association: Any, request: StoreRequest) -> InboxIntake:
        calling, address = caller_of(association)
        context = association._accepted_cx[request.context_id]
        command = StoreCommand(
            sop_instance_uid=request.sop_instance_uid.decode("ascii", errors="replace"),
            sop_class_uid=request.sop_class_uid.decode("ascii", errors="replace"),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            calling_ae=calling,
        )
        intake = InboxIntake(self._inbox, self._observe, command, address)
        intake.begin(self.policy.min_free_mb, str(context.abstract_syntax))
        return intake
