"""pets.json: whose the PETs of a run are and when they were acquired, as the run's own images say.

It lies beside the results, which name the patient too. The step that registers priors may run long after the
chain, when the inbox holds images that the chain has not seen; so it reads this and not the inbox.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.dicom.reading.studies import read_study
from app.domain.outcome import StudyOutcome
from app.domain.study import Series, Study, StudyKind
from app.durable_file import write_durably
from app.errors import MisconfiguredError

NAME = "pets.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PetHeader:
    """Of one PET series; ``acquired_at`` is ISO 8601 without a zone: the clinic's local time."""

    patient_id: str
    issuer: str
    acquired_at: str


def keep_pet_headers(paths: Sequence[Path], outcome: StudyOutcome, folder: Path) -> None:
    """Write down whose the PETs with a result are.

    A series without a date, or of a study whose images name several patients, is left out.

    Args:
        paths: the files that were processed, and no others.
        outcome: what came of it.
        folder: where its results are.
    """
    pets = {pair.functional_series_instance_uid for pair in outcome.pairs if pair.kind is StudyKind.PET_CT}
    if not pets:
        return
    study = read_study(paths)
    found = {
        series.series_instance_uid: asdict(header)
        for series in study.series
        if series.series_instance_uid in pets and (header := _header(study, series)) is not None
    }
    write_durably(folder / NAME, json.dumps(found, indent=2).encode("ascii") + b"\n")


def read_pet_headers(folder: Path) -> Mapping[str, PetHeader]:
    """What :func:`keep_pet_headers` wrote, by Series Instance UID; nothing for results from before it did.

    Raises:
        MisconfiguredError: the file is damaged.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        return {uid: PetHeader(**header) for uid, header in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise MisconfiguredError(
            f"{folder / NAME} is damaged ({type(error).__name__}); process the study again: psma-node retry"
        ) from error


def _header(study: Study, series: Series) -> PetHeader | None:
    if any(fault.attribute == "PatientID" for fault in series.faults):
        _log.error("its images name several patients: no prior", extra={"study": study.study_instance_uid})
        return None
    when = series.when or study.study_datetime
    if when is None:
        return None
    patient = study.patient
    return PetHeader(patient.patient_id, patient.issuer, when.replace(tzinfo=None).isoformat())
