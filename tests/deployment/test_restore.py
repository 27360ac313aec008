"""The commands of docs/how-to/upgrade.md bring a node back: copied while it runs, destroyed, restored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.demo.processes import free_port
from app.node.records.audit import AUDIT_FILE
from app.node.records.database import open_database
from app.node.records.inbox import Inbox, Recovery, Stored
from tests.deployment.manifests import PAGES_TEXT, merged_compose, program, script, seconds
from tests.node.postgres.cluster import OWNER, Cluster
from tests.node.postgres.conftest import cluster, database
from tests.node.receive.images import STUDY, ct_slice, received
from tests.node.workflow.conftest import new_node, pacs
from tests.node.workflow.peers import FakePacs, NodeProcess

__all__ = ["cluster", "database", "new_node", "pacs"]

WAYS = ("compose", "systemd")
DATABASES = ("SQLite", "Postgres")


DOCKER = """#!/bin/sh
# stands in for docker: the volume is a folder, the database's container this machine
set -eu
[ "$1" = exec ] && [ "$2" = -i ] && { shift 2; set -- exec "$@"; }
case "$1 $2" in
  "volume inspect") [ "$5" = psma-node-data ] && echo "$STAND_IN_DATA" ;;
  "start psma-node-database") ;;
  "exec psma-node-database")
    shift 2
    words=
    for word in "$@"; do
      case $word in
        --username=psma_node | --host=127.0.0.1) ;;
        psma_node) words="$words $PGDATABASE" ;;
        --dbname=psma_node) words="$words --dbname=$PGDATABASE" ;;
        *) words="$words $word" ;;
      esac
    done
    exec $words ;;
  *) echo "unexpected: docker $*" >&2; exit 1 ;;
