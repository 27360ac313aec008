"""The schema of an earlier version becomes that of this one; the schema of a later version is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from typer.testing import CliRunner

from app.cli.main import app
from app.errors import MisconfiguredError
from app.node.policy import NodePolicy
from app.node.records import stores  # it imports every row
from app.node.records.database import create_database_engine, metadata, open_database
from app.node.records.migrations import REVISION, found_revision
from app.node.watch.health import check_database, guarded
from tests.legacy.test_upgrade import restored, unpacked
from tests.node.postgres.cluster import Cluster
from tests.node.postgres.conftest import cluster

__all__ = ["cluster", "stores"]

NEWER = "9999"
DAY = "2026-03-04T09:30:00.000000"


@pytest.fixture(params=["SQLite", "Postgres"])
def legacy_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The database of version 0.1.0, as its nodes left it."""
    if request.param == "SQLite":
        unpacked("data-0.1.0", tmp_path)
        return f"sqlite:///{tmp_path / 'data' / 'node.sqlite'}"
    server: Cluster = request.getfixturevalue("cluster")
    unpacked("data-0.1.0-postgres", tmp_path)
    return restored(server, tmp_path / "database.sql")


@pytest.fixture(params=["SQLite", "Postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has opened yet."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'node.sqlite'}"
    server: Cluster = request.getfixturevalue("cluster")
    server.create(tmp_path.name)
    return server.url(tmp_path.name)


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[NodePolicy]:
    """A data folder that a later version of the program has opened."""
    policy = NodePolicy(data_dir=tmp_path / "data")
    stores.open_stores(policy).close()
    with sqlite3.connect(tmp_path / "data" / "node.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (NEWER,))
    yield policy
    with sqlite3.connect(tmp_path / "data" / "node.sqlite") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWER,)]


def differences(engine: Engine) -> list[object]:
    """Between the database and the rows that the program declares."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def test_the_schema_of_an_earlier_version_becomes_the_one_that_is_declared(legacy_url: str) -> None:
    before = create_database_engine(legacy_url)
    assert differences(before) != []
    before.dispose()
    engine = open_database(legacy_url)
    assert differences(engine) == []
    with engine.connect() as connection:
        assert found_revision(connection) == REVISION
    engine.dispose()


def test_two_rows_for_a_study_become_one_that_holds_both(legacy_url: str) -> None:
    engine = create_database_engine(legacy_url)
    with engine.begin() as connection:
        # the node was killed between the two
        connection.execute(text(f"INSERT INTO study_subjects VALUES ('1.2', 'P', 'I', NULL, '{DAY}')"))  # noqa: S608
        observed = rows(connection, "observed_studies")
        subjects = rows(connection, "study_subjects")
    engine.dispose()
    assert len(observed.keys() - subjects.keys()) == 1, "a study without an image is nobody's"
    engine = open_database(legacy_url)
    with engine.connect() as connection:
        found = rows(connection, "studies")
    engine.dispose()
    unseen = {"state": None, "reason": "", "observed_at": None}
    subject = ("patient_id", "issuer", "pet_acquired_at", "spect_acquired_at", "accession_number")
    nobody = dict.fromkeys(subject)
    assert found == {
        uid: {**unseen, **nobody, **observed.get(uid, {}), **subjects.get(uid, {})}
        for uid in observed.keys() | subjects.keys()
    }


def rows(connection: Connection, table: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by Study Instance UID, as the driver gives them."""
    found = connection.execute(text(f"SELECT * FROM {table}")).mappings()  # noqa: S608  a name of ours
    return {row["study_instance_uid"]: dict(row) for row in found}


def test_a_new_database_has_the_schema_that_is_declared(new_url: str) -> None:
    engine = open_database(new_url)
    assert differences(engine) == []
    engine.dispose()


def test_an_index_that_an_even_older_database_lacks_is_made(legacy_url: str) -> None:
    engine = create_database_engine(legacy_url)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX instances_by_study"))
        connection.execute(text("DROP INDEX instances_by_arrival"))
    engine.dispose()
    engine = open_database(legacy_url)
    names = {index["name"] for index in inspect(engine).get_indexes("instances")}
    assert names == {"instances_by_study", "instances_by_arrival"}
    engine.dispose()


def test_nodes_that_are_upgraded_at_the_same_time_change_the_schema_once(legacy_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(open_database, [legacy_url] * 4):
            assert differences(engine) == []
            engine.dispose()


def test_an_upgrade_that_fails_half_way_changes_nothing(
    legacy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_database_engine(legacy_url)
    before = set(inspect(engine).get_table_names())
    with monkeypatch.context() as patch:
        patch.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", broken)
        with pytest.raises(KeyError):
            open_database(legacy_url)
    assert set(inspect(engine).get_table_names()) == before
    engine.dispose()
    engine = open_database(legacy_url)
    assert differences(engine) == []
    engine.dispose()


def broken(*_: object) -> None:
    """What ends in the middle."""
    raise KeyError


def test_the_schema_that_is_expected_is_the_newest_there_is() -> None:
    config = Config()
    config.set_main_option("script_location", "app.node.records:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_a_database_of_a_later_version_is_refused(newer: NodePolicy) -> None:
    words = rf"node\.sqlite has schema {NEWER}, .* expects {REVISION} or an older one\. .* restore the backup"
    with pytest.raises(MisconfiguredError, match=words):
        stores.open_stores(newer)


@pytest.mark.parametrize(
    "command", [["status"], ["retry", "1.2"], ["audit", "verify"], ["models", "shadow"]]
)
def test_every_command_refuses_a_database_of_a_later_version(newer: NodePolicy, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--set", f"node.data_dir={newer.data_dir}"])
    assert isinstance(done.exception, MisconfiguredError | SystemExit)
    assert f"has schema {NEWER}" in f"{done.exception} {done.output}"


def test_check_finds_a_database_of_a_later_version_and_upgrades_none(
    newer: NodePolicy, tmp_path: Path
) -> None:
    found = guarded("database", lambda: check_database(newer))
    assert (found.ok, f"has schema {NEWER}" in found.found) == (False, True)
    unpacked("data-0.1.0", tmp_path / "old")
    old = NodePolicy(data_dir=tmp_path / "old" / "data")
    assert check_database(old).ok
    engine = create_database_engine(old.node_database_url)
    with engine.connect() as connection:
        assert found_revision(connection) is None
    engine.dispose()
