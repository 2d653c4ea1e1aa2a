"""Random numbers that depend on nothing but (seed, layer name, purpose, item).

A generator with a state would have to be wound forward when a run is resumed, and numpy's own
streams may change from one version to the next. A hash of the item's index needs neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A number in 0..1 has as many steps as a float64 tells apart there.
_STEPS = 1 << 53


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one layer, one for each item: `draws.below(2, "mirror", items)`."""

    seed: int
    name: str

    def below(self, limit: ArrayLike, purpose: str, items: ArrayLike) -> NDArray[np.int64]:
        """Return an integer in 0..limit-1 for each of `items`; equal arguments, equal numbers."""
        return (self._bits(purpose, items) % np.asarray(limit, np.uint64)).astype(np.int64)

    def share(self, purpose: str, items: ArrayLike) -> NDArray[np.float64]:
        """Return a number of 0 <= x < 1 for each of `items`."""
        return self.below(_STEPS, purpose, items) / _STEPS

    def order(self, count: int, purpose: str, index: int) -> NDArray[np.int64]:
        """Return a permutation of 0..count-1, another one for each `index`."""
        return np.argsort(self._bits(f"{purpose} {index}", np.arange(count)), kind="stable")

    def _bits(self, purpose: str, items: ArrayLike) -> NDArray[np.uint64]:
        """Return 64 random bits for each item.

        The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on a keyed counter.
        """
        text = f"{self.seed}\0{self.name}\0{purpose}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = np.uint64(int.from_bytes(digest, "little"))
        # Arrays wrap around in silence where numpy's scalars warn.
        z = np.atleast_1d(np.asarray(items)).astype(np.uint64)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
