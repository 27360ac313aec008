"""A node with a chain that only pretends: run as ``python -m tests.node.workflow.fake_node PLAN.json``.

Everything but the chain and the reading of headers is the real thing, in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)

from app.domain.decision import ModelRole, ModelUsed
from app.domain.findings.findings import Burden, Findings
from app.domain.outcome import (
    EarlierRevisions,
    OnStage,
    PairOutcome,
    ResultFile,
    RunContext,
    Status,
    StudyOutcome,
)
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.study import Patient, Series, Study, StudyKind
from app.errors import PsmaNodeError, RetryLaterError, StartOverError, UnusableStudyError
from app.files.outcome import write_outcome
from app.node.peers import Caller, DeliverPolicy, Destination, ReceivePolicy
from app.node.policy import NodePolicy
from app.node.process.processors import ProcessorPool
from app.node.records.stores import open_stores
from app.node.service import NodePlan, NodeService
from app.node.stop_signals import NODE_SIGNALS, block_stop_signals, drain_at_stop_signal, end_process
from app.node.watch.log import configure_logging

KINDS = ("SEG", "SR", "PAGE")


@dataclass(frozen=True)
class Subject:
    """Whose study it is, what it pretends to be, and when it was."""

    name: str = "TEST^PATIENT"
    kind: StudyKind | str = StudyKind.SPECT_CT
    day: str = "20260301"


ANYBODY = Subject()
IRRELEVANT = "irrelevant"
OTHER_TRACER = Reason(RefusalCode.TRACER_NOT_ALLOWED, "Radiopharmaceutical", "FDG", "PSMA")


def secondary_capture(path: Path, study: str, sop_instance_uid: str, subject: Subject = ANYBODY) -> Path:
    """A small valid Secondary Capture, the same bytes for the same arguments."""
    dataset = _small_image(study, sop_instance_uid, subject, SecondaryCaptureImageStorage)
    dataset.SeriesInstanceUID = f"{study}.9"
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.save_as(path, enforce_file_format=True)
    return path


def pet_image(path: Path, study: str, sop_instance_uid: str, subject: Subject = ANYBODY) -> Path:
    """A small image of the class of a PET, the same bytes for the same arguments; the chain only pretends."""
    dataset = _small_image(study, sop_instance_uid, subject, PositronEmissionTomographyImageStorage)
    dataset.SeriesInstanceUID = f"{study}.1"
    dataset.Modality = "PT"
    dataset.save_as(path, enforce_file_format=True)
    return path


def _small_image(study: str, sop_instance_uid: str, subject: Subject, sop_class_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.StudyInstanceUID = study
    dataset.PatientName = subject.name
    dataset.PatientID = "ID-" + subject.name
    dataset.StudyDescription = str(subject.kind)
    dataset.StudyDate = subject.day
    dataset.Rows = dataset.Columns = 4
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(16)
    return dataset


def derived_uid(*words: object) -> str:
    """A UID that follows from ``words``."""
    digest = hashlib.sha256("|".join(map(str, words)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


@dataclass
class Behaviour:
    """How the pretended chain behaves. ``fail`` and ``postpone`` count tries of each study; its models are
    loaded once the file ``loads_after`` is there; each study ends once ``ends_after`` is;
    with ``rejects_short`` it rejects a study of which less came than its headers announce."""

    calls: Path
    seconds: float = 0.0
    fail: int = 0
    postpone: int = 0
    reject: bool = False
    rejects_short: bool = False
    spoilt: bool = False
    loads_after: str = ""
    ends_after: str = ""


class FakeProcessor:
    """Writes three results; each call leaves a line in ``calls``."""

    def __init__(self, behaviour: Behaviour, on_stage: OnStage) -> None:
        self._behaviour = behaviour
        self._on_stage = on_stage
        self._tries: dict[str, int] = {}
        while behaviour.loads_after and not Path(behaviour.loads_after).exists():
            time.sleep(0.01)

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierRevisions = EarlierRevisions(),
        context: RunContext = RunContext(),
    ) -> StudyOutcome:
        """As :class:`app.node.process.processors.StudyProcessor`."""
        header = pydicom.dcmread(paths[0], stop_before_pixels=True)
        study = str(header.StudyInstanceUID)
        with self._behaviour.calls.open("a") as file:
            file.write(f"{study} {revision} {len(paths)}\n")
        decisions = "; ".join(decision.line for decision in context.decisions)
        with self._behaviour.calls.with_name("facts.txt").open("a") as file:
            file.write(f"{study} begun {context.begun_at} {decisions}\n")
        self._on_stage("segment")
        time.sleep(self._behaviour.seconds)
        while self._behaviour.ends_after and not Path(self._behaviour.ends_after).exists():
            time.sleep(0.01)
        self._misbehave(study, str(header.PatientName))
        announced = int(header.get("NumberOfSlices", 0))
        if self._behaviour.rejects_short and len(paths) < announced:
            found, expected = f"{len(paths)} images", f"{announced} images"
            raise UnusableStudyError(
                Reason(RefusalCode.INCOMPLETE_SERIES, "NumberOfSlices", found, expected)
            )
        pair = _pair(study, tuple(_result(out, study, kind, revision) for kind in KINDS))
        outcome = StudyOutcome(study, Status.DONE, pairs=(pair,))
        write_outcome(outcome, out)
        return outcome

    def _misbehave(self, study: str, name: str) -> None:
        warnings.warn(f"bad value {name}", stacklevel=1)
        logging.getLogger("pydicom").error("invalid value for VR PN: %s", name)
        if self._behaviour.spoilt:
            raise StartOverError("the GPU computes nothing any more")
        if self._behaviour.reject:
            raise UnusableStudyError(Reason(RefusalCode.UNITS_UNSUPPORTED, "Units", "CNTS", "BQML"))
        count = self._tries[study] = self._tries.get(study, 0) + 1
        if count <= self._behaviour.postpone:
            raise RetryLaterError("the disk is full")
        if count <= self._behaviour.fail:
            raise ValueError(f"cannot read {name}")


def _result(out: Path, study: str, kind: str, revision: int) -> ResultFile:
    uid = derived_uid(study, kind, revision)
    secondary_capture(out / f"{kind.lower()}.dcm", study, uid)
    return ResultFile(kind, f"{kind.lower()}.dcm", SecondaryCaptureImageStorage, uid, f"{study}.9")


def _pair(study: str, files: tuple[ResultFile, ...]) -> PairOutcome:
    return PairOutcome(
        kind=StudyKind.SPECT_CT,
        functional_series_instance_uid=f"{study}.2",
        ct_series_instance_uid=f"{study}.3",
        tracer="PSMA-617 Lu-177",
        model=ModelUsed("m2", ModelRole.M2, "1", "0" * 64, demonstration_only=True),
        prior_used=False,
        no_prior=(),
        findings=Findings((), Burden(0, 0.0, 0.0, None)),
        decisions=(),
        files=files,
    )


def examine(paths: Sequence[Path]) -> tuple[Study, Any]:
    """Every study is a pair, complete as soon as nothing more comes, or once it has as many images as one of
    its headers announces; but what is called :data:`IRRELEVANT` is refused."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    header = headers[0]
    announced = max(int(one.get("NumberOfSlices", 0)) for one in headers) or None
    images: Any = tuple(SimpleNamespace() for _ in paths)
    series = Series(str(header.SeriesInstanceUID), "PT", images, expected_instance_count=announced)
    day = datetime.strptime(header.StudyDate, "%Y%m%d")
    study = Study(str(header.StudyInstanceUID), Patient(str(header.PatientID)), (series,), day)
    if header.StudyDescription == IRRELEVANT:
        return study, SimpleNamespace(selections=(), rejection=Rejection((OTHER_TRACER,)))
    pair = SimpleNamespace(kind=StudyKind(header.StudyDescription), functional=series, ct=series)
    return study, SimpleNamespace(selections=(pair,), rejection=None)


