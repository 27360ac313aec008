"""The commands of docs/deployment.md bring a node back: copied while it runs, destroyed, restored, whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.node.audit import AUDIT_FILE
from tests.deployment.manifests import ROOT, program
from tests.node_postgres.cluster import OWNER, Cluster
from tests.node_postgres.conftest import cluster, database
from tests.node_workflow.conftest import new_node, pacs
from tests.node_workflow.peers import FakePacs, NodeProcess

__all__ = ["cluster", "database", "new_node", "pacs"]

PAGE = ROOT / "docs" / "deployment.md"


def script(name: str) -> str:
    """The shell block of the page that begins with ``# name``."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [block for block in blocks if block.startswith(f"# {name}\n")]
    return str(found)


def run_script(name: str, data: Path, backup: Path, environment: dict[str, str] | None = None) -> None:
    """As the page says, but for where things are; services are stopped and started by the test."""
    text = script(name).replace("/var/lib/psma-node", str(data)).replace("/srv/backup/psma-node", str(backup))
    lines = [line for line in text.splitlines() if "systemctl" not in line and not line.startswith("chown ")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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


def test_a_node_on_sqlite_is_restored_from_a_backup_made_while_it_ran(
    new_node: Callable[..., NodeProcess], pacs: FakePacs, tmp_path: Path
) -> None:
    program("sqlite3")
    node = new_node(pacs).start()
    first = node.send_study(1)
    node.wait_for(first, "done")
    data, backup = node.policy.data_dir, tmp_path / "backup"
    run_script("back up, SQLite", data, backup)
    second = node.send_study(2)
    node.wait_for(second, "done")
    node.kill()
    shutil.rmtree(data)
    run_script("restore, SQLite", data, backup)
    come_back(node, pacs, first, second)


def test_a_node_on_postgres_is_restored_from_a_backup_made_while_it_ran(
    cluster: Cluster, database: str, new_node: Callable[..., NodeProcess], pacs: FakePacs, tmp_path: Path
) -> None:
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "PGUSER": OWNER, "PGDATABASE": database}
    node = new_node(pacs, node={"database_url": cluster.url(database)}).start()
    first = node.send_study(1)
    node.wait_for(first, "done")
    data, backup = node.policy.data_dir, tmp_path / "backup"
    run_script("back up, Postgres", data, backup, where)
    second = node.send_study(2)
    node.wait_for(second, "done")
    node.kill()
    shutil.rmtree(data)
    run_script("restore, Postgres", data, backup, where)
    come_back(node, pacs, first, second)


def test_a_restore_that_lost_a_line_of_the_audit_log_is_found_out(
    new_node: Callable[..., NodeProcess], pacs: FakePacs, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from app.cli.main import app

    node = new_node(pacs).start()
    node.wait_for(node.send_study(1), "done")
    data, backup = node.policy.data_dir, tmp_path / "backup"
    run_script("back up, SQLite", data, backup)
    node.kill()
    log = backup / "audit" / AUDIT_FILE
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    shutil.rmtree(data)
    run_script("restore, SQLite", data, backup)
    done = CliRunner().invoke(app, ["audit", "verify", "--set", f"node.data_dir={data}"])
    assert done.exit_code == 1


@pytest.mark.parametrize("database_kind", ["SQLite", "Postgres"])
@pytest.mark.parametrize("what", ["back up", "restore"])
def test_the_scripts_stop_at_the_first_failure(what: str, database_kind: str) -> None:
    assert script(f"{what}, {database_kind}").splitlines()[1] == "set -eu"


@pytest.mark.parametrize("database_kind", ["SQLite", "Postgres"])
def test_what_a_backup_script_writes_is_for_its_user_alone(database_kind: str) -> None:
    assert script(f"back up, {database_kind}").splitlines()[2] == "umask 077"
