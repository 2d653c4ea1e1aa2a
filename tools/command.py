"""How every tool here ends: with its result, or with a user's mistake told in words."""

from __future__ import annotations

import sys
from collections.abc import Callable

from netc.errors import NetcError


def run(main: Callable[[], None]) -> None:
    """Call `main`; a `NetcError` becomes its text on stderr and exit status 1."""
    try:
        main()
    except NetcError as error:
        sys.exit(f"error: {error}")
