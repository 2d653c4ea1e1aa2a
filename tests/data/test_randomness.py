"""Random numbers by (seed, layer name, purpose, item)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from netc.data.randomness import Draws

MASK = 2**64 - 1


def slow_bits(seed: int, name: str, purpose: str, item: int) -> int:
    """SplitMix64 in Python's integers, from the paper: a counter times gamma, mixed twice."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{purpose}".encode(), digest_size=8).digest()
    z = (int.from_bytes(digest, "little") + (item + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40])
def test_the_numbers_are_those_of_splitmix64(seed: int) -> None:
    items = [0, 1, 2, 1000, 2**40]
    drawn = Draws(seed, "dätä").below(1000, "crop", items)
    assert drawn.tolist() == [slow_bits(seed, "dätä", "crop", item) % 1000 for item in items]


def test_an_order_sorts_by_these_numbers() -> None:
    # Part of what a snapshot relies on: another version of netc must draw the same order.
    by_definition = sorted(range(50), key=lambda i: slow_bits(1701, "data", "shuffle 3", i))
    assert Draws(1701, "data").order(50, "shuffle", 3).tolist() == by_definition


def test_seed_name_purpose_and_item_all_matter() -> None:
    items = np.arange(1000)
    base = Draws(1, "a").below(2**20, "x", items)
    assert len(set(base.tolist())) > 990  # 1000 of 2**20: half a collision is expected
    for other in (
        Draws(2, "a").below(2**20, "x", items),
        Draws(1, "b").below(2**20, "x", items),
        Draws(1, "a").below(2**20, "y", items),
        Draws(1, "a").below(2**20, "x", items + 1000),
    ):
        assert np.count_nonzero(other == base) < 5


def test_a_limit_for_each_item() -> None:
    limits = np.array([1, 2, 3, 50])
    drawn = np.array([Draws(i, "").below(limits, "x", np.arange(4)) for i in range(200)])
    assert (drawn.max(axis=0) == limits - 1)[:3].all()
    assert (drawn < limits).all()
    assert (drawn >= 0).all()


def test_the_numbers_are_even() -> None:
    counts = np.bincount(Draws(5, "n").below(10, "x", np.arange(100_000)))
    # Standard deviation of each count: sqrt(100000 * 0.1 * 0.9) = 95; five of them.
    assert np.abs(counts - 10_000).max() < 475


@pytest.mark.parametrize("count", [1, 2, 257])
def test_an_order_is_a_permutation(count: int) -> None:
    orders = [Draws(1, "n").order(count, "shuffle", epoch) for epoch in range(5)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(count))
    if count > 2:
        assert len({tuple(order.tolist()) for order in orders}) == 5
