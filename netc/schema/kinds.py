"""Nets and solvers told apart, whatever their files are called."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import Message

from netc import text as texts
from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.schema.descriptors import descriptor_of


def is_solver(path: str | Path, text: str | None = None) -> bool:
    """Tell whether a text is that of a solver, by the names of its fields.

    `text`, where given, is taken for the content of `path`. Where the fields do not tell, the
    file's name does; what cannot be read at all counts as a net, whose reader will say why.
    """
    try:
        tree = texts.parse_with_problems(path, text)
    except NetcError:
        return False
    net, solver = _names(netc_pb2.NetParameter), _names(netc_pb2.SolverParameter)
    entries = [entry.name for entry in tree.root.entries]
    n_net = sum(name in net - solver for name in entries)
    n_solver = sum(name in solver - net for name in entries)
    if n_net == n_solver:
        return "solver" in Path(path).name.lower()
    return n_solver > n_net


def _names(message_class: type[Message]) -> set[str]:
    return set(descriptor_of(message_class).fields_by_name)
