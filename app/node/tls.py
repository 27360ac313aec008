"""TLS for everything the node says to others: one identity, and the profile that DICOM asks for.

PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325): TLS 1.2 at least and 1.3 by preference, cipher suites with forward
secrecy and authenticated encryption alone, no renegotiation, no fallback to plain TCP. Both sides show a
certificate. OpenSSL's security level 2 refuses keys of less than 112 bits of strength (RSA of 1024 bit) and
signatures with SHA-1, ours and the peers'.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.errors import MisconfiguredError
from app.files.pem import CERTIFICATE, PRIVATE_KEY, mistaken_for
from app.node.peers import TlsPolicy
from app.node.tls_words import REASONS, HandshakeEndedError, tls_words

CIPHERS_TLS_1_2 = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
"""RFC 9325 4.2; those of TLS 1.3 are OpenSSL's own three, all of them allowed."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which ssl.VerifyFlags does not name."""

_log = logging.getLogger(__name__)


def server_context(policy: TlsPolicy, client_certificates: bool = True) -> ssl.SSLContext:
    """For a listener; with ``client_certificates`` a peer without one of the site's CA is refused.

    Raises:
        MisconfiguredError: a file is not named, can't be read, does not fit, or is too weak.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _load_identity(context, policy)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0  # nothing is resumed: each association shows its certificate
    context.options |= ssl.OP_NO_TICKET
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, policy)
    return context


def client_context(policy: TlsPolicy) -> ssl.SSLContext:
    """Towards a peer, whose certificate and name are checked; ours is shown where there is one.

    Raises:
        MisconfiguredError: as :func:`server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(context, policy)
    if policy.certificate:
        _load_identity(context, policy)
    return context


class RenewedContext:
    """A context that is made again when one of its files has changed, so that certificates are renewed
    without a restart. Connections that are open keep theirs.

    New files that can't be used (a key that has not followed its certificate yet) leave the old context in
    place; the log says so once, and they are tried again when they change.
    """

    def __init__(self, policy: TlsPolicy, make: Callable[[TlsPolicy], ssl.SSLContext]) -> None:
        self._policy = policy
        self._make = make
        self._lock = threading.Lock()
        self._seen = _state_of(policy)
        self._context = make(policy)

    def current(self) -> ssl.SSLContext:
        """The context for a new connection."""
        with self._lock:
            found = _state_of(self._policy)
            if found != self._seen:
                self._seen = found
                try:
                    self._context = self._make(self._policy)
                    _log.info("certificate renewed", extra={"path": self._policy.certificate})
                except MisconfiguredError as error:
                    _log.error("the earlier certificate stays in use", extra={"reason": str(error)})
            return self._context


def shake_hands(connection: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    """Begin TLS with a peer that we have called, whose certificate has to carry ``name``.

    Raises:
        OSError: it failed (:func:`~app.node.tls_words.tls_words`).
    """
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except (ConnectionError, TimeoutError) as error:
        how = error.strerror or str(error)
        words = f"the peer ended the TLS handshake ({how}), as one that speaks no TLS does"
        raise HandshakeEndedError(words) from error


def continue_handshake(connection: ssl.SSLSocket) -> bool:
    """Go on as far as the peer's bytes allow, without waiting for more; whether the handshake is done.

    Raises:
        OSError: it failed (:func:`~app.node.tls_words.tls_words`).
    """
    connection.settimeout(0)
    try:
        connection.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True


@dataclass(frozen=True)
class Validity:
    """Of a certificate: whose it is, and from when to when it holds."""

    name: str
    begins_at: datetime
    ends_at: datetime


def own_validity(policy: TlsPolicy) -> Validity:
    """Of the node's certificate.

    Raises:
        MisconfiguredError: as :func:`server_context`.
    """
    return _validity(_own(policy))


def authorities_validity(policy: TlsPolicy) -> tuple[Validity, ...]:
    """Of each CA's certificate.

    Raises:
        MisconfiguredError: as :func:`server_context`.
    """
    judge = _context(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(judge, policy)
    return tuple(_validity(one) for one in judge.get_ca_certs())


def expiries(policy: TlsPolicy) -> dict[str, datetime]:
    """When the node's certificate and those of the site's CAs end, by the words that name them.

    Raises:
        MisconfiguredError: as :func:`server_context`.
    """
    own = {f"tls.certificate {policy.certificate}": own_validity(policy)} if policy.certificate else {}
    authorities = authorities_validity(policy) if policy.authorities else ()
    others = {f"tls.authorities {policy.authorities} ({one.name})": one for one in authorities}
    return {name: one.ends_at for name, one in (own | others).items()}


def is_of_our_authorities(policy: TlsPolicy) -> bool:
    """Whether peers that know the CAs of ``tls.authorities`` alone take our certificate, its dates apart."""
    judge = _context(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(judge, policy)
    return _shown(policy, judge) is not None


def shows_our_certificate(policy: TlsPolicy, host: str, port: int, timeout_s: float) -> bool:
    """Whether what listens there speaks TLS and shows the node's certificate."""
    try:
        first, end, _ = Path(policy.certificate).read_text(encoding="ascii").partition(ssl.PEM_FOOTER)
        ours = ssl.PEM_cert_to_DER_cert(first[first.index(ssl.PEM_HEADER) :] + end)
        with socket.create_connection((host, port), timeout_s) as peer, _asked(peer) as secured:
            return secured.getpeercert(binary_form=True) == ours
    except (OSError, ValueError):  # it speaks no TLS, or our file holds no certificate, which is told apart
        return False


def speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    """Whether what listens there answers to TLS, be it by a refusal."""
    try:
        with socket.create_connection((host, port), timeout_s) as peer, _asked(peer):
            return True
    except ssl.SSLError as error:
        return error.reason not in (None, "WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING")
    except OSError:
        return False


def _asked(connection: socket.socket) -> ssl.SSLSocket:
    """TLS with whoever is there: nothing is sent by it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def _validity(certificate: Mapping[str, Any]) -> Validity:
    name = " ".join(str(field[1]) for part in certificate["subject"] for field in part)
    begin, end = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[key]), UTC)
        for key in ("notBefore", "notAfter")
    )
    return Validity(name, begin, end)


def _own(policy: TlsPolicy) -> dict[str, Any]:
    """Our certificate's fields, as :meth:`ssl.SSLSocket.getpeercert` has them."""
    trusting = _context(ssl.PROTOCOL_TLS_CLIENT)
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    _load_certificates(trusting, "tls.certificate", policy.certificate)
    found = _shown(policy, trusting)
    if found is None:
        raise MisconfiguredError(
            f"tls.certificate {policy.certificate}: no certificate for a server and client; make one with "
            "extendedKeyUsage serverAuth,clientAuth (docs/how-to/tls.md)"
        )
    return found


def _shown(policy: TlsPolicy, judge: ssl.SSLContext) -> dict[str, Any] | None:
    """What ``judge`` sees of our certificate in a handshake in memory; ``None`` when it does not pass."""
    judge.check_hostname = False
    judge.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(policy, client_certificates=False).wrap_bio(up, down, server_side=True)
    client = judge.wrap_bio(down, up)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return None
        except ssl.SSLError as error:  # such as a key of a kind that no cipher suite is for
            raise MisconfiguredError(f"tls.certificate {policy.certificate}: {tls_words(error)}") from error
    return dict(client.getpeercert() or {})


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS_TLS_1_2)
    return context


def _load_identity(context: ssl.SSLContext, policy: TlsPolicy) -> None:
    _require("tls.certificate", policy.certificate, CERTIFICATE)
    key = policy.key or policy.certificate
    _require("tls.key" if policy.key else "tls.key is empty, and tls.certificate", key, PRIVATE_KEY)
    try:
        context.load_cert_chain(policy.certificate, key, password=_refuse_password)
    except OSError as error:
        place = f"tls.certificate {policy.certificate} with tls.key {key}"
        raise MisconfiguredError(f"{place}: {_file_words(error)}") from error


def _load_authorities(context: ssl.SSLContext, policy: TlsPolicy) -> None:
    _load_certificates(context, "tls.authorities", policy.authorities)
    if not context.get_ca_certs():
        raise MisconfiguredError(
            f"tls.authorities {policy.authorities}: no certificate of a CA in it (basicConstraints CA:TRUE); "
            "give the CA's certificate, not the node's"
        )


def _load_certificates(context: ssl.SSLContext, key: str, path: str) -> None:
    _require(key, path, CERTIFICATE)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise MisconfiguredError(f"{key} {path}: {_file_words(error)}") from error


def _require(key: str, path: str, wanted: str) -> None:
    """Refuse a file that does not hold what is wanted, and say what it holds instead."""
    if not path:
        raise MisconfiguredError(f"{key} is empty, but TLS needs it: name a PEM file (docs/how-to/tls.md)")
    try:
        mistake = mistaken_for(wanted, Path(path).read_bytes())
    except OSError as error:
        raise MisconfiguredError(f"{key} {path}: {error.strerror}; may the node's user read it?") from error
    if mistake:
        raise MisconfiguredError(f"{key} {path}: expected {wanted} in PEM form, found {mistake}")


def _refuse_password() -> str:
    raise MisconfiguredError(
        "tls.key is locked by a password, which a node that starts by itself can't enter; take it off with "
        "openssl pkey -in locked.key -out node.key, and let the node's user alone read the file"
    )


def _file_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return REASONS.get(error.reason or "", "its PEM text is damaged; copy the file again")
    return error.strerror or type(error).__name__


def _state_of(policy: TlsPolicy) -> tuple[object, ...]:
    """Changes when a file's content does."""
    return tuple(_file_state(path) for path in (policy.certificate, policy.key, policy.authorities) if path)


def _file_state(path: str) -> Iterable[object]:
    try:
        found = Path(path).stat()
    except OSError:
        return ("gone",)
    return found.st_mtime_ns, found.st_size, found.st_ino
