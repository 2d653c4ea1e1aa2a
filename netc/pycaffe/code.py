"""The Python layers of a net, and `import caffe`.

In pycaffe the code of Python layers runs without asking, and so it does here: who calls this
package runs Python code as it is, and chooses the folders that modules come from. `netc train` and
the other verbs, which only get files, ask for `-allow_python_layers`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from netc.errors import fail
from netc.layers.python import PythonCode
from netc.layers.types import Layer
from netc.runtime.code import CodeHost, add_aliases

_allowed = True


def allow_python_layers(allowed: bool = True) -> None:
    """Let nets made from here on run the code of their Python layers, as they do at first, or not.

    With False, a net that names Python code is refused, unless it is code that netc has a type for.
    """
    global _allowed
    _allowed = allowed


def host() -> KeepingHost | None:
    """Return what runs the Python layers of one net; None where they are not allowed."""
    import netc.pycaffe

    return KeepingHost(netc.pycaffe) if _allowed else None


class KeepingHost(CodeHost):
    """Runs the Python layers of one net: each is one object, whatever shapes the net takes on.

    What the code raises comes out as it is, with its traceback, as from pycaffe.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: dict[Layer, Any] = {}

    def kept(self, layer: Layer, make: Callable[[], Any]) -> Any:
        """Return what `make` gave for the layer first."""
        if layer not in self._kept:
            self._kept[layer] = make()
        return self._kept[layer]

    def run(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a layer."""
        method(*arguments)


def object_of(layer: Layer) -> Any:
    """Return the object that a Python layer is; None for layers of other types."""
    return layer.code.instance if isinstance(layer, PythonCode) else None


def install() -> None:
    """Make `import caffe` mean this package, for the rest of the process.

    So that scripts for pycaffe, and the modules and Python layers that they import, run as they
    are: `from caffe import layers as L`, `from caffe.proto import caffe_pb2`, `import caffe.draw`.
    Does nothing where it is done already; NetcError where another caffe has been imported.
    """
    import netc.pycaffe as package

    other = sys.modules.get("caffe", package)
    if other is not package:
        raise fail(
            "another caffe is imported already",
            expected="install() before the first `import caffe`",
            got=str(getattr(other, "__file__", other)),
        )
    add_aliases("caffe", package)
    # The names under which pycaffe's own classes can be imported too.
    sys.modules.update({"caffe.pycaffe": package, "caffe._caffe": package})
