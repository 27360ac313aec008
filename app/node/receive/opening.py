"""The first bytes of a connection: whether they ask for an association as PS3.8 says, and who asks.

A peer that speaks something else, or that pads its titles with what is no space, gets a plain reason in log
and audit; pynetdicom would end the one with a traceback and accept the other.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

_ASSOCIATE_RQ = 1
_PDU_TYPES = range(1, 8)
_HEADER_BYTES = 6
_TITLES = struct.Struct(">4x16s16s")
"""Called and calling AE title, after the protocol version (PS3.8 table 9-11)."""

_REJECTION = struct.Struct(">BxLxBBB")

_HTTP = re.compile(rb"GET |HEAD |POST |PUT |DELETE|OPTION|PATCH |TRACE |CONNEC|PRI \*")

_G0 = re.compile(r"[ -\[\]-~]{16}")
"""An AE title holds what the ISO 646 basic G0 set has, without backslash (PS3.5 6.2)."""


class Rejection(NamedTuple):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int


NO_REASON = Rejection(1, 1, 1)
UNKNOWN_CONTEXT = Rejection(1, 1, 2)
UNKNOWN_CALLER = Rejection(1, 1, 3)
UNKNOWN_CALLED = Rejection(1, 1, 7)
TOO_MANY = Rejection(2, 3, 2)


class Opening:
    """Looks at an association request as it comes, its header and then its body.

    Attributes:
        calling, called: AE titles, as they may be written down; empty until they have come.
        fault: what is wrong, in words.
    """

    def __init__(self) -> None:
        self.calling = self.called = self.fault = ""
        self._has_header = False

    def take(self, part: bytes) -> bytes:
        """Look at the next part; returns the A-ASSOCIATE-RJ to answer to a fault, empty when none helps."""
        if not self._has_header:
            self._has_header = True
            self.fault = _other_than_a_request(part)
            return b""
        if len(part) < _TITLES.size:
            return b""
        called, calling = (title.decode("latin-1") for title in _TITLES.unpack_from(part))
        self.called, self.calling = _written(called), _written(calling)
        rejection = UNKNOWN_CALLER
        self.fault = _title_fault("calling", calling)
        if not self.fault:
            rejection = UNKNOWN_CALLED
            self.fault = _title_fault("called", called)
        return _REJECTION.pack(3, 4, *rejection) if self.fault else b""


def caller_of(association: Any) -> tuple[str, str]:
    """AE title and address of who has asked for one of pynetdicom's associations."""
    requestor = association.requestor
    return requestor.primitive.calling_ae_title.strip(), requestor.address_info.address


def _other_than_a_request(header: bytes) -> str:
    """What begins otherwise than an association request; empty also for nothing at all."""
    if not header or header[0] == _ASSOCIATE_RQ:
        return ""
    if _HTTP.match(header):
        return "this is HTTP, and the port speaks DICOM"
    if header[:2] == b"\x16\x03":
        return "the sender begins TLS, and this port speaks plain DICOM: call a port with TLS, or without it"
    if header[0] in _PDU_TYPES and len(header) == _HEADER_BYTES:
        return f"a PDU of type {header[0]} came before any association request"
    return "what came is no DICOM: no association request (PS3.8 9.3.2)"


def _title_fault(which: str, title: str) -> str:
    if not title.strip():
        return f"the {which} AE title is blank"
    if "\0" in title:
        return f"the {which} AE title is padded with NUL: PS3.8 table 9-11 wants spaces"
    if not _G0.fullmatch(title):
        return f"the {which} AE title holds a character that PS3.5 6.2 does not allow"
    return ""


def _written(title: str) -> str:
    """A title without what could spoil a line of a log."""
    return re.sub(r"[^ -~]", "?", title.strip(" \0"))
