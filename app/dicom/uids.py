"""UIDs derived from what a result is made of: the same input gives the same UIDs, so a resend never doubles.

SHA-256 of the ingredients, its first 128 bits as a UUID under the arc 2.25 (PS3.5 B.2).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING

from app.domain.findings.findings import Change
from app.domain.study import Series

if TYPE_CHECKING:
    from app.domain.analysis import Provenance, Quantified


class ResultKind(StrEnum):
    """The DICOM objects that one analysis gives."""

    SEG = "SEG"
    SR = "SR"
    PAGE = "PAGE"
    RTSTRUCT = "RTSTRUCT"


class NoticeKind(StrEnum):
    """The DICOM objects of a notice of withdrawal."""

    SR = "WITHDRAWAL"
    PAGE = "WITHDRAWAL-PAGE"


def derived_uid(*ingredients: str) -> str:
    """A UID (at most 44 characters) that depends on nothing but the ingredients and their order."""
    digest = hashlib.sha256(json.dumps(ingredients).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def result_identity(quantified: Quantified, provenance: Provenance) -> str:
    """SHA-256 (hex) of everything that can change a result.

    Input SOP and series UIDs (sorted: the order of arrival does not matter), the prior, model id, version
    and weights, software version, settings digest, revision, the report that is replaced, what was
    decided before the chain began, the change since the previous study, and the GPU or the bfloat16 that was
    used, if any (they round otherwise than a CPU in single precision). The instant of processing is left
    out: an analysis that is repeated in the same place gives the same UIDs.
    """
    segmented = quantified.segmented
    aligned = segmented.aligned
    selection = aligned.loaded.selection
    model = segmented.model
    prior = aligned.prior
    replaced = provenance.superseded_on(selection.functional.series_instance_uid)
    ingredients = [
        selection.study.study_instance_uid,
        *map(_series_ingredients, aligned.loaded.functional_series),
        _series_ingredients(selection.ct),
        [] if prior is None else [prior.series_instance_uid, prior.segmentation_sop_instance_uid],
        [model.model_id, model.role.value, model.version, model.weights_sha256],
        [provenance.software_version, provenance.settings_digest, provenance.revision],
        [] if replaced is None else [replaced.sop_instance_uid],
        _change_ingredients(quantified.findings.change),
        *([decision.line] for decision in provenance.decisions),
        *([segmented.computed_by] if segmented.computed_by else []),
    ]
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()


def _change_ingredients(change: Change | None) -> list[object]:
    """The previous study's result as it was compared with: another one gives another report."""
    if change is None:
        return []
    return [change.series_instance_uid, json.dumps(asdict(change), default=str, sort_keys=True)]


def series_uid(identity: str, kind: ResultKind) -> str:
    """Series Instance UID of the result of that kind."""
    return derived_uid(identity, kind.value, "series")


def sop_uid(identity: str, kind: ResultKind) -> str:
    """SOP Instance UID of the result of that kind."""
    return derived_uid(identity, kind.value, "instance")


def tracking_uid(identity: str, lesion_number: int) -> str:
    """Tracking Unique Identifier (112040 DCM) of a lesion; 0 is the whole body."""
    return derived_uid(identity, "tracking", str(lesion_number))


def _series_ingredients(series: Series) -> list[object]:
    return [series.series_instance_uid, sorted({item.sop_instance_uid for item in series.instances})]
