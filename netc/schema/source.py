"""Nets and solvers from their files: read, checked, upgraded, and with the place of every value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from netc import text as texts
from netc.errors import NetcError, Problem, Span, fail, in_order
from netc.schema import netc_pb2
from netc.schema.bind import bind_with_problems
from netc.schema.descriptors import descriptor_of, field_of
from netc.schema.frcnn import spread_settings
from netc.schema.places import Places
from netc.schema.upgrade import upgrade_net_and_places, upgrade_solver

M = TypeVar("M", bound=Message)

_INLINE_NETS = ("net_param", "train_net_param", "test_net_param")


@dataclass(frozen=True)
class Source(Generic[M]):
    """A message in the current format, and where it comes from.

    `upgraded` says in words what was rewritten; it is empty for files in the current format.
    """

    message: M
    file: str
    places: Places
    upgraded: tuple[str, ...] = ()

    def span(self, *path: str | int) -> Span:
        """Return the place of a value: `span("layer", 3, "convolution_param", "kernel_size", 0)`.

        A message's place is that of its name. Where the text does not have the path, the answer is
        the place of the longest part of it that it has; in the end, the file.
        """
        return self.places.find(*path).span

    def sub(self, *path: str | int) -> Source[netc_pb2.NetParameter]:
        """Return the net that is inline at `path`: ("net_param",), or ("test_net_param", 1)."""
        message: Any = self.message
        for step in path:
            message = message[step] if isinstance(step, int) else getattr(message, step)
        assert isinstance(message, netc_pb2.NetParameter), f"no net at {path}"
        return Source(message, self.file, self.places.find(*path))


def read_net(path: str | Path, text: str | None = None) -> Source[netc_pb2.NetParameter]:
    """Return the net of a prototxt, YAML or JSON file; the suffix tells which.

    `text`, where given, is taken for the content of `path`. Raises NetcError with all mistakes.
    """
    places, message = _read(path, text, netc_pb2.NetParameter)
    message, places, changes = upgrade_net_and_places(message, places)
    changes += spread_settings(message, places)
    return Source(message, str(path), places, tuple(changes))


def read_solver(path: str | Path, text: str | None = None) -> Source[netc_pb2.SolverParameter]:
    """Return the solver of a prototxt, YAML or JSON file, its inline nets upgraded too.

    `text`, where given, is taken for the content of `path`. Raises NetcError with all mistakes.
    """
    places, message = _read(path, text, netc_pb2.SolverParameter)
    message, changes = upgrade_solver(message, places)
    problems: list[Problem] = []
    for name in _INLINE_NETS:
        nets = getattr(message, name)
        repeated = field_of(message, name).is_repeated
        if not repeated:
            nets = [nets] if message.HasField(name) else []
        for i, net in enumerate(nets):
            label = f"{name}[{i}]" if repeated else name
            try:
                new, _, net_changes = upgrade_net_and_places(net, places.find(name, i))
            except NetcError as error:
                problems += error.problems
                continue
            if new is not net:
                net.CopyFrom(new)
            changes += [f"{label}: {change}" for change in net_changes]
    if problems:
        raise NetcError(*in_order(problems))
    return Source(message, str(path), places, tuple(changes))


def read_label_map(path: str | Path) -> netc_pb2.LabelMap:
    """Return the classes that a text file tells. Raises NetcError with all mistakes."""
    return _read(path, None, netc_pb2.LabelMap)[1]


def _read(path: str | Path, text: str | None, message_class: type[M]) -> tuple[Places, M]:
    if text is None:
        data = texts.read_bytes(path)
        _refuse_binary_net(data, str(path))
        text = texts.decode(data, str(path))
    if not text.strip():
        raise fail("this file is empty", span=Span(str(path)))
    tree = texts.parse_with_problems(path, text)
    _refuse_the_other_kind(tree, message_class)
    bound, problems = bind_with_problems(tree, message_class)
    if problems:
        raise NetcError(*in_order(problems))
    return bound.places, bound.message


# What a text may hold, by what it is called, and fields that tell.
_KINDS: dict[str, tuple[type[Message], str]] = {
    "net": (netc_pb2.NetParameter, "layer { ... }"),
    "solver": (netc_pb2.SolverParameter, "base_lr and max_iter"),
    "label map": (netc_pb2.LabelMap, "item { ... }"),
}


def _refuse_the_other_kind(tree: texts.Tree, message_class: type[Message]) -> None:
    """Say so where a net is given for a solver, or the like, instead of each field."""
    fields = {kind: set(descriptor_of(of).fields_by_name) for kind, (of, _) in _KINDS.items()}
    (wanted,) = (kind for kind, (of, _) in _KINDS.items() if of is message_class)
    names = [entry.name for entry in tree.root.entries]
    for got in fields:
        foreign = [name for name in names if name in fields[got] - fields[wanted]]
        if len(foreign) * 2 > len(names):
            raise fail(
                f"this is a {got}, not a {wanted}",
                span=Span(tree.file),
                expected=f"fields of a {wanted}, such as {_KINDS[wanted][1]}",
                got=", ".join(dict.fromkeys(foreign[:5])),
            )


def _refuse_binary_net(data: bytes, file: str) -> None:
    """Say so where weights are given for a text; other binary files get a plainer message later."""
    if not texts.is_binary(data):
        return
    try:
        net = parse_binary(data, netc_pb2.NetParameter, file)
    except NetcError:
        return
    layers = len(net.layer) + len(net.layers)
    if layers:
        raise fail(
            f"this is a file of weights (a caffemodel of {layers} layers), not the text of a net",
            span=Span(file),
            expected="prototxt or YAML",
            hint="give it as -weights, and the prototxt that belongs to it as the net",
        )


def read_net_binary(path: str | Path) -> Source[netc_pb2.NetParameter]:
    """Return the net of a binary file such as a caffemodel, in the current format.

    Weights of any size are read faster through `netc.weights`. Raises NetcError for other files.
    """
    net = parse_binary(texts.read_bytes(path), netc_pb2.NetParameter, str(path))
    places = Places(Span(str(path)))
    net, places, changes = upgrade_net_and_places(net, places, for_weights=True)
    return Source(net, str(path), places, tuple(changes))


def is_binary_net(data: bytes) -> bool:
    """Tell whether the content of a file is a serialised net rather than the text of one."""
    try:
        return texts.is_binary(data) and bool(
            parse_binary(data, netc_pb2.NetParameter).ListFields()
        )
    except NetcError:
        return False


def parse_binary(data: bytes, message_class: type[M], file: str = "<bytes>") -> M:
    """Return the message that `data` is the serialised form of. Raises NetcError where it is none.

    Almost any bytes parse as some message with unknown fields: one that has no known field at all
    counts as none.
    """
    name = descriptor_of(message_class).name
    try:
        message = message_class.FromString(data)
    except DecodeError as error:
        raise fail(f"this is not a serialised {name}, or it is cut off", span=Span(file)) from error
    if data and not message.ListFields():
        raise fail(f"this is not a serialised {name}", span=Span(file))
    return message
