"""What an array holds, in a few numbers, for messages about values that have gone wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of elements, NaN and Inf; least, most and mean absolute value of the finite ones."""

    count: int
    nan: int
    inf: int
    least: float
    most: float
    mean_abs: float

    @staticmethod
    def of(values: NDArray[np.float32]) -> Statistics:
        """Look at an array of the host."""
        finite = values[np.isfinite(values)].astype(np.float64)
        nan = int(np.isnan(values).sum())
        least, most, mean = (
            (float(finite.min()), float(finite.max()), float(np.abs(finite).mean()))
            if finite.size
            else (float("nan"),) * 3
        )
        return Statistics(values.size, nan, values.size - nan - finite.size, least, most, mean)

    @property
    def finite(self) -> bool:
        """Whether all elements are finite."""
        return not self.nan and not self.inf

    def __str__(self) -> str:
        numbers = f"{self.least:g} to {self.most:g}, mean absolute value {self.mean_abs:g}"
        if self.finite:
            return numbers
        bad = [f"{n} {what}" for n, what in ((self.nan, "NaN"), (self.inf, "Inf")) if n]
        text = f"{' and '.join(bad)} of {self.count}"
        rest = self.count - self.nan - self.inf
        return f"{text}, the others {numbers}" if rest else text
