"""The verbs' flags: Caffe's, with one dash or two; and what is said of a call that has none such.

As in Caffe's own tools `-flag value`, `--flag value` and `-flag=value` are the same, a name is
never shortened, and of a flag given twice the last one counts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from netc.errors import Problem, nearest

if TYPE_CHECKING:
    import logging

    from netc.backends.base import Backend
    from netc.graph.types import Graph
    from netc.runtime.code import CodeHost
    from netc.train.finetuning import Asked

_SETTING = re.compile(r"[A-Za-z_][\w.]*=")
_FLAG = re.compile(r"--?(?P<name>[A-Za-z][\w-]*)(?P<value>=.*)?", re.DOTALL)


class Usage(Exception):
    """A call that cannot be understood: told like any problem, with exit code 2."""

    def __init__(self, what: str, *, expected: str = "", got: str = "", hint: str = "") -> None:
        self.problem = Problem(what, expected=expected, got=got, hint=hint)
        super().__init__(self.problem)

    def __str__(self) -> str:
        return self.problem.render()


class Parser(argparse.ArgumentParser):
    """The flags of one verb. `documentation` ends in lines of examples, from "example:" on."""

    def __init__(self, verb: str, documentation: str) -> None:
        description, _, example = documentation.partition("\nexample:")
        super().__init__(
            prog=f"netc {verb}",
            description=description.strip(),
            epilog=f"example:{example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.verb = verb
        self._needed: list[str] = []
        self._settings: Callable[[], Iterable[str]] | None = None

    def settings(self, known: Callable[[], Iterable[str]]) -> None:
        """Take KEY=VALUE words too, as `args.settings`; `known` gives the names of the settings."""
        self._settings = known

    def flag(self, name: str, *, needed: bool = False, **settings: Any) -> None:
        """Add a flag; the verb does nothing without those that are needed."""
        self.add_argument(f"-{name}", **settings)
        if needed:
            self._needed.append(name)

    def files(self, name: str, number: str | None = None, *, help: str) -> None:
        """Add an argument without a flag; `number` as in argparse: "+" or "?"."""
        self.add_argument(name, metavar=name.upper(), nargs=number, help=help)

    def understand(self, arguments: Sequence[str]) -> argparse.Namespace | None:
        """Return the values of all flags, None after printing help. Raises Usage."""
        if any(word in ("-h", "-help", "--help") for word in arguments):
            self.usage = self._usage()
            self.print_help()
            return None
        args, rest = self.parse_known_args(self._with_one_dash(arguments))
        if self._settings:
            args.settings = tuple(filter(_SETTING.match, rest))
            rest = [word for word in rest if word not in args.settings]
        missing = [name for name in self._needed if getattr(args, name) in (None, "")]
        if rest:
            hint = f"netc {self.verb} --help lists its flags"
            if missing:
                hint = f"did you mean -{missing[0]} {rest[0]}?"
            elif self._settings and rest[0] in self._settings():
                hint = f"a setting of the solver takes its value so: {'='.join(rest[:2])}"
            raise Usage(f"'{rest[0]}' belongs to no flag", got=" ".join(rest), hint=hint)
        if missing:
            raise Usage(
                f"the flag -{missing[0]} is missing",
                expected="\n".join(self._say(f"-{name}") for name in missing),
                hint=f"netc {self.verb} --help has an example",
            )
        return args

    def error(self, message: str) -> Any:
        """Raise Usage for what argparse finds."""
        if found := re.fullmatch(r"argument (-\w+): (.*)", message, re.DOTALL):
            flag, what = found.groups()
            if what.startswith("ignored explicit argument"):
                raise Usage(f"the flag {flag} takes no value", expected=flag)
            if what.startswith("expected "):
                raise Usage(f"the flag {flag} needs a value", expected=self._say(flag))
            raise Usage(
                f"the flag {flag} does not take this value", expected=self._say(flag), got=what
            )
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise Usage(f"{found[1]} is missing", hint=f"netc {self.verb} --help has an example")
        raise Usage(message)

    def _usage(self) -> str:
        needed = [
            f"-{name} {self._option_string_actions[f'-{name}'].metavar}" for name in self._needed
        ]
        several = {None: "{}", "+": "{} ...", "?": "[{}]"}
        files = [
            several[action.nargs].format(action.metavar)  # type: ignore[index]  # `files` sets them
            for action in self._get_positional_actions()
        ]
        settings = ["[KEY=VALUE ...]"] * bool(self._settings)
        return " ".join([self.prog, *files, *needed, "[flags]", *settings])

    def _say(self, flag: str) -> str:
        action = self._option_string_actions[flag]
        return f"{flag} {action.metavar or ''}".rstrip() + f": {action.help}"

    def _with_one_dash(self, arguments: Sequence[str]) -> list[str]:
        found: list[str] = []
        known = [name[1:] for name in self._option_string_actions]
        for i, word in enumerate(arguments):
            if word == "--":
                return [*found, *arguments[i:]]
            match = _FLAG.fullmatch(word)
            if match and match["name"] not in known:
                hint = nearest(match["name"], known).replace("'", "-", 1).replace("'", "")
                if self._settings and match["name"] in self._settings():
                    value = match["value"] or "=" + "".join(arguments[i + 1 : i + 2])
                    hint = f"a setting of the solver goes without a dash: {match['name']}{value}"
                raise Usage(
                    f"unknown flag {word.partition('=')[0]}",
                    expected=", ".join(f"-{name}" for name in known),
                    hint=hint,
                )
            found.append(f"-{match['name']}{match['value'] or ''}" if match else word)
        return found


class Rejected(argparse.ArgumentTypeError):
    """A value that a flag does not take; the text is what is shown as `got`."""


def one_of(*known: str) -> Callable[[str], str]:
    """Return the reader of a value out of a few, upper or lower case."""

    def read(text: str) -> str:
        for value in known:
            if value.lower() == text.lower():
                return value
        raise Rejected(f"'{text}', which is none of {', '.join(known)}")

    return read


def count(text: str) -> int:
    """Read a number of things, at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise Rejected(f"'{text}', which is no whole number from 1 on")
    return number


