"""What happens at the door, as observers are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReceptionEvent(StrEnum):
    """What an observer is told of."""

    ASSOCIATION_REJECTED = "association-rejected"
    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"


@dataclass(frozen=True)
class Reception:
    """Something that happened at the door; holds no patient data.

    Attributes:
        event: what.
        calling_ae, address: who.
        detail: why, in words; empty for what went well.
        status: of the C-STORE answer; ``None`` for a rejected association.
        study_instance_uid, sop_instance_uid: checked ones; empty while unknown or unsafe.
    """

    event: ReceptionEvent
    calling_ae: str
    address: str
    detail: str = ""
    status: int | None = None
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
