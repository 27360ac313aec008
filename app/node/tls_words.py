"""TLS that fails, in plain words: what was found, and what to do about it."""

from __future__ import annotations

import ssl

REASONS = {
    "WRONG_VERSION_NUMBER": "the peer speaks no TLS",
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
"""OpenSSL's reasons, as they are met in practice."""

SHOW_OURS = "set tls.certificate and tls.key to those of a CA that the peer knows"
_GIVE_OUR_CA = "give the peer the certificate of the CA that issued tls.certificate"
_ITS_LOG = "its log says why; ours has to be for clients too (extendedKeyUsage clientAuth)"
_IS_PLAIN = "if it is a plain one, take tls: true away from this destination; else set TLS up there"
_OLD_PEER = "it needs TLS 1.2 or 1.3 with ECDHE and AES-GCM; an old one needs a TLS proxy in front of it"

_ADVICE = {
    "WRONG_VERSION_NUMBER": _IS_PLAIN,
    "UNEXPECTED_EOF_WHILE_READING": _IS_PLAIN,
    "UNSUPPORTED_PROTOCOL": _OLD_PEER,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_PEER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"{SHOW_OURS}; {_OLD_PEER}",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": SHOW_OURS,
    "TLSV1_ALERT_UNKNOWN_CA": _GIVE_OUR_CA,
    "SSLV3_ALERT_BAD_CERTIFICATE": f"{_GIVE_OUR_CA}; {_ITS_LOG}",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "renew tls.certificate; is the peer's clock right?",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": f"{_GIVE_OUR_CA}; {_ITS_LOG}",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _ITS_LOG,
    "TLSV1_ALERT_DECRYPT_ERROR": _ITS_LOG,
}
"""What to do when a peer that we call is the cause, by OpenSSL's reason."""

_TRUST_ITS_CA = (
    "put the CA that issued its certificate into tls.authorities; the peer has to show the certificates "
    "between (openssl s_client -connect HOST:PORT -showcerts)"
)
_NAMED_OTHERWISE = "call it by a name in its certificate (host), or set tls_name to one"
_WEAK = "its owner needs one with SHA-256, and a key of RSA 2048 bit or P-256"

_ADVICE_ON_CERTIFICATES = {
    9: "is this host's clock right?",
    10: "its owner has to renew it; is this host's clock right?",
    **dict.fromkeys((2, 18, 19, 20, 21), _TRUST_ITS_CA),
    26: "its owner needs one for servers (extendedKeyUsage serverAuth)",
    **dict.fromkeys((62, 64), _NAMED_OTHERWISE),
    **dict.fromkeys((66, 67, 68), _WEAK),
}
"""What to do about the certificate that a peer shows, by OpenSSL's X509_V_ERR number."""


class HandshakeEndedError(OSError):
    """A peer that we call answers to TLS as one that speaks none: it hangs up, or says nothing."""


def tls_words(error: OSError) -> str:
    """Why a handshake or a TLS connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate does not pass: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "TLS failed"
        return REASONS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ')}")
    return error.strerror or str(error) or type(error).__name__


def tls_advice(error: OSError) -> str:
    """What to do when a call of ours failed; empty when that was not by TLS."""
    if isinstance(error, HandshakeEndedError):
        return _IS_PLAIN
    if isinstance(error, ssl.SSLCertVerificationError):
        return _ADVICE_ON_CERTIFICATES.get(error.verify_code, "openssl s_client -connect HOST:PORT shows it")
    if isinstance(error, ssl.SSLError):
        return _ADVICE.get(error.reason or "", "docs/how-to/tls.md says what a peer needs")
    return ""
