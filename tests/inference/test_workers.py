"""Tiles side by side: in their order, each in a single thread, and the threads are as before."""

from __future__ import annotations

import time

import pytest
import torch

from app.inference.running.workers import in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_the_order_of_their_tiles(workers: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.01 if number % 2 == 0 else 0)
        return number

    assert list(in_order(work, range(10), workers)) == list(range(10))


def test_each_worker_has_one_thread_and_infers_and_the_caller_keeps_its_threads() -> None:
    def work(number: int) -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_inference_mode_enabled()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert set(in_order(work, range(5), 2)) == {(1, True)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_of_a_tile_ends_the_work_and_the_caller_keeps_its_threads() -> None:
    asked: list[int] = []

    def work(number: int) -> int:
        asked.append(number)
        if number == 1:
            raise RuntimeError("no")
        return number

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match=r"^no$"):
        list(in_order(work, range(100), 2))
    assert len(asked) < 10
    assert torch.get_num_threads() == before
