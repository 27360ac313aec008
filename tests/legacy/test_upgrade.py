"""A data folder of an earlier version, with studies in every state, is opened by this one, and all go on.

The folder is what two killed nodes of version 0.1.0 left (README.md beside this). The test looks through the
doors that people have, the command line and the PACS, so that it holds however the node is built.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.domain.study import StudyKind
from tests.node.postgres.cluster import OWNER, Cluster
from tests.node.postgres.conftest import cluster
from tests.node.workflow.fake_node import Subject, derived_uid
from tests.node.workflow.peers import FakePacs, NodeProcess, free_port

__all__ = ["cluster"]

HERE = Path(__file__).parent
DESTINATIONS = ("pacs-a", "pacs-b")
FOR_EVER_S = 604_800.0
"""Thirty years: what still waits in the folder does not give up, whenever this test is run."""

PATIENCE_S = 300.0
"""Far longer than all of them together take: the machine may be busy."""

LOOK_EVERY_S = 0.5
"""Each look is a command: more of them would only slow down the node that is looked at."""

UNCHANGED = (
    "state", "revision", "instance_count", "image_count", "conflicts", "beside", "acquired_at",
    "first_received_at", "last_received_at",
)  # fmt: skip
"""What ``psma-node status --json`` says of a study, as far as a study at rest keeps it."""

Manifest = Mapping[str, Any]


@dataclass
class UpgradedNode(NodeProcess):
    """A node of this version, under the name of the one that was killed, with both of its destinations."""

    pacs: Mapping[str, FakePacs] = field(default_factory=dict)

    def run(self, *words: str) -> str:
        """What ``psma-node`` says, beside the node or without it."""
        done = self.invoke(*words)
        assert done.exit_code == 0, done.output
        return str(done.stdout)

    def invoke(self, *words: str) -> Any:
        """``psma-node`` on this data folder."""
        settings = [f"node.data_dir={self.folder / 'data'}"]
        if "database_url" in self.node:
            settings.append(f"node.database_url={self.node['database_url']}")
        return CliRunner().invoke(app, [*words, *(word for item in settings for word in ("--set", item))])

    def told(self) -> dict[str, dict[str, Any]]:
        """Every study as ``psma-node status --json`` shows it."""
        return {one["study_instance_uid"]: one for one in json.loads(self.run("status", "--json"))["studies"]}

    def _plan(self) -> dict[str, Any]:
        plan = super()._plan()
        plan["deliver"]["destinations"] = [
            {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": peer.port}
            for name, peer in self.pacs.items()
        ]
        return plan


@dataclass(frozen=True)
class Legacy:
    """An archive with its manifest, unpacked."""

    manifest: Manifest
    node: UpgradedNode

    @property
    def studies(self) -> Mapping[str, Manifest]:
        """By the part that they play."""
        return dict(self.manifest["studies"])

    @cached_property
    def audit_log(self) -> Path:
        """The audit log."""
        return self.node.folder / "data" / "audit" / "audit.jsonl"

    def uid(self, name: str) -> str:
        """Study Instance UID."""
        return str(self.studies[name]["when_killed"]["study_instance_uid"])


def unpacked(name: str, folder: Path) -> Manifest:
    """The manifest of an archive that is now in ``folder``."""
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        # 3.11.2, which Debian 12 has, knows no filter; 3.12 warns where none is chosen
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)  # noqa: S202 - an archive of our own
    return dict(json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")))


def restored(cluster: Cluster, dump: Path) -> str:
    """The URL of a database made from a dump."""
    cluster.create(dump.parent.name)
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("needs psql, of the Debian package postgresql-client")
    where = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", OWNER, "-d", dump.parent.name]
    command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *where, "-f", str(dump)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return cluster.url(dump.parent.name)


def opened(folder: Path, manifest: Manifest, **node: Any) -> Legacy:
    """What was unpacked in ``folder``, with a node for it and destinations that are up."""
    pacs = {name: FakePacs(free_port()).start() for name in DESTINATIONS}
    settings = {"workers": 2, "prior_wait_s": FOR_EVER_S, "keep_days": 0, **node}
    receive = {"give_up_s": FOR_EVER_S}
    return Legacy(manifest, UpgradedNode(folder, 0, node=settings, receive=receive, pacs=pacs))


def closed(legacy: Legacy) -> None:
    """Whatever happened."""
    if legacy.node.process is not None and legacy.node.process.is_alive():
        legacy.node.kill()
    for peer in legacy.node.pacs.values():
        peer.stop()


@pytest.fixture(params=["SQLite", "Postgres"])
def legacy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Legacy]:
    """The data folder of version 0.1.0; the node is not started yet."""
    if request.param == "SQLite":
        found = opened(tmp_path, unpacked("data-0.1.0", tmp_path))
    else:
        server = request.getfixturevalue("cluster")
        manifest = unpacked("data-0.1.0-postgres", tmp_path)
        found = opened(tmp_path, manifest, database_url=restored(server, tmp_path / "database.sql"))
    yield found
    closed(found)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Legacy]:
    """The same on SQLite alone."""
    found = opened(tmp_path, unpacked("data-0.1.0", tmp_path))
    yield found
    closed(found)


def test_every_study_of_an_earlier_version_goes_on_from_where_it_was(legacy: Legacy) -> None:
    node, audited = legacy.node, legacy.audit_log.read_bytes()
    node.start()
    come_to(legacy, {name: study["at_rest"] for name, study in legacy.studies.items()})
    assert_at_rest(legacy)
    due = arrivals(study["at_rest"] for study in legacy.studies.values())
    assert_arrived(node, due)

    for name, study in legacy.studies.items():
        if "step" in study:
            take(legacy, name, study["step"])
    newcomer = node.send_study(99)
    ends = {name: study["step"]["end"] for name, study in legacy.studies.items() if "step" in study}
    come_to(legacy, ends)
    node.wait_for(newcomer, "done")
    new = [derived_uid(newcomer, kind, 1) for kind in ("SEG", "SR", "PAGE")]
    again = arrivals([*ends.values(), {"arrives": dict.fromkeys(DESTINATIONS, new)}])
    assert_arrived(node, {name: due[name] + again[name] for name in DESTINATIONS})
    order = [line.split()[0] for line in node.calls()]
    pet, spect = legacy.uid("waiting for an image"), legacy.uid("held for its prior")
    assert order.index(pet) < order.index(spect)
    assert set(node.told()) == {*map(legacy.uid, legacy.studies), newcomer}

    assert node.stop() == 0
    assert legacy.audit_log.read_bytes().startswith(audited)
    assert "whole" in node.run("audit", "verify")


def test_a_folder_of_an_earlier_version_is_shown_before_a_node_is_started_on_it(legacy: Legacy) -> None:
    told = legacy.node.told()
    assert set(told) == set(map(legacy.uid, legacy.studies))
    for name, study in legacy.studies.items():
        killed = study["when_killed"]
        assert {key: told[legacy.uid(name)][key] for key in UNCHANGED} == {
            key: killed[key] for key in UNCHANGED
        }
        assert progress(told[legacy.uid(name)]) == progress(killed), name
    assert "whole" in legacy.node.run("audit", "verify")
    listing = legacy.node.run("models", "shadow")
    assert "new-m2 next to m2: 1 compared" in listing
    assert "other-m2 next to m2: 0 compared, 1 without result" in listing


def test_a_line_that_was_cut_off_before_the_upgrade_is_still_found_out(on_sqlite: Legacy) -> None:
    lines = on_sqlite.audit_log.read_bytes().splitlines(keepends=True)
    on_sqlite.audit_log.write_bytes(b"".join(lines[:-1]))
    done = on_sqlite.node.invoke("audit", "verify")
    assert (done.exit_code, "NOT whole" in done.stderr) == (1, True)


def come_to(legacy: Legacy, ends: Mapping[str, Manifest]) -> None:
    """Wait until every study has come to its end; fails with the names of those that do not."""
    deadline = time.monotonic() + PATIENCE_S
    while missed := not_there(legacy, ends):
        assert time.monotonic() < deadline, f"waited in vain for {missed}"
        time.sleep(LOOK_EVERY_S)


def not_there(legacy: Legacy, ends: Mapping[str, Manifest]) -> dict[str, str]:
    """What is still to happen to which study."""
    told = {uid: (one["state"], one["revision"]) for uid, one in legacy.node.told().items()}
    return {
        name: end["words"]
        for name, end in ends.items()
        if told[legacy.uid(name)] != (end["state"], end["revision"])
    }


def take(legacy: Legacy, name: str, step: Manifest) -> None:
    """One step of the manifest: a command, an image, or none where another study's step is enough."""
    study, node = legacy.studies[name], legacy.node
    if step["command"]:
        command, *options = step["command"]
        node.run(command, legacy.uid(name), *options)
    if step["image"]:
        patient = study["patient"]
        subject = Subject(patient["name"], StudyKind(patient["kind"]), patient["day"])
        number = int(legacy.uid(name).rpartition(".")[2])
        assert node.send_study(number, step["image"], subject) == legacy.uid(name)


