"""The error function, which NumPy and CuPy lack."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from netc.layers.types import Array, ArrayNamespace

# Numerators and denominators of the two rational approximations, highest power first.
# Source: Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23, 1969.
_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (
        1.0,
        2.36012909523441209e1,
        2.44024637934444173e2,
        1.28261652607737228e3,
        2.84423683343917062e3,
    ),
)
_FAR = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_BORDER = 0.46875
#: From here on erf is 1 to the last digit of a float64.
_ONE = 6.0


def erf(xp: ArrayNamespace, x: Array) -> Array:
    """Return 2 / sqrt(pi) * the integral of exp(-t^2) from 0 to x, for each element.

    The error is at most 1e-15. NaN gives NaN.
    """
    size = xp.abs(x)
    inner = xp.minimum(size, _BORDER)
    near = size * _ratio(inner * inner, *_NEAR)
    outer = xp.minimum(size, _ONE)
    far = 1 - xp.exp(-outer * outer) * _ratio(outer, *_FAR)
    return xp.copysign(xp.where(size < _BORDER, near, far), x)


def _ratio(x: Array, above: Sequence[float], below: Sequence[float]) -> Array:
    """Return the quotient of two polynomials."""
    return _polynomial(x, above) / _polynomial(x, below)


def _polynomial(x: Array, factors: Sequence[float]) -> Array:
    first, second, *rest = factors
    return functools.reduce(lambda y, factor: y * x + factor, rest, x * first + second)
