"""The Python layers of a net, and `import caffe`.

In pycaffe the code of Python layers runs without asking, and so it does here: who calls this
package runs Python code as it is, and chooses the folders that modules come from. `netc train` and
the other verbs, which only get files, ask for `-allow_python_layers`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from netc.errors import fail
from netc.layers.python import PythonCode
from netc.layers.types import Layer
from netc.runtime.code import CodeHost, aliases

_allowed = True


def allow_python_layers(allowed: bool = True) -> None:
    """Let nets made from here on run the code of their Python layers, as they do at first, or not.

    With False, a net that names Python code is refused, unless it is code that netc has a type for.
    """
    global _allowed
    _allowed = allowed


def host() -> CodeHost | None:
    """Return what runs the Python layers of a net; None where they are not allowed."""
    return _Raising(_package()) if _allowed else None


def told_host(*, known: bool = False) -> CodeHost:
    """Return what runs Python layers for those who tell what went wrong in words.

    `known` is as for `CodeHost`.
    """
    return CodeHost(_package(), known=known)


def _package() -> ModuleType:
    import netc.pycaffe

    return netc.pycaffe


class _Raising(CodeHost):
    """What the code raises comes out as it is, with its traceback, as from pycaffe."""

    def run(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a layer."""
        with self.caffe():
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
    sys.modules.update(aliases("caffe", package))
    # The names under which pycaffe's own classes can be imported too.
    sys.modules.update({"caffe.pycaffe": package, "caffe._caffe": package})
