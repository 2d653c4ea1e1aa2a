"""The checks that every layer type must have had by the end of a run of all tests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from netc.layers import registry
from netc.layers.types import Layer, exactly
from netc.report.onnx_forms import onnx_operators
from tests.support.layer_harness import VECTORS, load_vector

# Types that compute nothing which could be defined here, and why.
EXEMPT = {
    "Python": "is what its module says",
    "TRT": "is not run",
}


def vector_types() -> set[str]:
    """Return the types with golden vectors: those whose name, in lower case, begins a file's."""
    found = set()
    for family in {path.name.partition("__")[0] for path in VECTORS.glob("*.npz")}:
        (first, *_) = sorted(path.stem for path in VECTORS.glob(f"{family}__*.npz"))
        types = re.findall(r'\btype: "(\w+)"', str(load_vector(first)["prototxt"]))
        found |= {name for name in types if name.lower() == family}
    return found


def demands() -> dict[str, set[str]]:
    """Return for each type of netc's own the checks that it needs."""
    known = vector_types()
    return {
        kind.name: set(_demanded(kind.cls, kind.name in known))
        for kind in registry.layer_types().values()
        if kind.cls.__module__.startswith("netc.") and kind.name not in EXEMPT
    }


def _demanded(cls: type[Layer], has_vector: bool) -> Iterator[str]:
    if cls.reads_data or cls.fed or cls.writes_data:
        return  # nothing is computed: tests/data reads and writes
    if not has_vector:
        yield "definition"
    if cls.forward is Layer.forward:
        return  # a small net of other types, which have rules
    if cls.backward is not Layer.backward:
        yield "gradient"
    if onnx_operators(cls) is not None and cls.tops != exactly(0):
        yield "onnx"