def assert_at_rest(legacy: Legacy) -> None:
    """What has come to no new end is as it was; each has the reason that it should have."""
    told = legacy.node.told()
    for name, study in legacy.studies.items():
        now, killed, at_rest = told[legacy.uid(name)], study["when_killed"], study["at_rest"]
        assert [word for word in at_rest["reason_holds"] if word not in now["reason"]] == [], name
        if (killed["state"], killed["revision"]) == (at_rest["state"], at_rest["revision"]):
            assert {key: now[key] for key in UNCHANGED} == {key: killed[key] for key in UNCHANGED}, name
            assert progress(now) == progress(killed), name


def progress(status: Manifest) -> dict[str, tuple[str, int, int]]:
    """How far each delivery is."""
    return {
        item["destination"]: (item["state"], item["acknowledged"], item["total"])
        for item in status["deliveries"]
    }


def arrivals(ends: Iterable[Manifest]) -> dict[str, Counter[str]]:
    """How often each destination gets each instance on the way to these ends."""
    due: dict[str, Counter[str]] = {name: Counter() for name in DESTINATIONS}
    for end in ends:
        for name, uids in end["arrives"].items():
            due[name].update(uids)
    return due


def assert_arrived(node: UpgradedNode, due: Mapping[str, Counter[str]]) -> None:
    """Everything that is due has arrived, once, and nothing else."""
    assert {name: peer.received for name, peer in node.pacs.items()} == due
