"""Gaussian filtering of points in many dimensions, by a lattice: near points share their values.

    lattice = Lattice(xp, features)         features (n, d), in units of the standard deviation
    filtered = lattice.filter(values)       values (channels, n), about
                                            sum_j exp(-|f_i - f_j|^2 / 2) * values[:, j]

Every point lies in a simplex of the permutohedral lattice, and gives its values to the d + 1
corners by its barycentric weights; on the lattice the values are blurred along d + 1 directions;
then each point takes its mixture back. The time is linear in n, where the sum itself is quadratic.
Corners that no point has are left out, which loses a little at the rims.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010, as it is used for dense CRFs by Kraehenbuehl and Koltun, NIPS 2011.
"""

from __future__ import annotations

import math

from netc.layers.types import Array, ArrayNamespace, Refusal


class Lattice:
    """The corners that a set of points needs, and how points and corners hang together."""

    def __init__(self, xp: ArrayNamespace, features: Array) -> None:
        self._xp = xp
        n, d = features.shape
        self._d = d
        remainder, rank, rest = self._simplices(features.astype("float64"))
        self._weights = self._barycentric(rank, rest)
        codes, steps = self._codes(remainder, rank)
        corners, inverse = xp.unique(codes.reshape(-1), return_inverse=True)
        self._count = len(corners)
        self._corner = inverse.reshape(n, d + 1)
        self._neighbours = [
            (self._find(corners, corners + step), self._find(corners, corners - step))
            for step in steps
        ]

    def _simplices(self, features: Array) -> tuple[Array, Array, Array]:
        """Return for each point the nearest corner of colour 0, and the point's place beside it.

        The first is (n, d + 1), multiples of d + 1; the second the order of the coordinates by what
        they have more than this corner, the largest first; the third that difference.
        """
        xp, d = self._xp, self._d
        n = len(features)
        # Onto the plane of d + 1 coordinates whose sum is 0, scaled so that the blur on the lattice
        # has the standard deviation 1.
        spread = math.sqrt(2 / 3) * (d + 1)
        scale = xp.asarray([spread / math.sqrt((i + 1) * (i + 2)) for i in range(d)])
        scaled = features * scale
        sums = xp.zeros((n, d + 1))
        sums[:, :d] = xp.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]
        elevated = sums
        elevated[:, 1:] -= xp.arange(1, d + 1) * scaled
        rounded = xp.rint(elevated / (d + 1))
        remainder = rounded * (d + 1)
        difference = elevated - remainder
        rank = xp.zeros((n, d + 1), "int64")
        for i in range(d + 1):
            for j in range(i + 1, d + 1):
                smaller = difference[:, i] < difference[:, j]
                rank[:, i] += smaller
                rank[:, j] += ~smaller
        # Where the corners do not add up to 0, the coordinates that were rounded furthest go back.
        rank += rounded.sum(axis=1).astype("int64")[:, None]
        over = (rank > d).astype("int64") - (rank < 0)
        rank -= over * (d + 1)
        remainder -= over * (d + 1)
        return remainder.astype("int64"), rank, elevated - remainder

    def _barycentric(self, rank: Array, rest: Array) -> Array:
        """Return the weights (n, d + 1) of the corners of colour 0, 1, ... d; they add up to 1."""
        xp, d = self._xp, self._d
        ordered = xp.zeros(rest.shape)
        xp.put_along_axis(ordered, d - rank, rest / (d + 1), axis=1)
        weights = ordered.copy()
        weights[:, 1:] -= ordered[:, :-1]
        weights[:, 0] += 1 - ordered[:, -1]
        return weights

    def _codes(self, remainder: Array, rank: Array) -> tuple[Array, list[int]]:
        """Return a number for each corner of each point, and what a step adds in each direction.

        The last coordinate of a corner is the others' sum, negated, and says nothing new.
        """
        xp, d = self._xp, self._d
        colour = xp.arange(d + 1)[:, None]
        shift = xp.where(xp.arange(d + 1) <= d - colour, colour, colour - (d + 1))
        keys = remainder[:, None, :d] + shift[xp.arange(d + 1)[None, :, None], rank[:, None, :d]]
        lowest = keys.min(axis=(0, 1)) - d
        sizes = [int(v) for v in keys.max(axis=(0, 1)) - lowest + d + 1]
        if math.prod(sizes) >= 1 << 62:
            raise Refusal(
                "the kernel is too narrow for the range of its features",
                expected="fewer than 2^62 places on the lattice",
                got=" x ".join(map(str, sizes)),
                hint="larger standard deviations",
            )
        strides = [math.prod(sizes[i + 1 :]) for i in range(d)]
        codes = ((keys - lowest) * xp.asarray(strides)).sum(axis=2)
        down = -sum(strides)
        return codes, [down + (d + 1) * stride for stride in strides] + [down]

    def _find(self, corners: Array, wanted: Array) -> Array:
        """Return the indices of corners by number; one past the last for those not there."""
        xp = self._xp
        place = xp.minimum(xp.searchsorted(corners, wanted), self._count - 1)
        return xp.where(corners[place] == wanted, place, self._count)

    def filter(self, values: Array, *, transposed: bool = False) -> Array:
        """Return values (channels, n), filtered; `transposed` by the transpose of that."""
        xp, d = self._xp, self._d
        on_corners = xp.zeros((self._count + 1, len(values)), values.dtype)
        where = self._corner.reshape(-1)
        for channel, given in enumerate(values):
            shares = (self._weights * given[:, None]).reshape(-1)
            on_corners[:-1, channel] = xp.bincount(where, shares, minlength=self._count)
        order = reversed(self._neighbours) if transposed else self._neighbours
        for ahead, behind in order:
            blurred = on_corners[ahead]
            blurred += on_corners[behind]
            blurred *= 0.5
            on_corners[:-1] += blurred
        weights = (self._weights / (1 + 2.0**-d)).astype(values.dtype)
        found = on_corners[self._corner[:, 0]] * weights[:, :1]
        for corner in range(1, d + 1):
            found += on_corners[self._corner[:, corner]] * weights[:, corner, None]
        return found.T
