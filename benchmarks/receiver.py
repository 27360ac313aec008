"""How fast the node receives, next to DCMTK's storescp, which never syncs, and Orthanc, which does.

    python -m benchmarks.receiver

DCMTK's dcmsend sends 400 CT images of 525 kB and 400 PET images of 80 kB over one association, and to
``psma-node serve`` over four at once too; TCP_NODELAY is set on both sides. All files lie below /var/tmp, on
a disk; they need 14 GB. What is measured is the whole run of dcmsend. Before each run the machine is quiet
for a while, as between two studies: the node then makes room for the next images, 800 of a kind at most. So
two whole studies of 770 images are sent as well, the second right after the first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage

from app.demo.node import ACKNOWLEDGED, NODE_AE_TITLE, SCANNER_AE_TITLE, Node
from app.demo.pacs import Orthanc, SmallArchive
from app.demo.processes import LOOPBACK, free_port, start_program, stopping
from benchmarks.comparison import MIN_RUNS, Measure, Result, Row, keep

COUNT = 400
STUDY_COUNTS = {"CT": 370, "PT": 400}
"""Images of a whole study."""

ASSOCIATIONS = 4
QUIET_S = 3.0
STUDY_ROOT = "1.2.826.0.1.3680043.10.999"
KINDS = {"CT": (CTImageStorage, 512), "PT": (PositronEmissionTomographyImageStorage, 200)}
SETS = (*KINDS, "first", "second")
"""What is sent: images of one kind, and whole studies one right after the other."""

DCMTK = ("/usr/bin/storescp", "/usr/bin/dcmsend")
"""By their full paths: pynetdicom puts namesakes into a virtual environment."""

Seconds = dict[tuple[str, str], list[float]]
Ways = dict[str, Callable[[Sequence[Path]], float]]


@dataclass(frozen=True)
class Receiver:
    """Something that listens."""

    name: str
    ae_title: str
    port: int


def study_uid(name: str, run: int) -> str:
    """Of one of SETS; of the same length for each run, so that it can be written over another."""
    return f"{STUDY_ROOT}.{SETS.index(name) + 1}{run:05d}"


def make_images(folder: Path, name: str, kind: str, count: int) -> list[Path]:
    """Images of a whole-body series: random pixels under a header of usual length. SIMULATED."""
    folder.mkdir(parents=True)
    sop_class, size = KINDS[kind]
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.Modality = sop_class, kind
        image.StudyInstanceUID = study_uid(name, 0)
        image.SeriesInstanceUID = f"{image.StudyInstanceUID}.{list(KINDS).index(kind) + 2}"
        image.SOPInstanceUID = f"{image.SeriesInstanceUID}.{number + 1}"
        image.PatientName, image.PatientID = "SIMULATED^Receiver", "SIMULATED"
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3 * number], [1, 0, 0, 0, 1, 0]
        image.Rows = image.Columns = size
        image.PixelSpacing = [1, 1]
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        private = image.private_block(0x0009, "SIMULATED", create=True)
        for element in range(40):
            private.add_new(element, "LO", f"value {element} of a vendor's own")
        image.PixelData = random.integers(0, 4000, (size, size), dtype=np.uint16).tobytes()
        paths.append(folder / f"{number:04d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def rename_study(paths: Sequence[Path], old: str, new: str) -> None:
    """Make another study of the files, in their place: nobody must have seen their UIDs."""
    for path in paths:
        with path.open("r+b") as file:
            header = file.read(8192)
            file.seek(0)
            file.write(header.replace(old.encode(), new.encode()))
    os.sync()


def send_s(paths: Sequence[Path], receiver: Receiver, associations: int = 1) -> float:
    """Seconds until all are acknowledged. Raises RuntimeError when not all are."""
    addressed = ["-aet", SCANNER_AE_TITLE, "-aec", receiver.ae_title, LOOPBACK, str(receiver.port)]
    begun = time.perf_counter()
    senders = [
        subprocess.Popen(
            [DCMTK[1], "--verbose", *addressed, *map(str, paths[first::associations])],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in range(associations)
    ]
    said = [sender.communicate()[0] for sender in senders]
    seconds = time.perf_counter() - begun
    found = sum(int(count) for text in said for count in ACKNOWLEDGED.findall(text))
    if found != len(paths):
        raise RuntimeError(f"{receiver.name} acknowledged {found} of {len(paths)} images: {said[0][-500:]}")
    return seconds


@contextmanager
def node(folder: Path) -> Iterator[Receiver]:
    """``psma-node serve``; no study becomes complete while it is measured."""
    folder.mkdir()
    destination = SmallArchive(folder / "unused", "UNUSED", free_port())
    patience = ("receive.settle_s=86000", "receive.give_up_s=86000", "node.poll_s=5.0")
    ours = Node(folder, destination, free_port(), patience)
    try:
        ours.start()
        yield Receiver("psma-node", NODE_AE_TITLE, ours.port)
    finally:
        ours.stop()


@contextmanager
def storescp(folder: Path) -> Iterator[Receiver]:
    """DCMTK's."""
    folder.mkdir()
    port = free_port()
    command = [DCMTK[0], "--fork", "-aet", "STORESCP", "-od", str(folder), str(port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with stopping(start_program("storescp", command, folder.with_suffix(".log"), environment)) as program:
        program.wait_for_port(port, 30.0)
        yield Receiver("storescp", "STORESCP", port)


@contextmanager
def orthanc(folder: Path) -> Iterator[Receiver]:
    """Orthanc as installed: it syncs each file (SyncStorageArea)."""
    port = free_port()
    archive = Orthanc(folder, "ORTHANC", port, {SCANNER_AE_TITLE: free_port()})
    try:
        archive.start()
        yield Receiver("Orthanc", "ORTHANC", port)
    finally:
        archive.stop()


def measured(folder: Path, runs: int) -> Seconds:
    """Seconds by what is sent and way; all ways take their turns, and each begins once."""
    seconds: Seconds = defaultdict(list)
    with ExitStack() as stack:
        servers = (node, storescp, orthanc)
        ours, dcmtk, archive = (stack.enter_context(server(folder / server.__name__)) for server in servers)
        ways: Ways = {
            "ours": lambda paths: send_s(paths, ours),
            "storescp": lambda paths: send_s(paths, dcmtk),
            "Orthanc": lambda paths: send_s(paths, archive),
        }
        four: Ways = {"four": lambda paths: send_s(paths, ours, ASSOCIATIONS)}
        for kind in KINDS:
            take_turns(ways | four, {kind: make_images(folder / kind, kind, kind, COUNT)}, runs, seconds)
        studies = {
            name: [
                path
                for kind, count in STUDY_COUNTS.items()
                for path in make_images(folder / name / kind, name, kind, count)
            ]
            for name in ("first", "second")
        }
        take_turns(ways, studies, runs, seconds)
    return seconds


def take_turns(ways: Ways, sets: dict[str, list[Path]], runs: int, seconds: Seconds) -> None:
    """Send the sets, one right after another, in each way; quiet before."""
    number = 0
    for run in range(-1, runs):  # the first is not counted
        order = list(ways)
        for way in order[run % len(ways) :] + order[: run % len(ways)]:
            number += 1
            for name, paths in sets.items():
                rename_study(paths, study_uid(name, number - 1), study_uid(name, number))
            time.sleep(QUIET_S)
            for name, paths in sets.items():
                took_s = ways[way](paths)
                if run >= 0:
                    seconds[name, way].append(took_s)


def rows(seconds: Seconds) -> list[Row]:
    """One for each of SETS and peer."""
    study = f"a study of {sum(STUDY_COUNTS.values())} images"
    titles = {kind: f"receive {COUNT} {kind}, one association" for kind in KINDS}
    titles |= {"first": f"receive {study}", "second": f"receive {study} right after another"}
    found = []
    for name, title in titles.items():
        one = tuple(seconds[name, "ours"])
        for peer, target in (("storescp", 1.0), ("Orthanc", 3.0)):
            wanted = target if name in KINDS else None
            found.append(Row(title, peer, Measure.SPEED, one, tuple(seconds[name, peer]), wanted))
        if name in KINDS:
            at_once = f"receive {COUNT} {name}, {ASSOCIATIONS} associations at once"
            four = tuple(seconds[name, "four"])
            found.append(Row(at_once, "one association of ours", Measure.SPEED, four, one, 1.5))
    return found


def main() -> None:
    """Measure and keep."""
    missing = [program for program in DCMTK if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"found no {', '.join(missing)}; scripts/install-peers installs DCMTK and Orthanc")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        found = rows(measured(folder, MIN_RUNS))
        programs = ("DCMTK", "Orthanc")
        keep(Result.of("receiver", found, packages=("pynetdicom",), programs=programs, folder=folder))


if __name__ == "__main__":
    main()
