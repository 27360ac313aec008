"""Makes the data folder of version 0.1.0 that :mod:`tests.legacy.test_upgrade` goes on with.

It runs with the code of commit 124f28a alone, and its imports stay as they are when files move::

    git worktree add ../node-0.1.0 124f28a
    cp -r tests/legacy ../node-0.1.0/tests
    cd ../node-0.1.0
    make install
    .venv/bin/python -m tests.legacy.make_data_folder OUT [sqlite|postgres]

Two nodes work on one data folder and are killed (SIGKILL) while there are studies in every state. The chain
only pretends; association, inbox, ledgers, durable engine, delivery and audit log are the real ones.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pydicom
from app.node.retry import analyse_again, resend_study
from app.node.run_ledger import StudyState
from app.node.status import StudyStatus, study_statuses
from app.node.stores import open_stores

from app import __version__
from tests.legacy.afterwards import afterwards
from tests.legacy.old_node import ROOT, SOON_S, OldNode, Scene, ScriptedPacs, name_this_host
from tests.legacy.pretended_chain import PARTS
from tests.node_postgres.cluster import SUPERUSER, Cluster, server_programs
from tests.node_workflow.fake_node import derived_uid, secondary_capture
from tests.node_workflow.peers import free_port, wait_until

COMMIT = "124f28ab8d8887ccdfeac1a0f69668f583ea760e"
NAMED_ROOT = "/opt/psma-node"
"""What the tracebacks kept in ``failures`` say instead of where this was made."""

UNTIL_2121_S = 3.0e9


def is_planned(status: StudyStatus) -> bool:
    """Whether a next try has its time."""
    return status.next_try_at is not None


def what_ended(scene: Scene, pacs_b: ScriptedPacs) -> None:
    """Studies that have come to their end, and what is kept of them."""
    for name in ("pet done", "second revision", "analysed again", "sent again", "withdrawn"):
        scene.send(name, 1)
    scene.send("spect done", 1)
    part = PARTS["spect done"]
    beside = scene.node.folder / "beside.dcm"
    scene.send_files([secondary_capture(beside, part.uid, derived_uid("beside"), part.subject)])
    scene.send_files([scene.image("conflict", 1), _other_content(scene.image("conflict", 1))])
    pacs_b.refuses = {derived_uid(PARTS["refused by a destination"].uid, "SEG", 1)}
    for name in ("growing after it was done", "refused by a destination", "rejected", "failed for good"):
        scene.send(name, 1)
    scene.send("spect before its pet", 1)
    scene.wait("spect before its pet", "done")
    scene.send("late pet", 1)
    for name in ("second revision", "withdrawn"):
        scene.wait(name, "done")
        scene.send(name, 2)
    scene.wait("analysed again", "done")
    analyse_again(scene.stores, PARTS["analysed again"].uid)
    scene.wait("second revision", "done", lambda status: status.revision == 2)
    scene.wait("analysed again", "done", lambda status: status.revision == 2)
    scene.wait("withdrawn", "rejected")
    scene.wait("refused by a destination", "failed")
    scene.wait("failed for good", "failed", lambda status: not is_planned(status))
    scene.wait("rejected", "rejected")
    for name in ("pet done", "spect done", "conflict", "late pet", "sent again", "growing after it was done"):
        scene.wait(name, "done")


def what_is_on_its_way(scene: Scene, second: OldNode, pacs_b: ScriptedPacs) -> None:
    """Studies between their first image and their last acknowledgement."""
    pacs_b.out_of_resources = {PARTS["sent again"].uid, PARTS["one destination down"].uid}
    resend_study(scene.stores, PARTS["sent again"].uid)
    scene.send("one destination down", 1)
    scene.send("failed for a moment", 1)
    scene.send("postponed", 1)
    scene.send("waiting for an image", 1)
    for name in ("sent again", "one destination down"):
        scene.wait(name, "delivering", is_planned)
        wait_until(lambda name=name: scene.acknowledged(name, "pacs-a") == 3, "the other has everything")
    scene.wait("failed for a moment", "failed", is_planned)
    scene.wait("postponed", "queued", is_planned)
    scene.wait("waiting for an image", "waiting")
    pacs_b.hangs_after = {PARTS["cut off while sending"].uid: 1}
    scene.send("cut off while sending", 1)
    wait_until(lambda: scene.acknowledged("cut off while sending", "pacs-b") == 1, "the report is there")
    wait_until(lambda: scene.acknowledged("cut off while sending", "pacs-a") == 3, "the other has everything")
    scene.send("running", 1)
    scene.wait("running", "running")
    second.start(workers=1, poll_s=2.0, retry_s=SOON_S, receives=False)
    scene.send("running elsewhere", 1)
    scene.wait("running elsewhere", "running")
    for name in ("queued", "grown in the queue", "held for its prior"):
        scene.send(name, 1)
        scene.wait(name, "queued")
    scene.send("grown in the queue", 2)
    scene.wait("grown in the queue", "queued", lambda status: status.revision == 2)
    scene.wait("held for its prior", "queued", lambda status: "waits for the PET/CT" in status.reason)
    part = PARTS["no image yet"]
    page = scene.node.folder / "page.dcm"
    scene.send_files([secondary_capture(page, part.uid, derived_uid("page"), part.subject)])
    scene.wait("no image yet", "waiting")
    scene.send_files([scene.image("receiving", 1), scene.image("growing after it was done", 2)])
    uids = [PARTS[name].uid for name in ("receiving", "growing after it was done")]
    observed = scene.stores.observations.of_study
    wait_until(
        lambda: all((seen := observed(uid)) and seen.state is StudyState.RECEIVING for uid in uids),
        "both are being received",
    )


def make(out: Path, database: str) -> None:
    """The archive and what is known of it, in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psma-node-legacy-")))
        url, cluster = "", None
        if database == "postgres":
            programs = server_programs()
            assert programs is not None
            cluster = Cluster(programs)
            stack.callback(cluster.stop)
            cluster.start().create("legacy")
            url = cluster.url("legacy")
        pacs = {"pacs-a": ScriptedPacs(), "pacs-b": ScriptedPacs()}
        for peer in pacs.values():
            peer.start()
            stack.callback(peer.stop)
            stack.callback(peer.end.set)
        node = OldNode(folder, pacs, "node-a", url, free_port())
        second = OldNode(folder, pacs, "node-b", url, node.port)
        node.start(workers=2, poll_s=0.2, retry_s=0.2)
        stores = open_stores(node.policy)
        scene = Scene(node, stores)
        what_ended(scene, pacs["pacs-b"])
        node.stop()
        node.start(workers=2, poll_s=0.2, retry_s=UNTIL_2121_S)
        scene.send("failed until 2121", 1)
        scene.wait("failed until 2121", "failed", is_planned)
        node.stop()
        node.start(workers=1, poll_s=2.0, retry_s=SOON_S)
        what_is_on_its_way(scene, second, pacs["pacs-b"])
        # closed before the kill: the last connection of a database would tidy up its write-ahead log
        stores.close()
        node.kill()
        second.kill()
        _forget_this_place(folder / "data")
        name = f"data-{__version__}" + ("-postgres" if cluster else "")
        if cluster:
            (folder / "database.sql").write_text(dump(cluster))
            (out / f"schema-{__version__}.postgres.sql").write_text(dump(cluster, "--schema-only"))
        else:
            dump_schemas(folder / "data", out)
        pack(folder, out / f"{name}.tar.xz")
        # last, since it opens the database
        (out / f"{name}.json").write_text(manifest(node))


