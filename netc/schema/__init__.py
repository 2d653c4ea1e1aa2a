"""Tree to message: nets and solvers with the place of every value, in the current format.

    read_net(path)      -> Source[NetParameter]     prototxt, YAML or JSON, upgraded
    read_solver(path)   -> Source[SolverParameter]
    override(source, words)                         KEY=VALUE settings of the command line
    bind_fields(cls, messages, outer)               from messages to a frozen dataclass
    resolve(path, named_in)                         a path that a text file names
    upgrade_net(message)                            V0 and V1 to current, binary files too
    print_prototxt(message), print_yaml(message)    the way back

`netc_pb2` has the messages of `proto/netc.proto`, `weights_pb2` the same with arrays as bytes.
"""

from netc.schema import netc_pb2
from netc.schema.bind import Bound, bind, bind_with_problems
from netc.schema.convert import bind_fields
from netc.schema.custom import CUSTOM
from netc.schema.forks import chooses_implementation
from netc.schema.override import is_override, override
from netc.schema.paths import resolve
from netc.schema.places import Places
from netc.schema.printing import print_prototxt, print_yaml, shortest
from netc.schema.source import (
    Source,
    is_binary_net,
    parse_binary,
    read_label_map,
    read_net,
    read_net_binary,
    read_solver,
)
from netc.schema.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "CUSTOM",
    "Bound",
    "Places",
    "Source",
    "bind",
    "bind_fields",
    "bind_with_problems",
    "chooses_implementation",
    "is_binary_net",
    "is_override",
    "netc_pb2",
    "override",
    "parse_binary",
    "print_prototxt",
    "print_yaml",
    "read_label_map",
    "read_net",
    "read_net_binary",
    "read_solver",
    "resolve",
    "shortest",
    "upgrade_net",
    "upgrade_solver",
]
