"""The code of Python layers: imported and run, for those who allow it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.layers.types import Layer, Refusal


class CodeHost:
    """Runs the code of Python layers; to make one is to allow that.

    `caffe` is the package that `import caffe`, `import caffe.io` and the like mean while a layer's
    module is imported, on a machine without Caffe. Modules are found on `sys.path`, as everywhere.
    Fulfils the Protocol of `netc.layers.types`.
    """

    def __init__(self, caffe: ModuleType | None = None) -> None:
        self._caffe = caffe

    def has(self, module: str) -> bool:
        """Say whether the module can be found; of a package only the outermost is looked for."""
        outermost = module.partition(".")[0]
        try:
            return outermost in sys.modules or importlib.util.find_spec(outermost) is not None
        except (ImportError, ValueError):
            return False

    def load(self, module: str, name: str) -> Any:
        """Import the module and return the class."""
        with self._with_caffe():
            try:
                found = importlib.import_module(module)
            except Exception as error:
                raise Refusal(
                    f"the Python module '{module}' cannot be imported",
                    expected="a module on the path of Python",
                    got=_said(error),
                    hint=f"is its folder missing in PYTHONPATH? Searched: {_first(sys.path)}"
                    if isinstance(error, ModuleNotFoundError)
                    else _place(error),
                    setting="module",
                ) from error
        if not isinstance(getattr(found, name, None), type):
            classes = [key for key, value in vars(found).items() if isinstance(value, type)]
            raise Refusal(
                f"the Python module '{module}' has no class '{name}'",
                expected=f"one of: {', '.join(classes)}" if classes else "a class",
                got=name,
                setting="layer",
            )
        return getattr(found, name)

    def kept(self, layer: Layer, make: Callable[[], Any]) -> Any:
        """Return a new object for a layer."""
        return make()

    def run(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a layer."""
        try:
            method(*arguments)
        except Exception as error:
            name = getattr(method, "__qualname__", "a method")
            raise Refusal(
                f"the Python code of {name} has failed", got=_said(error), hint=_place(error)
            ) from error

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of zeros."""
        return np.zeros(shape, np.float32)

    @contextlib.contextmanager
    def _with_caffe(self) -> Iterator[None]:
        """Let `import caffe` mean something in this block, where it would mean nothing."""
        if self._caffe is None or self.has("caffe"):
            yield
            return
        added = add_aliases("caffe", self._caffe)
        try:
            yield
        finally:
            for name in added:
                del sys.modules[name]


def add_aliases(name: str, package: ModuleType) -> list[str]:
    """Let a package and its modules, as far as they are imported, be imported by another name too.

    Returns the names that this adds to `sys.modules`.
    """
    inside = f"{package.__name__}."
    found = {
        f"{name}.{other.removeprefix(inside)}": module
        for other, module in sys.modules.items()
        if other.startswith(inside)
    }
    found[name] = package
    sys.modules.update(found)
    return list(found)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """Return where in the layer's own code an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""


def _first(path: list[str]) -> str:
    return ", ".join(folder or "." for folder in path[:4])
