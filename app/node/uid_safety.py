"""UIDs from the network, checked before they become names of files."""

from __future__ import annotations

import re

MAX_UID_LENGTH = 64
"""PS3.5 9.1"""

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class UnsafeUidError(ValueError):
    """A UID that PS3.5 9.1 does not allow; the message names the attribute, never the value."""

    def __init__(self, keyword: str, problem: str) -> None:
        self.keyword = keyword
        super().__init__(f"{keyword} is not a valid UID: {problem}")


def checked_uid(value: str, keyword: str) -> str:
    """``value`` without its padding, when it is a valid UID (PS3.5 9.1, 6.2).

    Args:
        value: as received; one trailing NUL, and spaces that some senders pad with, are dropped.
        keyword: DICOM keyword, for the message.

    Raises:
        UnsafeUidError: empty, longer than 64 characters, other than digits and dots, an empty component
            (so ``..`` can't occur), or a leading zero.
    """
    uid = value.rstrip("\0 ")
    if not uid:
        raise UnsafeUidError(keyword, "empty")
    if len(uid) > MAX_UID_LENGTH:
        raise UnsafeUidError(keyword, f"{len(uid)} characters, at most {MAX_UID_LENGTH} are allowed")
    if not _UID.fullmatch(uid):
        raise UnsafeUidError(keyword, "expected digits and dots, no leading zero, no empty component")
    return uid


def study_folder_name(study_instance_uid: str) -> str:
    """Name of the folder of a study. Raises UnsafeUidError."""
    return checked_uid(study_instance_uid, "StudyInstanceUID")


def instance_file_name(sop_instance_uid: str, sha256: str) -> str:
    """Name of the file of one content of an instance: the same content gets the same name again.

    The UID starts with a digit and holds only digits and single dots, so the name is never hidden, never
    ``..``, and no option to a command. Raises UnsafeUidError, or ValueError for a digest that is none.
    """
    if not _SHA256.fullmatch(sha256):
        raise ValueError("expected a SHA-256 in lower case hexadecimal")
    return f"{checked_uid(sop_instance_uid, 'SOPInstanceUID')}_{sha256[:32]}.dcm"
