"""Threads that prepare data: all of the work, the first error, and no more of them than allowed."""

from __future__ import annotations

import gc
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.data import workers as module
from netc.data.workers import Workers


def pool_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("netc-data")]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_all_work_is_done_and_the_first_error_told(threads: int) -> None:
    workers = Workers(threads)
    done: set[int] = set()
    workers.run(done.add, 50)
    assert done == set(range(50))

    running: list[int] = []

    def work(i: int) -> None:
        running.append(i)
        time.sleep(0.001)
        running.remove(i)
        if i in (7, 11, 40):
            raise ValueError(f"item {i} is bad")

    with pytest.raises(ValueError, match="item 7 is bad"):
        workers.run(work, 50)
    assert not running, "work goes on behind the error"
    workers.run(done.discard, 50)
    assert not done


@given(st.integers(1, 5), st.integers(1, 40), st.sets(st.integers(0, 39), max_size=3))
def test_of_several_errors_the_first_in_order_counts(
    threads: int, count: int, bad: set[int]
) -> None:
    def work(i: int) -> None:
        if i in bad:
            raise KeyError(i)

    first = min((i for i in bad if i < count), default=None)
    workers = Workers(threads)
    if first is None:
        workers.run(work, count)
        return
    with pytest.raises(KeyError) as caught:
        workers.run(work, count)
    assert caught.value.args == (first,)


class Counter:
    """Work that counts how many of it are done at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __call__(self, i: int) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.01)
        with self._lock:
            self._now -= 1


def most_at_a_time(workers: Workers) -> int:
    count = Counter()
    workers.run(count, 12)
    return count.most


def test_a_fixed_number_of_threads_works() -> None:
    assert most_at_a_time(Workers(3)) == 3


def test_one_works_while_nobody_waits_and_all_do_while_somebody_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "processors", lambda: 4)
    workers = Workers()
    assert most_at_a_time(workers) == 1
    with workers.waited_for():
        assert most_at_a_time(workers) == 4
    assert most_at_a_time(workers) == 1


def test_who_begins_to_wait_speeds_up_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: 4)
    workers = Workers()
    together = threading.Barrier(4, timeout=30)

    def work(i: int) -> None:
        if i:  # the first is done by one thread; the others need each other
            together.wait()

    runner = threading.Thread(target=workers.run, args=(work, 5))
    runner.start()
    with workers.waited_for():
        runner.join(30)
    assert not runner.is_alive()
    assert not together.broken


def test_two_layers_share_the_threads() -> None:
    workers, count = Workers(2), Counter()
    feeds = [threading.Thread(target=workers.run, args=(count, 10)) for _ in range(3)]
    for feed in feeds:
        feed.start()
    for feed in feeds:
        feed.join()
    assert count.most == 2


def test_workers_that_nobody_uses_any_more_end() -> None:
    others = set(pool_threads())
    workers = Workers(3)
    workers.run(lambda i: None, 9)
    ours = set(pool_threads()) - others
    assert ours
    del workers
    gc.collect()
    for thread in ours:
        thread.join(30)
    assert not ours & set(pool_threads())


def test_the_process_has_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_workers", module.workers())
    module.use_threads(2)
    assert most_at_a_time(module.workers()) == 2
    module.use_threads(1)
    caller: list[threading.Thread] = []
    module.workers().run(lambda i: caller.append(threading.current_thread()), 3)
    assert set(caller) == {threading.current_thread()}
