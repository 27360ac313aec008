"""``psma-node process`` on a full-size PET/CT and the SPECT/CT of the same patient: where the time goes.

    python -m benchmarks.whole_study             # 5 runs in turns with stock nnUNetPredictor
    python -m benchmarks.whole_study --profile   # one run, which functions take the time of each stage
    python -m benchmarks.whole_study --before    # keep it as what later runs are shown beside

Each run is a process of its own, as the command is: folder mode on both studies, so that the lesions of the
PET are the prior of the SPECT. The peer is nnU-Net's own predictor on the same channels, with the same
weights, from array to mask, its model loaded beforehand. An untimed run first takes the channels from the
node and warms the disk's cache.

``--profile`` runs with cProfile, which makes calls of Python slower than they are. Its seconds are those of
the clock: a clock of CPU time costs a system call at each of millions of calls.

``--before`` is for a working tree of an earlier commit, with ``comparison.py``, ``full_study.py`` and this
file copied into its ``benchmarks``; ``benchmarks/results/before`` of that tree is then copied into this one.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.comparison import (
    BEFORE,
    MIN_RUNS,
    RESULTS,
    ROOT,
    Measure,
    Result,
    Row,
    Table,
    forget_peak,
    interleaved,
    keep,
    peak_mb,
)
from benchmarks.full_study import full_study, stock_predictor

NAME = "whole_study"
STUDIES = ("PET/CT", "SPECT/CT with prior")
STAGES = ("read", "select", "load", "align", "segment", "quantify", "write")
NOT_SEGMENT_S = (5.0, 8.0)
"""What everything but the segmentation may take, for each study."""

OF_NNUNET = 0.6
"""What the whole command may take on a PET/CT, against the network alone."""

LARGEST = 15
"""Functions that the profile shows of each stage."""

LEAST_S = 0.2
"""Stages that take less are not shown."""

Run = dict[str, Any]


def child_ours(
    images: Path, out: Path, spawned: float, channels: Path | None = None, stages: StageProfiles | None = None
) -> Run:
    """Folder mode in this process, with a time for each stage; the networks' input goes to ``channels``."""
    from app.chain import application
    from app.chain.folder import process_folder
    from app.settings import load_settings

    stamps: list[tuple[str, float]] = []

    def stamp(stage: str) -> None:
        stamps.append((stage, time.monotonic()))
        if stages is not None:
            stages.begin(stage)

    class Stamped(application.ChainProcessor):
        """What folder mode makes, but it says when a stage begins."""

        def __init__(self, settings: Any, results: Any) -> None:
            super().__init__(settings, results, on_stage=stamp)

        def process_study(self, *arguments: Any, **others: Any) -> Any:
            stamp("select")
            folder = super().process_study(*arguments, **others)
            stamp("end")
            return folder

    application.ChainProcessor = Stamped
    if channels is not None:
        _keep_channels(channels)
    stamp("read")
    outcome = process_folder(images, out, load_settings(None, []))
    times = pairwise(stamps)
    spans = [(stage, after - begun) for (stage, begun), (_, after) in times if stage != "end"]
    cut = [place for place, (stage, _) in enumerate(spans) if stage == "select"]
    studies = [dict(spans[start:stop]) for start, stop in zip(cut, [*cut[1:], None], strict=True)]
    return {
        "start": stamps[0][1] - spawned,
        "read": spans[0][1],
        "studies": studies,
        "total": time.monotonic() - spawned,
        "peak_mb": peak_mb(),
        "found": [line for line in outcome.lines() if "lesion" in line or "prior" in line],
    }


