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
from app.node.peers import TlsPolicy

CIPHERS_TLS_1_2 = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
"""RFC 9325 4.2; those of TLS 1.3 are OpenSSL's own three, all of them allowed."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which ssl.VerifyFlags does not name."""

_WORDS = {
    "WRONG_VERSION_NUMBER": "no TLS is spoken there",
    "HTTP_REQUEST": "an HTTP request came, no TLS",
    "UNSUPPORTED_PROTOCOL": "TLS 1.1 or older was offered, expected TLS 1.2 or 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer does not speak TLS 1.2 or 1.3",
    "NO_SHARED_CIPHER": "the peer offers no cipher suite of BCP 195 (ECDHE with AES-GCM)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refuses our cipher suites, or wants a certificate of us",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of us (tls.certificate)",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the CA of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refuses our certificate as bad",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer refuses our certificate as expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer refuses our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer refuses the kind of our certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "the peer can't verify our certificate's signature",
    "UNEXPECTED_EOF_WHILE_READING": "the peer ended the TLS handshake without a word",
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short: RSA needs 2048 bit, elliptic curves 256",
    "CA_KEY_TOO_SMALL": "the CA's key is too short: RSA needs 2048 bit, elliptic curves 256",
    "CA_MD_TOO_WEAK": "the signature uses SHA-1 or MD5, expected SHA-256 or better",
}
"""OpenSSL's reasons, as they are met in practice, in plain words."""

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


def continue_handshake(connection: ssl.SSLSocket) -> bool:
    """Go on as far as the peer's bytes allow, without waiting for more; whether the handshake is done.

    Raises:
        OSError: it failed (:func:`tls_words`).
    """
    connection.settimeout(0)
    try:
        connection.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True


def tls_words(error: OSError) -> str:
    """Why a handshake or a TLS connection failed, in plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate does not pass: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "TLS failed"
        return _WORDS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ')}")
    return error.strerror or str(error) or type(error).__name__


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
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE  # nothing is sent: the certificate is compared
    try:
        first, end, _ = Path(policy.certificate).read_text(encoding="ascii").partition(ssl.PEM_FOOTER)
        ours = ssl.PEM_cert_to_DER_cert(first[first.index(ssl.PEM_HEADER) :] + end)
        with socket.create_connection((host, port), timeout_s) as peer, asking.wrap_socket(peer) as secured:
            return secured.getpeercert(binary_form=True) == ours
    except (OSError, ValueError):  # it speaks no TLS, or our file holds no certificate, which is told apart
        return False


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
    _readable("tls.certificate", policy.certificate)
    trusting.load_verify_locations(policy.certificate)
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
    return dict(client.getpeercert() or {})


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS_TLS_1_2)
    return context


def _load_identity(context: ssl.SSLContext, policy: TlsPolicy) -> None:
    _readable("tls.certificate", policy.certificate)
    if policy.key:
        _readable("tls.key", policy.key)
    place = f"tls.certificate {policy.certificate} with tls.key {policy.key or policy.certificate}"
    try:
        context.load_cert_chain(policy.certificate, policy.key or None, password=_refuse_password)
    except ssl.SSLError as error:
        raise MisconfiguredError(f"{place}: {_file_words(error)}") from error


def _load_authorities(context: ssl.SSLContext, policy: TlsPolicy) -> None:
    _readable("tls.authorities", policy.authorities)
    try:
        context.load_verify_locations(policy.authorities)
    except ssl.SSLError as error:
        raise MisconfiguredError(f"tls.authorities {policy.authorities}: {_file_words(error)}") from error
    if not context.get_ca_certs():
        raise MisconfiguredError(
            f"tls.authorities {policy.authorities}: no certificate of a CA in it (basicConstraints CA:TRUE); "
            "give the CA's certificate, not the node's"
        )


def _readable(key: str, path: str) -> None:
    if not path:
        raise MisconfiguredError(f"{key} is empty, but TLS needs it: name a PEM file (docs/how-to/tls.md)")
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"{key} {path}: {error.strerror}; may the node's user read it?") from error


def _refuse_password() -> str:
    raise MisconfiguredError(
        "tls.key is locked by a password, which a node that starts by itself can't enter; take it off with "
        "openssl pkey -in locked.key -out node.key, and let the node's user alone read the file"
    )


def _file_words(error: ssl.SSLError) -> str:
    return _WORDS.get(error.reason or "", "no certificate or key in PEM form (-----BEGIN …)")


def _state_of(policy: TlsPolicy) -> tuple[object, ...]:
    """Changes when a file's content does."""
    return tuple(_file_state(path) for path in (policy.certificate, policy.key, policy.authorities) if path)


def _file_state(path: str) -> Iterable[object]:
    try:
        found = Path(path).stat()
    except OSError:
        return ("gone",)
    return found.st_mtime_ns, found.st_size, found.st_ino
