"""JSON for other programs."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Return JSON that every reader takes: NaN and infinities, which it has not, become null.

    Without an indent it is one line.
    """
    return json.dumps(_plain(value), indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