def batch(text: str) -> int | str:
    """Read a batch size, or "dynamic"."""
    return "dynamic" if text.lower() == "dynamic" else count(text)


def rate(text: str) -> float:
    """Read a learning rate, a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise Rejected(f"'{text}', which is no number above 0")
    return number


def integer(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise Rejected(f"'{text}', which is no whole number") from None


def names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, as Caffe's flags have it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def unfreezing(text: str) -> tuple[tuple[str, int], ...]:
    """Read conv2@500,conv1@1000."""
    found = []
    for part in names(text):
        name, _, at = part.rpartition("@")
        if not name or not at.isdecimal():
            raise Rejected(f"'{part}'")
        found.append((name, int(at)))
    return tuple(found)


def factors(text: str) -> tuple[tuple[str, float], ...]:
    """Read fc*=10,conv*=0.1."""
    found = []
    for part in names(text):
        name, _, factor = part.rpartition("=")
        try:
            found.append((name, float(factor)))
        except ValueError:
            name = ""
        if not name:
            raise Rejected(f"'{part}'")
    return tuple(found)


def renames(text: str) -> tuple[tuple[str, str], ...]:
    """Read fc8=fc8_new,conv*=base/conv*."""
    found = []
    for part in names(text):
        old, _, new = (word.strip() for word in part.partition("="))
        if not old or not new:
            raise Rejected(f"'{part}'")
        found.append((old, new))
    return tuple(found)


def partial(text: str) -> tuple[str, tuple[int, ...]]:
    """Read fc8, or fc8=0-4,7."""
    from netc.weights.transfer import rows_in

    name, equals, listed = text.partition("=")
    rows = rows_in(listed)
    if not name or rows is None or bool(rows) != bool(equals):
        raise Rejected(f"'{text}'")
    return name, rows


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read BLOB=1,3,224,224."""
    name, _, dims = text.rpartition("=")
    try:
        found = tuple(int(dim) for dim in dims.split(","))
    except ValueError:
        found = ()
    if not name or not found or min(found) < 1:
        raise Rejected(f"'{text}'")
    return name, found