def dump(cluster: Cluster, *options: str) -> str:
    """What pg_dump says, without what differs from one time to the next."""
    where = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", SUPERUSER, "-d", "legacy"]
    command = ["pg_dump", "--no-owner", "--no-privileges", *options, *where]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    differs = ("\\restrict", "\\unrestrict")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(differs))


def pack(folder: Path, archive: Path) -> None:
    """``data`` and, of Postgres, ``database.sql``."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz", preset=9) as file:
        for name in ("data", "database.sql"):
            if (folder / name).exists():
                file.add(folder / name, name, filter=anonymous)


def dump_schemas(data: Path, out: Path) -> None:
    """Of both SQLite databases, read from copies: to open a database may change it."""
    for name in ("node", "workflows"):
        with tempfile.TemporaryDirectory() as folder:
            for file in data.glob(f"{name}.sqlite*"):
                shutil.copy(file, folder)
            command = ["sqlite3", str(Path(folder) / f"{name}.sqlite"), ".schema"]
            schema = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (out / f"schema-{__version__}.{name}.sqlite.sql").write_text(schema)


def manifest(node: OldNode) -> str:
    """What each study was about when the nodes were killed, and what must happen to it."""
    stores = open_stores(node.policy)
    found = {status.study_instance_uid: status for status in study_statuses(stores)}
    stores.close()
    studies = {
        name: {
            "patient": asdict(part.subject),
            "when_killed": asdict(found[part.uid]),
            **afterwards(name),
        }
        for name, part in PARTS.items()
    }
    content = {"version": __version__, "commit": COMMIT, "studies": studies}
    return json.dumps(content, indent=2, default=lambda at: at.isoformat(timespec="seconds")) + "\n"


def _other_content(path: Path) -> Path:
    """Another content under the same SOP Instance UID."""
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes([1] * 16)
    other = path.with_name(f"other-{path.name}")
    dataset.save_as(other, enforce_file_format=True)
    return other


def _forget_this_place(data: Path) -> None:
    for path in (data / "failures").iterdir():
        path.write_text(path.read_text().replace(str(ROOT), NAMED_ROOT).replace(sys.prefix, NAMED_ROOT))


if __name__ == "__main__":
    name_this_host()
    make(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "sqlite")