esac
"""
DOCKER_COMPOSE = """#!/bin/sh
exit 0
"""


@dataclass(frozen=True)
class Site:
    """Where the scripts run: the node's data folder, that of the backups, and that of the compose files."""

    data: Path
    backup: Path
    folder: Path
    database: Mapping[str, str] = field(default_factory=dict)

    def run(self, name: str) -> None:
        """As the page says, but for where things are; services are stopped and started by the test."""
        text = script(name).replace("/var/lib/psma-node", str(self.data))
        text = text.replace("/srv/backup/psma-node", str(self.backup))
        text = text.replace("/srv/psma-node", str(self.folder))
        not_here = ("systemctl ", "chown ")
        lines = [line for line in text.splitlines() if not line.startswith(not_here)]
        environment = {**os.environ, **self.database, **self._stand_ins()}
        done = subprocess.run(
            ["sh", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _stand_ins(self) -> dict[str, str]:
        programs = self.folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        for name, text in (("docker", DOCKER), ("docker-compose", DOCKER_COMPOSE)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.data.mkdir(exist_ok=True)  # a volume is there once the containers are made
        return {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "STAND_IN_DATA": str(self.data),
        }


def psma_node(node: NodeProcess, *words: str) -> str:
    """The command on the node's folder."""
    from typer.testing import CliRunner

    from app.cli.main import app

    settings = [f"node.data_dir={node.policy.data_dir}"]
    if node.policy.database_url:
        settings.append(f"node.database_url={node.policy.database_url}")
    done = CliRunner().invoke(app, [*words, *(word for item in settings for word in ("--set", item))])
    assert done.exit_code == 0, done.output
    return done.stdout


def come_back(node: NodeProcess, pacs: FakePacs, first: str, second: str) -> None:
    """After the restore: the first study is done as before, the one since the backup can be sent again."""
    assert "whole" in psma_node(node, "audit", "verify")
    assert first in psma_node(node, "status")
    assert second not in psma_node(node, "status")
    node.start()
    assert node.status(first).state == "done"
    assert node.send_study(2) == second
    node.wait_for(second, "done")
    assert all(count >= 1 for count in pacs.received.values())
    assert len(pacs.received) == 6, "three results of each study, the same UIDs however often they were sent"
    assert node.stop() == 0
    psma_node(node, "audit", "verify")


@pytest.mark.parametrize("way", WAYS)
def test_a_node_on_sqlite_is_restored_from_a_backup_made_while_it_ran(
    way: str, new_node: Callable[..., NodeProcess], pacs: FakePacs, tmp_path: Path
) -> None:
    program("sqlite3")
    node = new_node(pacs).start()
    first = node.send_study(1)
    node.wait_for(first, "done")
    site = Site(node.policy.data_dir, tmp_path / "backup", tmp_path / "site")
    site.run(f"back up, {way} with SQLite")
    second = node.send_study(2)
    node.wait_for(second, "done")
    node.kill()
    shutil.rmtree(site.data)
    site.run(f"restore, {way} with SQLite")
    come_back(node, pacs, first, second)


@pytest.mark.parametrize("way", WAYS)
def test_a_backup_holds_what_was_acknowledged_and_has_no_name_yet(way: str, tmp_path: Path) -> None:
    program("sqlite3")
    site = Site(tmp_path / "data", tmp_path / "backup", tmp_path / "site")
    for part in ("results", "audit"):
        (site.data / part).mkdir(parents=True)
    url = f"sqlite:///{site.data / 'node.sqlite'}"
    engine = open_database(url)
    assert Inbox(site.data / "inbox", engine).store(received(ct_slice(1))) is Stored.NEW
    site.run(f"back up, {way} with SQLite")
    engine.dispose()
    shutil.rmtree(site.data)
    site.run(f"restore, {way} with SQLite")
    engine = open_database(url)
    restored = Inbox(site.data / "inbox", engine)
    assert restored.recover() == Recovery(indexed=1)
    assert restored.content(STUDY).damaged() == 0
    engine.dispose()


@pytest.mark.parametrize("way", WAYS)
def test_a_node_on_postgres_is_restored_from_a_backup_made_while_it_ran(
    way: str,
    cluster: Cluster,
    database: str,
    new_node: Callable[..., NodeProcess],
    pacs: FakePacs,
    tmp_path: Path,
) -> None:
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "PGUSER": OWNER, "PGDATABASE": database}
    node = new_node(pacs, node={"database_url": cluster.url(database)}).start()
    first = node.send_study(1)
    node.wait_for(first, "done")
    site = Site(node.policy.data_dir, tmp_path / "backup", tmp_path / "site", where)
    site.run(f"back up, {way} with Postgres")
    second = node.send_study(2)
    node.wait_for(second, "done")
    node.kill()
    shutil.rmtree(site.data)
    site.run(f"restore, {way} with Postgres")
    assert not list(site.data.glob("*.dump"))
    come_back(node, pacs, first, second)


def test_a_restore_that_lost_a_line_of_the_audit_log_is_found_out(
    new_node: Callable[..., NodeProcess], pacs: FakePacs, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from app.cli.main import app

    node = new_node(pacs).start()
    node.wait_for(node.send_study(1), "done")
    site = Site(node.policy.data_dir, tmp_path / "backup", tmp_path / "site")
    site.run("back up, compose with SQLite")
    node.kill()
    log = site.backup / "audit" / AUDIT_FILE
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    shutil.rmtree(site.data)
    site.run("restore, compose with SQLite")
    done = CliRunner().invoke(app, ["audit", "verify", "--set", f"node.data_dir={site.data}"])
    assert done.exit_code == 1


@pytest.mark.parametrize("database_kind", DATABASES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["back up", "restore"])
def test_the_scripts_stop_at_the_first_failure(what: str, way: str, database_kind: str) -> None:
    assert script(f"{what}, {way} with {database_kind}").splitlines()[1] == "set -eu"


@pytest.mark.parametrize("database_kind", DATABASES)
@pytest.mark.parametrize("way", WAYS)
def test_what_a_backup_script_writes_is_for_its_user_alone(way: str, database_kind: str) -> None:
    assert script(f"back up, {way} with {database_kind}").splitlines()[2] == "umask 077"


@pytest.mark.parametrize("way", WAYS)
def test_a_dump_that_fails_leaves_the_last_good_one(way: str, tmp_path: Path) -> None:
    nowhere = {"PGHOST": "127.0.0.1", "PGPORT": str(free_port()), "PGUSER": OWNER, "PGDATABASE": "x"}
    site = Site(tmp_path / "data", tmp_path / "backup", tmp_path / "site", nowhere)
    site.backup.mkdir()
    (site.backup / "node.dump").write_text("good")
    with pytest.raises(AssertionError, match="pg_dump: error: connection to server"):
        site.run(f"back up, {way} with Postgres")
    assert (site.backup / "node.dump").read_text() == "good"


@pytest.mark.parametrize("way", WAYS)
def test_a_backup_that_stops_in_between_has_no_database_newer_than_its_files(
    way: str, tmp_path: Path
) -> None:
    program("sqlite3")
    site = Site(tmp_path / "data", tmp_path / "backup", tmp_path / "site")
    site.data.mkdir()
    site.backup.mkdir()
    (site.backup / "node.sqlite").write_text("older")
    with pytest.raises(AssertionError, match="rsync"):  # there is no inbox
        site.run(f"back up, {way} with SQLite")
    assert (site.backup / "new.sqlite").exists()
    assert (site.backup / "node.sqlite").read_text() == "older"


@pytest.mark.parametrize("way", WAYS)
def test_a_dump_gets_its_name_after_the_files_were_copied(way: str) -> None:
    last = script(f"back up, {way} with Postgres").splitlines()[-1]
    assert last == "mv /srv/backup/psma-node/new.dump /srv/backup/psma-node/node.dump"


@pytest.mark.parametrize("database_kind", DATABASES)
def test_containers_are_stopped_with_patience_before_a_restore_and_started_after_it(
    database_kind: str,
) -> None:
    text = script(f"restore, compose with {database_kind}")
    calls = [line.split() for line in text.splitlines() if line.startswith("docker-compose ")]
    grace = seconds(merged_compose("SQLite")["services"]["node"]["stop_grace_period"])
    assert calls[0] == ["docker-compose", "down", "-t", f"{grace:.0f}"]
    assert (calls[1][1:], calls[-1][1:]) == (["up", "--no-start"], ["up", "-d"])
    assert text.splitlines()[-1] == "docker-compose up -d"


def test_the_scripts_name_containers_and_volumes_as_the_compose_files_do() -> None:
    merged = merged_compose("Postgres")
    names = [service["container_name"] for service in merged["services"].values()]
    assert sorted(names) == ["psma-node", "psma-node-database"]
    assert merged["volumes"]["data"]["name"] == "psma-node-data"
    text = PAGES_TEXT
    assert set(re.findall(r"docker (?:exec|start)(?: -\S+)* (\S+)", text)) == set(names)
