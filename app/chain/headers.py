"""What a study's headers alone refuse, said as the chain says it, without a worker, a network or a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app import __version__
from app.dicom.reading.studies import read_studies, read_study, with_cts_elsewhere
from app.dicom.results.withdrawal import withdraw_unreplaced
from app.dicom.results.writer import ResultFolder
from app.domain.analysis import Provenance
from app.domain.outcome import EarlierRevisions, RunContext, Status, StudyOutcome
from app.domain.selection.identification import with_site_entries
from app.domain.selection.selection import select
from app.domain.study import Study
from app.errors import UnusableStudyError
from app.settings import Settings


class HeaderJudge:
    """The first two stages of the chain, and its end, for a study in which there is nothing to analyse."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(
        self, paths: Sequence[Path], out: Path, revision: int, earlier: EarlierRevisions, context: RunContext
    ) -> StudyOutcome | None:
        """As ``StudyProcessor.process`` of the node; ``None`` for a study that the chain has to look at.

        Raises:
            UnusableStudyError: the files are not those of one study, and no earlier result stands.
            RetryLaterError: the disk does not take the outcome.
        """
        try:
            outcome = self._refused(paths, out, context)
        except UnusableStudyError as error:
            outcome = without_results(error, earlier)
        if outcome is None:
            return None
        provenance = provenance_of(self._settings, revision, earlier, context)
        return withdraw_unreplaced(outcome, earlier, out, self._settings.write, provenance)

    def _refused(self, paths: Sequence[Path], out: Path, context: RunContext) -> StudyOutcome | None:
        study = study_of(paths, context)
        identified = with_site_entries(study, self._settings.load.administrations)
        selected = select(identified, self._settings.select)
        if selected.rejection is None:
            return None
        folder = ResultFolder(out)
        folder.deliver(study.study_instance_uid, (selected.rejection,), selected.verdicts)
        return folder.outcome


def study_of(paths: Sequence[Path], context: RunContext) -> Study:
    """The study in these files, which knows of CTs that came in others. Raises UnusableStudyError."""
    return with_cts_elsewhere(read_study(paths), read_studies(context.other_cts).studies)


def provenance_of(
    settings: Settings, revision: int, earlier: EarlierRevisions, context: RunContext
) -> Provenance:
    """What a revision's results say of how they were made."""
    last_words = earlier.last_words
    return Provenance(__version__, settings.digest, revision, last_words, context.begun_at, context.decisions)


def without_results(error: UnusableStudyError, earlier: EarlierRevisions) -> StudyOutcome:
    """The outcome of a study that could not be read; raises the error when nothing is to be withdrawn."""
    if not earlier.standing:
        raise error
    uid = earlier.standing[0].report.study_instance_uid
    return StudyOutcome(uid, Status.REJECTED, error.rejection.reasons)