def net_options(parser: Parser, *, phase: str) -> None:
    """Add -model, -phase, -level and -stage."""
    parser.flag("model", metavar="NET", needed=True, help="the net: prototxt or YAML")
    parser.flag(
        "phase",
        type=one_of("TRAIN", "TEST"),
        metavar="TRAIN|TEST",
        default=phase,
        help=f"which of the nets in the text (default {phase})",
    )
    state_options(parser)


def state_options(parser: Parser) -> None:
    """Add -level and -stage, which include and exclude rules are compared with."""
    parser.flag(
        "level",
        type=integer,
        default=0,
        metavar="N",
        help="level for include and exclude rules (default 0)",
    )
    parser.flag(
        "stage",
        type=names,
        default=(),
        metavar="A,B",
        help="stages for include and exclude rules",
    )


def shape_options(parser: Parser) -> None:
    """Add -shape, which overrides the shape of inputs."""
    parser.flag(
        "shape",
        type=shape,
        action="append",
        default=[],
        metavar="BLOB=1,3,224,224",
        help="shape of an input or data blob, in place of the text's; may be given several times",
    )


def weights_options(parser: Parser, purpose: str) -> None:
    """Add -weights, and the way out for those who have none."""
    parser.flag(
        "weights", default="", metavar="A,B", help=f"weights {purpose}; of several the last wins"
    )
    parser.flag(
        "random_weights",
        action="store_true",
        help="fill what -weights lacks by its fillers, to look at speed or structure",
    )


def tuning_options(parser: Parser) -> None:
    """Add what of a net is trained, and how its weights come from those of another."""
    flag = parser.flag
    flag(
        "freeze",
        type=names,
        default=(),
        metavar="A,B",
        help="layers that are not trained, by name or pattern: 'conv*,!conv5' leaves conv5 trained",
    )
    flag(
        "unfreeze",
        type=unfreezing,
        default=(),
        metavar="A@500,B@1000",
        help="frozen layers that are trained from an iteration on",
    )
    flag(
        "layer_rate",
        type=factors,
        default=(),
        metavar="A=10,B=0.1",
        help="layers whose rate is multiplied; of several that match, the last counts",
    )
    flag(
        "rename",
        type=renames,
        default=(),
        metavar="OLD=NEW,...",
        help="what layers of the weights are called in the net; patterns: 'conv*=base/conv*'",
    )
    flag("rename_file", default="", metavar="FILE", help="the same, one `old new` per line")
    flag(
        "partial_copy",
        type=partial,
        action="append",
        default=[],
        metavar="A[=0-4,7]",
        help="a layer with another number of outputs takes the first rows of the weights, or "
        "these; may be given several times",
    )


def data_threads_option(parser: Parser) -> None:
    """Add -data_threads."""
    parser.flag(
        "data_threads",
        type=count,
        default=0,
        metavar="N",
        help="threads that read and decode data (default: one while the net computes, one per "
        "processor while it waits)",
    )


def iterations_option(parser: Parser, what: str) -> None:
    """Add -iterations, with Caffe's default."""
    parser.flag(
        "iterations", type=count, default=50, metavar="N", help=f"{what} (default 50, as in Caffe)"
    )


def python_option(parser: Parser) -> None:
    """Add -allow_python_layers."""
    parser.flag(
        "allow_python_layers",
        action="store_true",
        help="run the code of Python layers: their modules are imported from PYTHONPATH and do "
        "whatever you may do, so allow it for nets that you trust",
    )


def code_host(args: argparse.Namespace, *, known: bool = False) -> CodeHost | None:
    """Return what runs the code of Python layers, None unless the flag allows it."""
    if not args.allow_python_layers:
        return None
    from netc.pycaffe.code import told_host

    return told_host(known=known)


def graph_to_look_at(args: argparse.Namespace, *, known: bool = False) -> Graph:
    """Return the graph that the flags of a net, its state and its shapes ask for.

    Where data is absent its shape is assumed. `known` is as for `code_host`.
    """
    from netc.assemble import load_graph
    from netc.layers.types import Phase

    return load_graph(
        args.model,
        Phase[args.phase],
        args.level,
        args.stage,
        shapes=dict(args.shape),
        assume=True,
        host=code_host(args, known=known),
    )


