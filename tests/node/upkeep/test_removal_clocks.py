"""A removal where the clocks of this host and of the database differ."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from app.errors import MisconfiguredError
from app.node.policy import NodePolicy
from app.node.records.clock import CLOCK
from app.node.records.inbox import Stored
from app.node.records.stores import NodeStores, open_stores
from app.node.upkeep import removal
from app.node.upkeep.removal import RemovalRequest, finish_removals, remove_study
from tests.node.upkeep.conftest import at_rest, whole

ASKED = {"asked_by": "berta"}


@pytest.fixture
def stores(policy: NodePolicy) -> NodeStores:
    return open_stores(policy)


def test_an_image_that_came_again_is_seen_though_the_database_s_clock_is_ahead(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = at_rest(stores, policy)
    monkeypatch.setattr(CLOCK, "_ahead", timedelta(hours=2))
    assert stores.inbox.store(kept[0]) is Stored.DUPLICATE
    with pytest.raises(MisconfiguredError, match="within the last 60 s"):
        remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    assert whole(stores) == 3


def test_an_image_that_comes_again_amid_a_removal_is_seen_though_the_database_s_clock_is_ahead(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, delete_rows = at_rest(stores, policy), removal._delete_rows
    receiving = open_stores(policy).inbox

    def meanwhile(*arguments: object) -> object:
        receiving.store(kept[0])
        return delete_rows(*arguments)

    monkeypatch.setattr(CLOCK, "_ahead", timedelta(hours=2))
    monkeypatch.setattr(removal, "_delete_rows", meanwhile)
    with pytest.raises(MisconfiguredError, match="have come meanwhile"):
        remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    assert whole(stores) == 3


def test_a_study_at_rest_is_removed_though_the_database_s_clock_is_behind(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_rest(stores, policy)
    half_an_hour_ago = time.time() - 1800
    os.utime(policy.inbox_dir / "studies" / "1.2.3", (half_an_hour_ago, half_an_hour_ago))
    monkeypatch.setattr(CLOCK, "_ahead", timedelta(hours=-1))
    remove_study(stores, policy, RemovalRequest("1.2.3", **ASKED))
    assert whole(stores) == 0


def test_a_removal_under_way_is_left_alone_though_the_database_s_clock_is_ahead(
    stores: NodeStores, policy: NodePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_rest(stores, policy)
    aside = policy.inbox_dir / "removed" / "1.2.3"
    aside.parent.mkdir()
    (policy.inbox_dir / "studies" / "1.2.3").rename(aside)
    monkeypatch.setattr(CLOCK, "_ahead", timedelta(hours=2))
    finish_removals(stores, policy)
    assert aside.is_dir()
