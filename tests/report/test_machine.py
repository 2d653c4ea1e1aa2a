"""JSON that every reader takes."""

from __future__ import annotations

import json
import math

from netc.report.machine import to_json


def test_numbers_that_json_lacks_become_null() -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5], "c": (-math.inf, "NaN"), "d": None}
    read = json.loads(to_json(value), parse_constant=lambda name: f"bad {name}")
    assert read == {"a": None, "b": [None, 1.5], "c": [None, "NaN"], "d": None}
