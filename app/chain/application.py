"""The chain: one MONAI Deploy application run a study."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app import __version__
from app.chain.headers import provenance_of, study_of, without_results
from app.dicom.results.withdrawal import withdraw_unreplaced
from app.dicom.results.writer import ResultFolder, Written, write_results
from app.domain.analysis import Provenance, Quantified
from app.domain.outcome import EarlierRevisions, OnStage, RunContext, ShadowWork, StudyOutcome
from app.domain.study import Study
from app.errors import UnusableStudyError
from app.imaging.earlier_results import EarlierResults
from app.imaging.quantification import LesionQuantification, StudyComparison
from app.imaging.registration.prior_alignment import PriorAligner
from app.inference.running.segmentation import LesionSegmentation, ShadowModels
from app.settings import Settings
from operators.align import AlignOperator
from operators.deliver import DeliverOperator
from operators.framework import Application, GreedyScheduler
from operators.load import LoadOperator
from operators.quantify import QuantifyOperator
from operators.receive import ReceiveOperator
from operators.segment import SegmentOperator
from operators.select import SelectOperator
from operators.write import WriteOperator

ShadowQueue = Callable[[str, int, ShadowWork], None]
"""Takes the shadow work of a study (UID, revision), to do it when the results are on their way."""


GARBAGE_AFTER = (20_000, 20, 20)
"""New objects until Python looks for garbage in cycles, while a study is worked on (gc.set_threshold). With
its own 700, a tenth of reading and writing goes there: headers and reports are a hundred thousand objects,
and few of them garbage."""


@dataclass(frozen=True)
class ChainTools:
    """What the stages work with: warm models, the store of earlier results, the site's settings."""

    settings: Settings
    aligner: PriorAligner
    segmentation: LesionSegmentation
    quantification: LesionQuantification
    writer: Callable[[Quantified], Written]
    on_stage: OnStage


class PsmaApplication(Application):
    """receive → select → load → align → segment → quantify → write → deliver."""

    def __init__(self, source: Callable[[], Study], tools: ChainTools, folder: ResultFolder) -> None:
        self._source = source
        self._tools = tools
        self._folder = folder
        super().__init__(["psma-node"])  # an explicit argv: the SDK would parse ours

    def compose(self) -> None:
        tools, settings, on_stage = self._tools, self._tools.settings, self._tools.on_stage
        receive = ReceiveOperator(self, source=self._source)
        select = SelectOperator(self, policy=settings.select, administrations=settings.load.administrations)
        load = LoadOperator(self, policy=settings.load, on_stage=on_stage)
        align = AlignOperator(self, aligner=tools.aligner, on_stage=on_stage)
        segment = SegmentOperator(self, segmentation=tools.segmentation, on_stage=on_stage)
        quantify = QuantifyOperator(self, quantification=tools.quantification, on_stage=on_stage)
        write = WriteOperator(self, writer=tools.writer, on_stage=on_stage)
        deliver = DeliverOperator(self, folder=self._folder)

        self.add_flow(receive, select, {("study", "study")})
        self.add_flow(select, load, {("pairs", "pairs")})
        self.add_flow(load, align, {("loaded", "loaded")})
        self.add_flow(align, segment, {("aligned", "aligned")})
        self.add_flow(segment, quantify, {("segmented", "segmented")})
        self.add_flow(quantify, write, {("quantified", "quantified")})
        self.add_flow(write, deliver, {("written", "written")})
        self.add_flow(select, deliver, {("verdicts", "verdicts")})
        self.add_flow(receive, deliver, {("study", "study")})


class ChainProcessor:
    """Runs the chain on one study at a time; models stay loaded between studies."""

    def __init__(
        self,
        settings: Settings,
        earlier_results: EarlierResults,
        on_stage: OnStage | None = None,
        shadow_queue: ShadowQueue | None = None,
    ) -> None:
        self._settings = settings
        self._aligner = PriorAligner(settings.align, earlier_results)
        self._segmentation = LesionSegmentation(settings.segment)
        comparison = StudyComparison(settings.quantify, settings.align, earlier_results)
        self._quantification = LesionQuantification(settings.quantify, comparison)
        self._on_stage = on_stage or (lambda stage: None)
        wanted = settings.segment.shadow_models
        self._shadows = ShadowModels(settings.segment) if wanted else None
        self._shadow_queue = shadow_queue
        self._one_at_a_time = threading.Lock()

    def process(
        self,
        paths: Sequence[Path],
        out: Path,
        revision: int,
        earlier: EarlierRevisions = EarlierRevisions(),
        context: RunContext = RunContext(),
    ) -> StudyOutcome:
        """Run the chain on the instances of one study; see :meth:`process_study`.

        A standing result of an earlier revision that this one does not replace is withdrawn.
        """
        provenance = provenance_of(self._settings, revision, earlier, context)
        try:
            folder = self._run_chain(partial(study_of, paths, context), out, provenance)
            outcome = folder.outcome
            self._leave_shadow_work(folder, revision)
        except UnusableStudyError as error:
            outcome = without_results(error, earlier)
        return withdraw_unreplaced(outcome, earlier, out, self._settings.write, provenance)

    def process_study(self, source: Callable[[], Study], out: Path, revision: int) -> ResultFolder:
        """Run the chain; results and ``outcome.json`` are in ``out`` when it returns.

        The results don't say when they were made: the same input gives the same UIDs whenever it is run, so
        it gives the same bytes. In the node a revision runs once, and its results name the time.

        Raises:
            RuntimeError: the framework returned without having run the chain to its end.
        """
        provenance = Provenance(__version__, self._settings.digest, revision)
        return self._run_chain(source, out, provenance)

    def shadow_work(self, written: Sequence[Written]) -> ShadowWork | None:
        """What the site's shadow models have to do for these results; ``None`` when it has none.

        It holds the study's volumes until it is done or dropped.
        """
        shadows = self._shadows
        if shadows is None or not written:
            return None
        served = [item.quantified.segmented for item in written]
        return lambda: tuple(found for item in served for found in shadows.compare(item))

    def _leave_shadow_work(self, folder: ResultFolder, revision: int) -> None:
        work = self.shadow_work(folder.written)
        if work is not None and self._shadow_queue is not None:
            self._shadow_queue(folder.outcome.study_instance_uid, revision, work)

    def _run_chain(self, source: Callable[[], Study], out: Path, provenance: Provenance) -> ResultFolder:
        tools = ChainTools(
            self._settings,
            self._aligner,
            self._segmentation,
            self._quantification,
            partial(write_results, policy=self._settings.write, provenance=provenance),
            self._on_stage,
        )
        folder = ResultFolder(out)
        with self._one_at_a_time, _rare_garbage():
            _run(PsmaApplication(source, tools, folder))
        if not folder.finished:
            raise RuntimeError("the chain ended before its last stage; nothing was delivered")
        return folder


@contextmanager
def _rare_garbage() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*GARBAGE_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run(application: PsmaApplication) -> None:
    """Run the graph in a thread of its own, as Holoscan's signal handling wants; re-raise what it raised."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            application.scheduler(GreedyScheduler(application, name="greedy"))
            application.run()
        except BaseException as error:  # noqa: BLE001  carried to the caller's thread, below
            raised.append(error)

    thread = threading.Thread(target=target, name="chain")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