def judge(
    paths: Sequence[Path], out: Path, revision: int, earlier: EarlierRevisions, context: RunContext
) -> StudyOutcome | None:
    """As :meth:`app.chain.headers.HeaderJudge.judge`."""
    study, selected = examine(paths)
    if selected.rejection is None:
        return None
    outcome = StudyOutcome(study.study_instance_uid, Status.REJECTED, selected.rejection.reasons)
    write_outcome(outcome, out)
    return outcome


def plan_from(content: dict[str, dict[str, object]]) -> NodePlan:
    """The plan that a test wrote."""
    deliver = dict(content["deliver"])
    destinations = tuple(Destination(**item) for item in deliver.pop("destinations"))
    behaviour = Behaviour(**{**content["behaviour"], "calls": Path(str(content["behaviour"]["calls"]))})
    node = NodePolicy(**{**content["node"], "data_dir": Path(str(content["node"]["data_dir"]))})
    receive = dict(content["receive"])
    callers = tuple(Caller(**one) for one in receive.pop("allowed_callers", [{"ae_title": "*"}]))
    workers = max(node.workers, 1)
    return NodePlan(
        node=node,
        receive=ReceivePolicy(allowed_callers=callers, **receive),
        deliver=DeliverPolicy(destinations=destinations, **deliver),
        examine=examine,
        processors=lambda: ProcessorPool(lambda on_stage: FakeProcessor(behaviour, on_stage), workers),
        receives=bool(content["serve"]["receives"]),
        judge=judge,
    )


def run_forked(plan_file: Path, log_file: Path) -> None:
    """Run in a process forked with everything imported: quick to start, and single-threaded still."""
    begin_forked(log_file)
    run(plan_file)


def begin_forked(log_file: Path) -> None:
    """Block the signals that a node waits for, and write to a file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, NODE_SIGNALS)
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run(plan_file: Path) -> None:
    """Run until SIGTERM."""
    plan = plan_from(json.loads(plan_file.read_text()))
    configure_logging()
    service = NodeService(plan, open_stores(plan.node))
    try:
        service.start()
    except PsmaNodeError as error:
        sys.stderr.write(f"psma-node: {error}\n")
        end_process(2)
    logging.getLogger("psma_node").info("ready", extra={"port": service.port})
    drain_at_stop_signal(service.stop)


if __name__ == "__main__":
    block_stop_signals()
    run(Path(sys.argv[1]))
