"""TODO."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ModelRole(StrEnum):
    """The four models of the study behind this product (doi 10.1186/s13550-026-01468-y)."""

    M1 = "M1"
    """PET/CT"""
    M2 = "M2"
    """SPECT/CT"""
    M3 = "M3"
    """PET/CT or SPECT/CT, one at a time"""
    M4 = "M4"
    """SPECT/CT with the patient's PET lesions as prior"""


@dataclass(frozen=True)
class Decision:
    """Something the node decided, in words, for the SR and the audit trail."""

    stage: str
    text: str


@dataclass(frozen=True)
class ModelUsed:
    """Which model spoke, exactly."""

    model_id: str
    role: ModelRole
    version: str
    weights_sha256: str
    demonstration_only: bool
