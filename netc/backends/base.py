"""The contract between plan, runtime and backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from netc.graph.types import Node
from netc.layers.types import Array, ArrayNamespace

# A step ready to run: everything is looked up and shaped, calling it does the work.
Prepared = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Declined:
    """A backend's answer for a node it has no kernel for.

    With the reason that `netc time -plan` shows.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Binding:
    """The arrays and facts of one step.

    Diffs that nobody wants are None. `adds[i]`: the gradient for bottom i is added to what its diff
    holds. Gradients of params always add. `random()` gives the numpy Generator of (seed, layer,
    pass).
    """

    node: Node
    bottoms: tuple[Array, ...]
    tops: tuple[Array, ...]
    params: tuple[Array, ...]
    kept: tuple[Array, ...]
    top_diffs: tuple[Array, ...]
    bottom_diffs: tuple[Array | None, ...]
    param_diffs: tuple[Array | None, ...]
    adds: tuple[bool, ...]
    random: Callable[[], Any]


class Kernel(Protocol):
    """One node in one direction, on one backend."""

    def prepare(self, binding: Binding) -> Prepared:
        """Do all the work that need not be repeated and return the call that is."""
        ...


class Backend(Protocol):
    """A device or library that runs nodes."""

    @property
    def name(self) -> str:
        """The name on the command line and in plans."""
        ...

    @property
    def xp(self) -> ArrayNamespace:
        """The array namespace of its memory."""
        ...

    def candidates(self) -> Sequence[Backend]:
        """Return the backends to ask for a kernel, this one first, the reference last."""
        ...

    def kernel_for(self, node: Node, direction: Any) -> Kernel | Declined:
        """Return a kernel, or why there is none."""
        ...

    def allocate(self, nbytes: int) -> Array:
        """Return zeroed memory as a uint8 array, aligned to a cache line."""
        ...

    def to_host(self, array: Array) -> Any:
        """Return a NumPy view or copy."""
        ...

    def synchronize(self) -> None:
        """Wait until all started work is done."""
        ...
