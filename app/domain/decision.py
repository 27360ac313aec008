"""What the node decides about a study, in words for reports and pages, and the model that speaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

WARNING_PREFIX = "warning: "
"""How a printed warning begins: in SR, outcome.json and ``psma-node inspect``."""


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


class Severity(StrEnum):
    """How much a decision matters to a reader of the numbers."""

    NOTE = "note"
    WARNING = "warning"
    """The page shows it above the numbers, and the SR in its summary."""


@dataclass(frozen=True)
class Decision:
    """Something the node decided, in words, for the SR and the audit trail."""

    stage: str
    text: str
    severity: Severity = Severity.NOTE

    @classmethod
    def warning(cls, stage: str, text: str) -> Decision:
        """A decision that a reader of the numbers must not overlook."""
        return cls(stage, text, Severity.WARNING)

    @property
    def line(self) -> str:
        """The words as they are printed; those of a warning say that it is one."""
        return f"{WARNING_PREFIX}{self.text}" if self.severity is Severity.WARNING else self.text

    def printed(self) -> Decision:
        """For JSON, whose readers find in ``text`` what is printed."""
        return replace(self, text=self.line)

    @classmethod
    def read(cls, printed: Decision) -> Decision:
        """The decision that was printed; an earlier version states the severity in ``text`` alone."""
        if not printed.text.startswith(WARNING_PREFIX):
            return printed
        return cls.warning(printed.stage, printed.text.removeprefix(WARNING_PREFIX))


@dataclass(frozen=True)
class ModelUsed:
    """Which model spoke, exactly."""

    model_id: str
    role: ModelRole
    version: str
    weights_sha256: str
    demonstration_only: bool
