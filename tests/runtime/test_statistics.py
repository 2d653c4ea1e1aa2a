"""What is said of the content of an array."""

from __future__ import annotations

import numpy as np
import pytest

from netc.runtime.statistics import Statistics

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, -3, 2], "-3 to 2, mean absolute value 2"),
        ([1, NAN, -INF, INF], "1 NaN and 2 Inf of 4, the others 1 to 1, mean absolute value 1"),
        ([NAN, NAN], "2 NaN of 2"),
        # Finite, though its square is not.
        ([3e38, 3e38], "3e+38 to 3e+38, mean absolute value 3e+38"),
    ],
)
def test_of_numbers_and_others(values: list[float], says: str) -> None:
    found = Statistics.of(np.array(values, np.float32))
    assert str(found) == says
    assert found.finite == ("NaN" not in says and "Inf" not in says)
