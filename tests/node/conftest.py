"""New databases of these tests have their tables at once: the steps of all versions take longer than a test.

That the steps lead to these tables is for ``tests/legacy``; the nodes that tests start take them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, inspect

from app.node.records import migrations

TABLES: list[str] = []
"""What SQLite needs to make them, from the first database that took the steps."""

TAKE_STEPS = migrations.upgrade


@pytest.fixture(autouse=True)
def _tables_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "upgrade", _upgrade)
        yield


def _upgrade(connection: Connection, place: str) -> None:
    is_new = connection.dialect.name == "sqlite" and not inspect(connection).get_table_names()
    if is_new and TABLES:
        for statement in TABLES:
            connection.exec_driver_sql(statement)
        return
    TAKE_STEPS(connection, place)
    if is_new:
        driver = connection.connection.driver_connection
        assert driver is not None
        of_the_dump = ("BEGIN TRANSACTION;", "COMMIT;")
        TABLES[:] = [line for line in driver.iterdump() if line not in of_the_dump]
