"""What a file holds that should be a certificate or a private key in PEM form (RFC 7468), in plain words.

OpenSSL says of everything else that it found no start of a line.
"""

from __future__ import annotations

import re

CERTIFICATE, PRIVATE_KEY = "a certificate", "a private key"

_WANTED = {
    CERTIFICATE: re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----"),
    PRIVATE_KEY: re.compile(rb"-----BEGIN (\w+ )*PRIVATE KEY-----"),
}

_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")

_PEM_KINDS = {
    "CERTIFICATE REQUEST": "a certificate request (.csr), of which the CA has to make a certificate",
    "PRIVATE KEY": "a private key alone",
    "PUBLIC KEY": "a public key",
    "PKCS7": "PKCS#7; convert it: openssl pkcs7 -in FILE -print_certs -out NEW",
    "X509 CRL": "a list of revoked certificates",
    "CERTIFICATE": "a certificate alone",
}
"""By the end of their labels."""

_SEQUENCE, _INTEGER, _OBJECT = b"\x30", b"\x02", b"\x06"

_DER_KINDS = {
    _INTEGER + b"\x01\x03": "PKCS#12 (.p12, .pfx); convert it: openssl pkcs12 -in FILE -nodes -out NEW",
    _INTEGER: "a private key in DER form; convert it: openssl pkey -inform DER -in FILE -out NEW",
    _OBJECT: "PKCS#7 in DER form; convert it: openssl pkcs7 -inform DER -in FILE -print_certs -out NEW",
    _SEQUENCE: "a certificate in DER form; convert it: openssl x509 -inform DER -in FILE -out NEW",
}
"""By what their outermost sequence begins with (RFC 7292, 5958, 5652, 5280)."""


def mistaken_for(wanted: str, content: bytes) -> str:
    """What ``content`` holds in place of what is ``wanted``, and how to come to that; empty when it is there.

    Args:
        wanted: :data:`CERTIFICATE` or :data:`PRIVATE_KEY`.
    """
    if _WANTED[wanted].search(content):
        return ""
    if not content.strip():
        return "an empty file"
    labels = [label.decode() for label in dict.fromkeys(_LABEL.findall(content))]
    for ending, words in _PEM_KINDS.items():
        if any(label.endswith(ending) for label in labels):
            return words
    if labels:
        return f"PEM of another kind ({', '.join(labels)})"
    if content[:1] != _SEQUENCE:
        return "no PEM text"
    length = content[1] - 0x80 if len(content) > 1 and content[1] > 0x80 else 0  # bytes of the length itself
    body = content[2 + length :]
    return next((words for begin, words in _DER_KINDS.items() if body.startswith(begin)), "a binary file")
