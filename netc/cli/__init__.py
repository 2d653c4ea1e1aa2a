"""The command line: `netc VERB ...`, one module per verb, imported only when its verb is called.

Exit codes: 0 done, 1 the user's problem (told in words on standard error), 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from netc._version import __version__

# Verb -> one line for `netc --help`. The module of the same name offers `configure(parser)` and
# `run(args) -> exit code`.
VERBS = {
    "train": "train or fine-tune a net, or resume a run",
    "test": "score a net on its test data",
    "time": "time every layer forward and backward, or print the plan",
    "check": "report every mistake in net and solver files",
    "summary": "table of layers: shapes, params, multiply-adds, memory",
    "export": "write a net with weights as ONNX, and prove it",
    "upgrade": "rewrite an old net, solver or weights file in today's form",
    "doctor": "report versions, devices, and what is missing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "-help", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-version", "--version"):
        print(f"netc {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        from netc.errors import nearest

        print(f"netc: unknown verb '{verb}'", file=sys.stderr)
        print(f"  {nearest(verb, VERBS) or 'see netc --help'}", file=sys.stderr)
        return 2
    return _run(verb, arguments[1:])


def _run(verb: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"netc.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"netc {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    args = parser.parse_args(arguments)
    from netc.errors import NetcError

    try:
        return int(module.run(args))
    except NetcError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output went away (`netc summary | head`): not worth a traceback.
        sys.stderr.close()
        return 0


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"netc {__version__}: compiler and runner for neural networks written as text", ""]
    lines += ["usage: netc VERB [options]      netc VERB --help shows options and an example", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    lines += ["", "example: netc train -solver solvers/lenet.prototxt"]
    return "\n".join(lines)
