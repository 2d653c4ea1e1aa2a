"""The command line: `netc VERB ...`, one module per verb, imported only when its verb is called.

Exit codes: 0 done, 1 the user's problem (told in words on standard error), 2 a call that cannot be
understood; 128 + N ended by signal N (130 is Ctrl-C).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from netc._version import __version__

# Verb -> one line for `netc --help`. The module of the same name offers `configure(parser)` and
# `run(args) -> exit code`.
VERBS = {
    "train": "train or fine-tune a net, or resume a run",
    "test": "score a net on its test data",
    "lr_find": "find a learning rate, by training while it grows",
    "parse_log": "turn a training log, Caffe's too, into CSV",
    "time": "time every layer forward and backward, or print the plan",
    "check": "report every mistake in net and solver files",
    "summary": "table of layers: shapes, params, multiply-adds, memory",
    "draw": "draw a net as SVG, PNG or DOT",
    "export": "write a net with weights as ONNX, and prove it",
    "upgrade": "rewrite an old net, solver or weights file in today's form",
    "layers": "list the layer types, or describe one",
    "doctor": "report versions, devices, and what is missing",
}

# What Caffe calls the same.
_CAFFES_WORDS = {
    "device_query": "doctor",
    "upgrade_net_proto_text": "upgrade",
    "upgrade_net_proto_binary": "upgrade",
    "upgrade_solver_proto_text": "upgrade",
}

_EXAMPLES = """\
examples:
  netc check   solvers/lenet.prototxt
  netc train   -solver solvers/lenet.prototxt
  netc test    -model net.prototxt -weights net_iter_10000.caffemodel -iterations 100
  netc export  -model net.prototxt -weights net_iter_10000.caffemodel -output net.onnx"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _allow_any_name()
    try:
        code = _call(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("netc: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`netc summary | head`): nobody is left to tell.
        _drop_output()
        return 141
    except Exception as error:
        code = _tell(error, arguments)
        if not code:
            raise
        return code


def _call(arguments: list[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb == "help" and rest and rest[0] in VERBS:
        verb, rest = rest[0], ["-help"]
    if verb in VERBS:
        from netc.cli.options import Parser

        module = importlib.import_module(f"netc.cli.{verb}")
        parser = Parser(verb, module.__doc__ or "")
        module.configure(parser)
        args = parser.understand(rest)
        return 0 if args is None else int(module.run(args))
    if verb in ("", "-h", "-help", "--help", "help"):
        print(_overview(), file=sys.stdout if verb else sys.stderr)
        return 0 if verb else 2
    if verb in ("-version", "--version"):
        print(f"netc {__version__}")
        return 0
    raise _unknown(verb, rest)


def _unknown(verb: str, rest: list[str]) -> Exception:
    from netc.cli.options import Usage
    from netc.errors import nearest

    if verb.startswith("-"):
        named = next((word for word in rest if word in VERBS), "")
        example = "train -solver solver.prototxt"
        if named:
            example = " ".join([named, verb, *(word for word in rest if word != named)])
        return Usage("the verb comes first", expected=f"netc {example}", got=f"netc {verb} ...")
    if verb in _CAFFES_WORDS:
        hint = f"netc calls this: netc {_CAFFES_WORDS[verb]}"
    else:
        hint = nearest(verb, VERBS) or "netc --help says what each of them does"
    return Usage(f"unknown verb '{verb}'", expected=", ".join(VERBS), got=verb, hint=hint)


def _tell(error: Exception, arguments: list[str]) -> int:
    """Print a user's problem and return the exit code; 0 for what is a bug of ours."""
    from netc.cli.options import Usage
    from netc.errors import NetcError, Problem

    if isinstance(error, NetcError):
        print(error, file=sys.stderr)
        return 1
    if isinstance(error, Usage):
        verb = arguments[0] if arguments and arguments[0] in VERBS else ""
        print(f"netc{' ' * bool(verb)}{verb}: {error}", file=sys.stderr)
        return 2
    if isinstance(error, MemoryError):
        problem = Problem(
            "there is not enough memory",
            got=str(error),
            hint="a smaller batch_size, or smaller images, need less",
        )
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        problem = Problem("the output cannot be written", got=error.strerror or str(error))
        _drop_output()
    elif isinstance(error, ImportError) and (error.name or "netc").split(".")[0] != "netc":
        problem = Problem(
            "a package that netc needs is missing or broken",
            got=f"{error.name}: {error}",
            hint="netc doctor says what is missing, and how to get it",
        )
    else:
        return 0
    print(f"netc: {problem.render()}", file=sys.stderr)
    return 1


def _allow_any_name() -> None:
    """Let names of files and layers that the output's encoding lacks be printed escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what is still to be written nowhere: the interpreter tries once more as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"netc {__version__}: compiler and runner for neural networks written as text", ""]
    lines += ["usage: netc VERB [flags]        netc VERB --help lists the flags", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    lines += ["", _EXAMPLES]
    return "\n".join(lines)
