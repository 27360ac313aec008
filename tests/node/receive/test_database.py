from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import StatementError

from app.errors import MisconfiguredError, RetryLaterError
from app.node.records.database import open_database
from app.node.records.inbox_index import InstanceRow


def row(received_at: datetime) -> dict[str, object]:
    uids = ("sop_instance_uid", "study_instance_uid", "series_instance_uid", "sop_class_uid")
    return {
        **dict.fromkeys(uids, "1.2"),
        "sha256": "0" * 64,
        "path": "x",
        "bytes": 1,
        "received_at": received_at,
        "calling_ae": "A",
        "conflict": False,
    }


def test_sqlite_survives_a_power_cut_after_each_commit(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_instants_come_back_as_the_same_instant_in_utc(engine: Engine) -> None:
    instant = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    with engine.begin() as connection:
        connection.execute(insert(InstanceRow).values(row(instant)))
    with engine.connect() as connection:
        found = connection.scalar(select(InstanceRow.received_at))
    assert found == instant
    assert found.tzinfo is UTC


def test_an_instant_without_a_zone_is_refused(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(StatementError, match="time zone"):
        connection.execute(insert(InstanceRow).values(row(datetime(2026, 3, 1))))


@pytest.mark.parametrize("url", ["not a url", "nosuchdatabase://host/name"])
def test_a_url_that_can_not_be_used_is_the_sites_to_mend(url: str) -> None:
    with pytest.raises(MisconfiguredError, match="database URL"):
        open_database(url)


def test_a_database_that_does_not_open_may_open_later(tmp_path: Path) -> None:
    words = r"folder\.sqlite can't be used: unable to open database file; may this user"
    with pytest.raises(RetryLaterError, match=words):
        open_database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.sqlite'}")
