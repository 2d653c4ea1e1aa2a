"""The code of Python layers: imported and run, for those who allow it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.layers.types import Refusal


class CodeHost:
    """Runs the code of Python layers; to make one is to allow that.

    `caffe` is the package that `import caffe`, `import caffe.io` and the like mean in that code,
    also where BVLC's is installed, whose base class belongs to its own nets; only a `caffe` that
    the process has imported itself stays. `known` says to leave the code of well-known layers
    aside. Modules are found on `sys.path`, as everywhere. Fulfils the Protocol of
    `netc.layers.types`.
    """

    def __init__(self, caffe: ModuleType | None = None, *, known: bool = False) -> None:
        self.known = known
        # Caffe's modules by the names that code has for them: "caffe", "caffe.io", ...
        self._names = {} if caffe is None else aliases("caffe", caffe)

    def has(self, module: str) -> bool:
        """Say whether the module can be found; of a package only the outermost is looked for."""
        outermost = module.partition(".")[0]
        try:
            return outermost in sys.modules or importlib.util.find_spec(outermost) is not None
        except (ImportError, ValueError):
            return False

    def load(self, module: str, name: str) -> Any:
        """Import the module and return the class."""
        with self.caffe():
            try:
                found = importlib.import_module(module)
            except (Exception, SystemExit) as error:
                absent = isinstance(error, ModuleNotFoundError) and (error.name or "") in module
                raise Refusal(
                    f"the Python module '{module}' cannot be imported",
                    expected="a module on the path of Python",
                    got=_said(error),
                    hint=f"is its folder missing in PYTHONPATH? Searched: {_first(sys.path)}"
                    if absent
                    else place(error),
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

    def run(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a layer."""
        with self.caffe():
            try:
                method(*arguments)
            except (Exception, SystemExit) as error:
                name = getattr(method, "__qualname__", "a method")
                raise Refusal(
                    f"the Python code of {name} has failed", got=_said(error), hint=place(error)
                ) from error

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of zeros."""
        return np.zeros(shape, np.float32)

    @contextlib.contextmanager
    def caffe(self) -> Iterator[None]:
        """Let `import caffe`, and its modules, mean ours in this block."""
        if not self._names or "caffe" in sys.modules:
            yield
            return
        sys.modules.update(self._names)
        try:
            yield
        finally:
            for name in self._names:
                sys.modules.pop(name, None)


def aliases(name: str, package: ModuleType) -> dict[str, ModuleType]:
    """Return a package and its modules, as far as they are imported, by other names.

    In `sys.modules` they let `import name` and `import name.module` mean these.
    """
    inside = f"{package.__name__}."
    found = {
        f"{name}.{other.removeprefix(inside)}": module
        for other, module in sys.modules.items()
        if other.startswith(inside)
    }
    return {**found, name: package}


#: Whose lines are not the user's: those of Python, of what is installed beside it, and ours.
_NOT_THEIRS = (
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]) + os.sep,
    "<frozen ",
)
# Lines of the user's code that are told, the one that failed last.
_MOST_LINES = 3


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def place(error: BaseException) -> str:
    """Return where in the user's own code an error was raised, and how it came there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    lines = [f"{frame.filename}:{frame.lineno}: {frame.line}" for frame in own or frames[-1:]]
    if isinstance(error, SyntaxError) and error.filename:
        lines = [f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"]
    return "\n".join(lines[-_MOST_LINES:])


def _first(path: list[str]) -> str:
    return ", ".join(folder or "." for folder in path[:4])