class StageProfiles:
    """A profile of each stage, with the threads that began in it."""

    def __init__(self) -> None:
        self._found: list[tuple[str, list[cProfile.Profile]]] = []
        threading.setprofile(self._in_thread)

    def begin(self, stage: str) -> None:
        """End the stage before, if any."""
        if self._found:
            self._found[-1][1][0].disable()
        own = cProfile.Profile()
        self._found.append((stage, [own]))
        own.enable()

    def _in_thread(self, *_: object) -> None:
        """Called at the first call of a thread."""
        own = cProfile.Profile()
        self._found[-1][1].append(own)
        own.enable()

    def tables(self) -> Iterator[Table]:
        """The largest functions of each stage, by the time that they and what they call take.

        Not of select: the thread that waits for the chain was started in it.
        """
        self.begin("end")
        threading.setprofile(None)
        studies = 0
        for stage, profiles in self._found:
            studies += stage == "select"
            stats = pstats.Stats(*profiles).get_stats_profile().func_profiles
            largest = sorted(stats.items(), key=lambda each: -each[1].cumtime)[:LARGEST]
            if stage in ("select", "end") or not largest or largest[0][1].cumtime < LEAST_S:
                continue
            study = STUDIES[studies - 1] if studies else "both"
            lines = tuple(
                (_place(name, one), one.ncalls, f"{one.tottime:.2f}", f"{one.cumtime:.2f}")
                for name, one in largest
            )
            columns = ("function", "calls", "itself, s", "with what it calls, s")
            yield Table(f"{study}, {stage}: the largest functions", columns, lines)


def _place(function: str, found: pstats.FunctionProfile) -> str:
    """A function by the file in its package; in ``code``, for names have underscores."""
    path = re.sub(
        r"^.*?/(?=(app|operators|benchmarks)/)|^.*/(site-packages|python3\.\d+)/", "", found.file_name
    )
    return f"`{function}`" if path == "~" else f"`{path}: {function}`"


def _keep_channels(folder: Path) -> None:
    """Let every run of a network leave its channels, in its own orientation, and the model's id."""
    from app.inference.models.channels import canonical
    from app.inference.running.segmenter import Segmenter

    run = Segmenter.run

    def kept(self: Any, network_input: Any, *others: Any, **named: Any) -> Any:
        channels, orientation = canonical(network_input)
        number = len(list(folder.glob("*.npy")))
        np.save(folder / f"{number}.npy", channels)
        told = {"model": self.card.id, "spacing": [float(each) for each in orientation.spacing_zyx_mm]}
        (folder / f"{number}.json").write_text(json.dumps(told))
        return run(self, network_input, *others, **named)

    Segmenter.run = kept


def child_peer(channels: Path) -> Run:
    """Stock nnU-Net from array to mask, one study after the other: seconds and memory of each."""
    found = []
    for path in sorted(channels.glob("*.npy")):
        told = json.loads(path.with_suffix(".json").read_text())
        predictor, array = stock_predictor(ROOT / "models" / told["model"]), np.load(path)
        forget_peak()
        begun = time.perf_counter()
        mask = predictor.predict_single_npy_array(array, {"spacing": told["spacing"]}, None, None, False)
        found.append(
            {"s": time.perf_counter() - begun, "voxels": int((mask == 1).sum()), "peak_mb": peak_mb()}
        )
    return {"studies": found}


def measure(runs: int, work: Path) -> tuple[list[Run], list[Run]]:
    """Runs of ours and of the peer, in turns."""
    images, channels = work / "images", work / "channels"
    channels.mkdir()
    files = linked(images)
    ours: list[Run] = []
    peer: list[Run] = []

    def run_ours(*more: str) -> Run:
        run = _child("ours", str(images), str(work / "out"), repr(time.monotonic()), *more)
        return {**run, "files": files}

    def counted(runs: list[Run], run: Callable[[], Run]) -> Callable[[], float]:
        def figure() -> float:
            runs.append(run())
            print(f"  {len(ours)} and {len(peer)} runs", file=sys.stderr, flush=True)
            return 1.0

        return figure

    print("\n".join(run_ours(str(channels))["found"]), file=sys.stderr)
    interleaved(counted(ours, run_ours), counted(peer, lambda: _child("peer", str(channels))), runs)
    return ours, peer


def _child(*words: str) -> Run:
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--child", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: Run = json.loads(done.stdout.splitlines()[-1])
    return found


def profiled() -> list[Table]:
    """The tables of one run."""
    with tempfile.TemporaryDirectory(prefix="psma-benchmark-") as folder:
        images = Path(folder) / "images"
        linked(images)
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{NAME}",
            "--child",
            "profile",
            str(images),
            f"{folder}/out",
        ]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [
        Table(title, tuple(columns), tuple(map(tuple, lines)))
        for title, columns, lines in json.loads(done.stdout.splitlines()[-1])
    ]


