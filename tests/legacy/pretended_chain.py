"""The chain that made the data folder of version 0.1.0: each study of the table ends as the table says.

It runs with the code of commit 124f28a alone, as :mod:`tests.legacy.make_data_folder` does; its imports stay
as they are when files move.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pydicom
from app.domain.revision import NO_FACTS, NOTHING_EARLIER, EarlierResults, RunFacts
from app.domain.shadow import MaskSummary, ShadowComparison
from app.node.completeness import Selected
from app.node.processor import OnStage
from app.node.shadows import WaitingShadows
from app.outcome_file import write_outcome

from app.domain.analysis import ModelRole, ModelUsed
from app.domain.findings import Burden, Findings, Lesion
from app.domain.outcome import PairOutcome, Status, StudyOutcome, Withdrawal
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient, Series, Study, StudyKind
from app.errors import RetryLaterError, UnusableStudyError
from tests.node_workflow.fake_node import KINDS, Subject, _pair, _result

PET, SPECT = StudyKind.PET_CT, StudyKind.SPECT_CT
UNITS = Reason(RefusalCode.UNITS_UNSUPPORTED, "Units", "CNTS", "BQML")
NO_PRIOR = Reason(RefusalCode.NO_PRIOR, "", "none", "one")
SHADOW = ModelUsed("new-m2", ModelRole.M2, "2", "b" * 64, demonstration_only=False)


@dataclass(frozen=True)
class Part:
    """What a study plays: its patient, what it pretends to be, what the chain makes of it."""

    number: int
    patient: str
    kind: StudyKind = SPECT
    day: str = "20260301"
    chain: str = "done"
    announced: int = 0
    """How many images its headers announce; 0 when they do not say."""
    issuer: str = ""

    @property
    def uid(self) -> str:
        """Study Instance UID."""
        return f"1.2.826.0.1.{self.number}"

    @property
    def subject(self) -> Subject:
        """For the images."""
        return Subject(self.patient, self.kind, self.day)


PARTS = {
    "pet done": Part(1, "ABEL^A", PET, issuer="CLINIC"),
    "spect done": Part(2, "BLUM^B"),
    "second revision": Part(3, "CONRAD^C"),
    "analysed again": Part(4, "DORN^D"),
    "conflict": Part(5, "ECKERT^E"),
    "spect before its pet": Part(6, "FALK^F", SPECT, "20260310", "without a prior", issuer="CLINIC"),
    "late pet": Part(7, "FALK^F", PET, "20260301", issuer="CLINIC"),
    "withdrawn": Part(8, "GRAF^G", PET, chain="withdrawn"),
    "rejected": Part(9, "HAAS^H", chain="rejected"),
    "failed for good": Part(10, "IBSEN^I", chain="failed"),
    "refused by a destination": Part(11, "JUNG^J"),
    "failed until 2121": Part(12, "KERN^K", chain="failed"),
    "failed for a moment": Part(13, "LANG^L", chain="failed"),
    "postponed": Part(14, "MOHR^M", chain="postponed"),
    "one destination down": Part(15, "NOLL^N"),
    "sent again": Part(16, "OTTO^O"),
    "cut off while sending": Part(17, "PAUL^P"),
    "running": Part(18, "QUAST^Q", PET, chain="never ends"),
    "running elsewhere": Part(19, "ROTH^R", chain="never ends"),
    "queued": Part(20, "SEIDEL^S"),
    "grown in the queue": Part(21, "THIEL^T"),
    "waiting for an image": Part(22, "ULLMANN^U", PET, "20260301", announced=2),
    "held for its prior": Part(23, "ULLMANN^U", SPECT, "20260310"),
    "no image yet": Part(24, "VOSS^V"),
    "receiving": Part(25, "WOLF^W"),
    "growing after it was done": Part(26, "XAVER^X"),
}
BY_UID = {part.uid: part for part in PARTS.values()}


class PretendedChain:
    """As :class:`app.node.processor.StudyProcessor`, without models."""

    def __init__(self, on_stage: OnStage, shadows: WaitingShadows) -> None:
        self._on_stage = on_stage
        self._shadows = shadows

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierResults = NOTHING_EARLIER,
        facts: RunFacts = NO_FACTS,
    ) -> StudyOutcome:
        """End as the table says."""
        part = BY_UID[str(pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)]
        self._on_stage("segment")
        while part.chain == "never ends":
            time.sleep(1)
        if part.chain == "failed":
            raise ValueError(f"cannot read {part.patient}")
        if part.chain == "postponed":
            raise RetryLaterError("the disk is full")
        if part.chain == "rejected":
            raise UnusableStudyError(UNITS)
        if part.chain == "withdrawn" and revision > 1:
            outcome = _withdrawal(part, out, revision)
        else:
            outcome = StudyOutcome(part.uid, Status.DONE, pairs=(_result_of(part, out, revision),))
        write_outcome(outcome, out)
        if part is PARTS["spect done"]:
            self._shadows.put(part.uid, revision, lambda: _comparisons(outcome.pairs[0]))
        return outcome


def examine(paths: Sequence[Path]) -> tuple[Study, Selected]:
    """Every study is a pair; one that announces more images than it has is not complete."""
    header = pydicom.dcmread(paths[0], stop_before_pixels=True)
    part = BY_UID[str(header.StudyInstanceUID)]
    images = tuple(SimpleNamespace() for _ in paths)
    announced = part.announced or None
    series = Series(str(header.SeriesInstanceUID), "PT", images, expected_instance_count=announced)
    day = datetime.strptime(header.StudyDate, "%Y%m%d")
    study = Study(part.uid, Patient(str(header.PatientID), part.issuer), (series,), day)
    pair = SimpleNamespace(kind=StudyKind(header.StudyDescription), functional=series, ct=series)
    return study, SimpleNamespace(selections=(pair,), rejection=None)


def _result_of(part: Part, out: Path, revision: int) -> PairOutcome:
    pair = _pair(part.uid, tuple(_result(out, part.uid, kind, revision) for kind in KINDS))
    lesion = Lesion(1, 2.5, 21.5, 9.0, 18.0, 22.5, (10.0, -20.0, 300.0), (11.0, -21.0, 301.0))
    return replace(
        pair,
        kind=part.kind,
        functional_series_instance_uid=f"{part.uid}.1",
        no_prior=(NO_PRIOR,) if part.chain == "without a prior" else (),
        findings=Findings((lesion,), Burden(1, 2.5, 22.5, 21.5)),
    )


def _withdrawal(part: Part, out: Path, revision: int) -> StudyOutcome:
    files = tuple(_result(out, part.uid, kind, revision) for kind in ("WITHDRAWAL", "WITHDRAWAL-PAGE"))
    notice = Withdrawal(f"{part.uid}.1", revision - 1, str(UNITS), files)
    return StudyOutcome(part.uid, Status.REJECTED, reasons=(UNITS,), withdrawals=(notice,))


def _comparisons(pair: PairOutcome) -> tuple[ShadowComparison, ...]:
    series, served = pair.functional_series_instance_uid, MaskSummary(1, 2.5)
    return (
        ShadowComparison(
            series, SPECT, pair.model, served, "new-m2", SHADOW, False, MaskSummary(2, 3.0), 0.75, 1.5
        ),
        ShadowComparison(series, SPECT, pair.model, served, "other-m2", problem="out of memory"),
    )
