"""The reference backend: every layer type through its own rules, with NumPy.

The executable definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.base import (
    Backend,
    Binding,
    Job,
    Kernel,
    Layout,
    MomentumStep,
    Prepared,
    Terms,
)
from netc.layers.types import Array, ArrayNamespace, BackwardCall, ForwardCall

_ALIGNMENT = 64


class ReferenceBackend:
    """Runs all that netc knows, on NumPy arrays."""

    name = "reference"
    xp: ArrayNamespace = np

    def candidates(self) -> Sequence[Backend]:
        return (self,)

    def chains(self) -> Sequence[tuple[str, ...]]:
        return ()

    def kernel_for(self, job: Job) -> Kernel:
        node = job.node
        return _Rules(
            Terms(
                bottoms=(None,) * len(node.bottoms),
                tops=(None,) * len(node.tops),
                params=(None,) * len(node.params),
                kept=node.kept,
                reads=node.layer.backward_reads(),
                in_place=node.layer.in_place,
                can_add=True,
            )
        )

    def reorder(
        self,
        shape: tuple[int, ...],
        source: Array,
        source_layout: Layout | None,
        target: Array,
        target_layout: Layout | None,
        *,
        add: bool = False,
    ) -> Prepared:
        assert source_layout is None and target_layout is None, "there is only C order here"
        source, target = source.reshape(shape), target.reshape(shape)
        if add:
            return lambda: np.add(target, source, out=target)
        return lambda: np.copyto(target, source)

    def momentum_step(self) -> MomentumStep | None:
        return None

    def allocate(self, nbytes: int) -> Array:
        raw = np.zeros(nbytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + nbytes]

    def to_host(self, array: Array) -> Any:
        return array

    def synchronize(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class _Rules:
    """A layer's own rules as a kernel."""

    terms: Terms

    def forward(self, binding: Binding) -> Prepared:
        call = ForwardCall(
            xp=np,
            bottoms=binding.bottoms,
            params=binding.params,
            kept=binding.kept,
            out=binding.tops,
            random=binding.random,
            progress=binding.progress,
        )
        rule = binding.node.layer.forward
        tops, place = binding.tops, binding.place

        def run() -> None:
            values = rule(call)
            found = tops if place is None else place([value.shape for value in values])
            # A rule may return optional tops that the text does not name.
            for top, value in zip(found, values, strict=False):
                if value is not top:
                    np.copyto(top, value)

        return run

    def backward(self, binding: Binding) -> Prepared:
        call = BackwardCall(
            xp=np,
            bottoms=binding.bottoms,
            tops=binding.tops,
            params=binding.params,
            kept=binding.kept,
            top_diffs=binding.top_diffs,
            wants_bottoms=tuple(diff is not None for diff in binding.bottom_diffs),
            wants_params=tuple(diff is not None for diff in binding.param_diffs),
        )
        rule = binding.node.layer.backward
        bottoms = tuple(
            (i, diff, add)
            for i, (diff, add) in enumerate(zip(binding.bottom_diffs, binding.adds, strict=True))
            if diff is not None
        )
        params = tuple((i, diff) for i, diff in enumerate(binding.param_diffs) if diff is not None)

        def run() -> None:
            gradients = rule(call)
            for i, diff, add in bottoms:
                gradient = gradients.bottoms[i]
                assert gradient is not None, f"{binding.node.label} owes the gradient of bottom {i}"
                if add:
                    diff += gradient
                else:
                    np.copyto(diff, gradient)
            for i, diff in params:
                diff[...] = gradients.params[i]

        return run