def linked(images: Path) -> list[int]:
    """Both studies in one folder; how many files each has."""
    images.mkdir()
    files = [sorted((full_study() / part).rglob("*.dcm")) for part in ("pet", "spect")]
    for number, path in enumerate(chain(*files)):
        (images / f"{number:05d}.dcm").symlink_to(path)
    return [len(each) for each in files]


def stages(run: Run, which: int) -> dict[str, float]:
    """Seconds of each stage of a study; reading the folder's headers is shared by the number of files."""
    return {"read": run["read"] * run["files"][which] / sum(run["files"]), **run["studies"][which]}


def rows(ours: Sequence[Run], peer: Sequence[Run]) -> list[Row]:
    """The benchmark's lines. The whole of the PET/CT is all of the command but the other study's stages."""
    found = []
    for which, study in enumerate(STUDIES):
        theirs = tuple(run["studies"][which]["s"] for run in peer)
        each = [stages(run, which) for run in ours]
        others = [sum(stages(run, 1).values()) for run in ours]
        alone = [run["total"] - other for run, other in zip(ours, others, strict=True)]
        whole = tuple(alone if which == 0 else others)
        rest = tuple(sum(times.values()) - times["segment"] for times in each)
        target = OF_NNUNET if which == 0 else None
        found += [
            Row(f"{study}: `psma-node process`", "nnUNetPredictor", Measure.SHARE, whole, theirs, target),
            Row(f"{study}: all but segment", "nnUNetPredictor", Measure.SHARE, rest, theirs),
            Row(f"{study}: all but segment", "–", Measure.SECONDS, rest, (), NOT_SEGMENT_S[which]),
        ]
    memory = tuple(run["peak_mb"] for run in ours)
    theirs = tuple(max(study["peak_mb"] for study in run["studies"]) for run in peer)
    note = "MB of the whole command on both studies, against the predictor's larger one"
    return [*found, Row("both: peak memory", "nnUNetPredictor", Measure.SHARE, memory, theirs, note=note)]


def profile(ours: Sequence[Run], peer: Sequence[Run]) -> Table:
    """Seconds of each stage, and of the peer in the same minutes: medians."""
    lines = [("start", f"{median(run['start'] for run in ours):.2f}", "")]
    lines += [
        (stage, *(f"{median(stages(run, which)[stage] for run in ours):.2f}" for which in (0, 1)))
        for stage in STAGES
    ]
    alone = (f"{median(run['studies'][which]['s'] for run in peer):.2f}" for which in (0, 1))
    lines.append(("nnUNetPredictor alone", *alone))
    return Table("Seconds of each stage", ("stage (median, s)", *STUDIES), tuple(lines))


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=MIN_RUNS)
    parser.add_argument("--profile", action="store_true", help="which functions take the time")
    parser.add_argument("--before", action="store_true", help="keep it as what later runs are shown beside")
    parser.add_argument("--child", nargs="+", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *words = options.child
        found: object
        if kind == "peer":
            found = child_peer(Path(words[0]))
        elif kind == "profile":
            in_stages = StageProfiles()
            child_ours(Path(words[0]), Path(words[1]), time.monotonic(), stages=in_stages)
            found = [(table.title, table.columns, table.lines) for table in in_stages.tables()]
        else:
            kept = Path(words[3]) if words[3:] else None
            found = child_ours(Path(words[0]), Path(words[1]), float(words[2]), kept)
        print(json.dumps(found))
        return
    if options.profile:
        result = replace(Result.of(NAME, [], profiled(), folder=full_study()), arguments="--profile")
        keep(result, BEFORE if options.before else RESULTS)
        return
    with tempfile.TemporaryDirectory(prefix="psma-benchmark-") as folder:
        ours, peer = measure(options.runs, Path(folder))
    tables = [profile(ours, peer)]
    result = Result.of(NAME, rows(ours, peer), tables, packages=("torch", "nnunetv2"), folder=full_study())
    keep(result, BEFORE if options.before else RESULTS)


if __name__ == "__main__":
    main()
