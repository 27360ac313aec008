"""Whose turn it is: by rank, in turn among senders, and nothing waits for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.node.process.turns import OVERTAKEN_AT_MOST, in_turn, places
from app.node.records.states import Rank, RunKey, Turn

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def waits(study: str, rank: Rank = Rank.ROUTINE, sender: str = "A", minutes: float = 1) -> Turn:
    """A study that came so many minutes ago."""
    return Turn(RunKey(study, 1), rank, sender, NOW - timedelta(minutes=minutes))


def order(*turns: Turn, started: tuple[Turn, ...] = ()) -> str:
    """The studies, one letter each, as they go to the worker."""
    return "".join(turn.key.study_instance_uid for turn in in_turn(turns, started, NOW))


def test_the_sender_that_was_served_last_comes_last() -> None:
    waiting = (waits("a", minutes=9), waits("b", sender="B"), waits("c", sender="C", minutes=2))
    assert order(*waiting) == "acb"
    assert order(*waiting, started=(waits("x", sender="A"), waits("y", sender="C"))) == "bca"


def test_what_is_overdue_is_overtaken_three_times_at_most() -> None:
    urgent = [waits(str(number), Rank.URGENT, minutes=10 - number) for number in range(8)]
    assert order(*urgent, waits("o", Rank.REPLAY, minutes=59)) == "01234567o"
    assert order(*urgent, waits("o", Rank.REPLAY, minutes=61)) == "012o34567"


def test_a_hundred_overdue_replays_delay_an_urgent_study_by_one_at_most() -> None:
    replays = [waits(f"r{number};", Rank.REPLAY, minutes=500 - number) for number in range(100)]
    waiting = (*replays, waits("u", Rank.URGENT))
    assert order(*waiting).startswith("u")
    after_urgent = tuple(waits("x", Rank.URGENT) for _ in range(OVERTAKEN_AT_MOST))
    assert order(*waiting, started=after_urgent).startswith("r0;ur1;")


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Rank)), st.sampled_from("ABC"), st.integers(0, 300)), max_size=12
    )
)
def test_each_that_waits_has_one_turn(items: list[tuple[Rank, str, int]]) -> None:
    turns = [waits(str(number), *item) for number, item in enumerate(items)]
    assert sorted(in_turn(turns, (), NOW), key=turns.index) == turns
    assert places(turns, (), NOW).keys() == {turn.key for turn in turns}


def test_the_place_says_what_stands_before_it() -> None:
    found = places((waits("a"), waits("b", Rank.URGENT), waits("c", Rank.REPLAY)), (), NOW)
    assert {key.study_instance_uid: words for key, words in found.items()} == {
        "a": "number 2 in the queue (routine, after 1 urgent)",
        "b": "number 1 in the queue (urgent)",
        "c": "number 3 in the queue (replay, after 1 urgent, 1 routine)",
    }
