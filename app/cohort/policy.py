"""What decides on the content of a cohort: the node's own settings, and which outlines are lesions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from app.dicom.reading.loading import LoadPolicy
from app.domain.selection.policy import SelectionPolicy
from app.imaging.registration.policy import AlignPolicy

VERSION = 2
"""Raise it when the same input gives other images: every patient is then made again."""


@dataclass(frozen=True)
class CohortPolicy:
    """Sections ``select``, ``load`` and ``align`` of the site: a cohort holds what the node would take.

    Attributes:
        roi: regular expression for the names of regions that are lesions; empty takes all.
    """

    select: SelectionPolicy = field(default_factory=SelectionPolicy)
    load: LoadPolicy = field(default_factory=LoadPolicy)
    align: AlignPolicy = field(default_factory=AlignPolicy)
    roi: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        fields = TypeAdapter(CohortPolicy).dump_python(self, mode="json")
        return hashlib.sha256(json.dumps([VERSION, fields], sort_keys=True).encode()).hexdigest()
