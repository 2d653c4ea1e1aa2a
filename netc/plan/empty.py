"""Layers that have nothing to compute: their tops have no elements, because no item was selected.

No layer type needs a rule for that. Gradients that such tops lead to are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.backends.base import Binding, Job, Prepared, Terms


@dataclass(frozen=True, slots=True)
class Empty:
    """The kernel of such a layer, on any backend."""

    terms: Terms

    def forward(self, binding: Binding) -> Prepared:
        """Return the call that writes what tops there are."""
        tops = [top for top in binding.tops if top.size]

        def run() -> None:
            for top in tops:
                top[...] = 0

        return run

    def backward(self, binding: Binding) -> Prepared:
        """Return the call that writes zeros where gradients are not added to others."""
        diffs = [
            diff
            for diff, adds in zip(binding.bottom_diffs, binding.adds, strict=True)
            if diff is not None and not adds
        ]
        diffs += [diff for diff in binding.param_diffs if diff is not None]

        def run() -> None:
            for diff in diffs:
                diff[...] = 0

        return run


def empty(job: Job) -> Empty | None:
    """Return the kernel of a job that has nothing to compute, None for all others.

    A loss of nothing is one of them: it is 0, where Caffe divides 0 by 0.
    """
    layer = job.node.layer
    computes = any(0 not in shape for shape in job.tops)
    judges = not layer.loss or 0 not in job.bottoms[0]
    if layer.data_dependent or not job.tops or (computes and judges):
        return None
    return Empty(
        Terms(
            bottoms=job.layouts,
            tops=(None,) * len(job.tops),
            # Those that no plan has placed yet lie in C order.
            params=tuple(None if isinstance(layout, str) else layout for layout in job.params),
            kept=job.node.kept,
            can_add=True,
        )
    )
