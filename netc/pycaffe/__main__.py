"""Run a script that says `import caffe`: `python -m netc.pycaffe script.py [arguments]`."""

from __future__ import annotations

import os
import runpy
import sys

from netc.errors import NetcError
from netc.pycaffe.code import install
from netc.runtime.code import place


def main() -> None:
    """Run the script with its arguments as Python itself would, with `caffe` importable."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    script = sys.argv[1]
    if not os.path.isfile(script):
        raise SystemExit(f"{script}: there is no such script")
    install()
    del sys.argv[0]
    # What stands first is this package's starting folder; a script looks beside itself.
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except NetcError as error:
        # What the script did is wrong, or its files are; its own lines are all it takes to find it.
        raise SystemExit(f"{place(error)}\n{error}") from None


if __name__ == "__main__":
    main()
