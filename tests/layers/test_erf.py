from __future__ import annotations

import math

import numpy as np

from netc.layers.erf import erf


def test_matches_the_standard_library() -> None:
    x = np.concatenate(
        [np.linspace(-7, 7, 4001), [0.46875, -0.46875, 6, -6, 30, -30, 1e-300, np.inf, -np.inf]]
    )
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf(np, x), want, rtol=2e-15, atol=0)


def test_signs_and_nan() -> None:
    got = erf(np, np.array([-0.0, 0.0, np.nan]))
    assert np.signbit(got[0]) and not np.signbit(got[1]) and np.isnan(got[2])


def test_float32_stays_float32() -> None:
    x = np.linspace(-5, 5, 1001, dtype=np.float32)
    got = erf(np, x)
    assert got.dtype == np.float32
    want = np.array([math.erf(float(v)) for v in x])
    np.testing.assert_allclose(got, want, rtol=1e-6)