def require_weights(args: argparse.Namespace) -> None:
    """Refuse a call that says nothing of the weights."""
    if not args.weights and not args.random_weights:
        raise Usage(
            "the flag -weights is missing",
            expected="-weights A,B: one or more caffemodels",
            hint="-random_weights does without, to look at speed or structure",
        )


def backend_options(parser: Parser) -> None:
    """Add -backend, -precision, -threads and Caffe's -gpu."""
    parser.flag(
        "backend",
        default="auto",
        metavar="NAME",
        help="auto, cpu or reference (default auto: the fastest that works here)",
    )
    parser.flag(
        "precision",
        type=one_of("fp32", "bf16"),
        metavar="fp32|bf16",
        help="what to compute in: bf16 is faster where the processor has it, and less exact "
        "(default: what the solver says, or fp32)",
    )
    parser.flag(
        "threads",
        type=count,
        default=0,
        metavar="N",
        help="threads that compute (default: one for each processor that netc may use)",
    )
    parser.flag(
        "gpu",
        default="",
        metavar="ID",
        help="taken as in Caffe's command lines; this version runs on the CPU, and says so",
    )


def format_option(parser: Parser, *forms: str) -> None:
    """Add -format; the first form is the default."""
    parser.flag(
        "format",
        type=one_of(*forms),
        default=forms[0],
        metavar="|".join(forms),
        help=f"form of the output (default {forms[0]})",
    )


# The settings of a solver that are flags, too.
_SETTINGS = {
    "max_iter": "iterations to train for",
    "base_lr": "learning rate",
    "data_threads": "threads that read and decode data",
}


def solver_options(parser: Parser) -> None:
    """Add -solver, and what overrides its settings: some flags, and KEY=VALUE."""
    parser.flag("solver", metavar="FILE", needed=True, help="the solver: prototxt or YAML")
    for name, what in _SETTINGS.items():
        parser.flag(name, default="", metavar="N", help=f"{what}, in place of the file's")
    parser.settings(_solver_settings)


def _solver_settings() -> Iterable[str]:
    from netc.schema import netc_pb2

    return netc_pb2.SolverParameter.DESCRIPTOR.fields_by_name


def overrides(args: argparse.Namespace) -> list[str]:
    """Return all that `solver_options` found to override, as KEY=VALUE words."""
    again = next((word for word in args.settings if word.startswith("weights=")), "")
    if again and getattr(args, "weights", ""):
        raise Usage("two values for weights", got=f"-weights {args.weights} and {again}")
    flags = [f"{name}={value}" for name in _SETTINGS if (value := vars(args)[name])]
    return [*flags, *args.settings]


def chosen_backend(args: argparse.Namespace, otherwise: str = "fp32") -> Backend:
    """Return the backend of the flags; `otherwise` is the precision that counts without a flag."""
    from netc.backends import find_backend, use_threads
    from netc.backends.base import Precision

    if args.threads:
        use_threads(args.threads)
    return find_backend(args.backend, Precision(args.precision or otherwise))


def asked(args: argparse.Namespace) -> Asked:
    """Return what -weights and `tuning_options` say: where a run starts, and what is trained."""
    from netc.train.finetuning import Asked
    from netc.train.freezing import Freeze, Rate, Unfreeze, Wishes
    from netc.weights import split_list
    from netc.weights.transfer import PartialCopy, Rename, Transfer

    return Asked(
        tuple(split_list(args.weights)) if args.weights else (),
        Wishes(
            tuple(map(Freeze, args.freeze)),
            tuple(Unfreeze(*said) for said in args.unfreeze),
            tuple(Rate(*said) for said in args.layer_rate),
        ),
        Transfer(
            tuple(Rename(*said) for said in args.rename),
            tuple(PartialCopy(*said) for said in args.partial_copy),
        ),
        args.rename_file,
    )


def mention_gpu(gpu: str, logger: logging.Logger) -> None:
    """Tell a user who asked for a GPU that this version runs on the CPU."""
    if gpu:
        logger.warning("-gpu %s: this version of netc has no GPU backend; running on the CPU", gpu)
