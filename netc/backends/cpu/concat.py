"""Concat and Slice: parts of a blob along an axis, copied.

That a convolution writes its part of the whole at once is not to be had: for a memory descriptor
that is part of a larger one oneDNN 3.2 has only its plain loops, in all three passes and also for
a batch of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from ctypes import POINTER, c_int, c_void_p, cast

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, in_a_row, move, positive, required
from netc.backends.cpu.onednn import Desc, Primitive, primitive
from netc.layers.shape import Concat, Slice
from netc.layers.types import Array


class Parts:
    """A whole and its parts along an axis, all in one kind of layout.

    A layout in blocks serves only where every part begins at a block.
    """

    def __init__(
        self, whole: Sequence[int], parts: Sequence[Sequence[int]], layouts: Sequence[Layout | None]
    ) -> None:
        differing = [
            axis for axis, size in enumerate(whole) if any(part[axis] != size for part in parts)
        ]
        self.axis = differing[0] if differing else 0
        shapes = [positive(part) for part in parts]
        ends = list(itertools.accumulate((s[self.axis] for s in shapes), initial=0))
        for layout in [*dict.fromkeys(layouts), None]:
            name = layout.name if layout else ""
            found = _alike(name, [positive(whole), *shapes])
            if found is None:
                continue
            self.whole, *self.parts = found
            try:
                self.places = [
                    self.whole.part(shape, self.axis, start)
                    for shape, start in zip(shapes, ends[:-1], strict=True)
                ]
            except onednn.OneDnnError:
                continue
            return
        raise Impossible("no layout suits all parts")

    def join(self) -> Primitive:
        """Return the primitive that puts the parts together."""
        n = len(self.parts)
        descs = (c_void_p * n)(*(part.handle for part in self.parts))
        return required(
            primitive("concat", self.whole, c_int(n), self.axis, cast(descs, POINTER(c_void_p))),
            "concatenation",
        )

    def joined(self, parts: Sequence[Array], whole: Array) -> Prepared:
        """Return the call that puts the parts together."""
        arrays = {
            onednn.MULTIPLE_SRC + i: (desc, array)
            for i, (desc, array) in enumerate(zip(self.parts, parts, strict=True))
        }
        return self.join().bind({**arrays, onednn.DST: (self.whole, whole)})

    def cut(self, whole: Array, parts: Sequence[Array | None]) -> Prepared:
        """Return the call that copies the parts out of the whole, None for those not wanted."""
        return in_a_row(
            [
                move(place, whole, desc, part)
                for place, desc, part in zip(self.places, self.parts, parts, strict=True)
                if part is not None
            ]
        )


def _alike(name: str, shapes: Sequence[tuple[int, ...]]) -> list[Desc] | None:
    """Return descriptors of one kind of layout for all shapes; None if it cannot be made."""
    found = []
    for shape in shapes:
        desc = Desc.blocked(shape, name)
        if desc is None:
            return None
        found.append(desc)
    return found


class ConcatKernel(Kernel):
    """The bottoms one behind the other."""

    def __init__(self, job: Job) -> None:
        assert isinstance(job.node.layer, Concat)
        if len(job.bottoms) == 1:
            raise Impossible("there is only one bottom")
        self._parts = Parts(job.tops[0], job.bottoms, job.layouts)
        self._parts.join()
        self.terms = Terms(
            bottoms=tuple(part.layout for part in self._parts.parts),
            tops=(self._parts.whole.layout,),
            params=(),
        )

    def forward(self, binding: Binding) -> Prepared:
        return self._parts.joined(binding.bottoms, binding.tops[0])

    def backward(self, binding: Binding) -> Prepared:
        return self._parts.cut(binding.top_diffs[0], binding.bottom_diffs)


class SliceKernel(Kernel):
    """The bottom in parts."""

    def __init__(self, job: Job) -> None:
        assert isinstance(job.node.layer, Slice)
        if len(job.tops) == 1:
            raise Impossible("there is only one top")
        self._parts = Parts(job.bottoms[0], job.tops, job.layouts)
        if job.train:
            self._parts.join()
        self.terms = Terms(
            bottoms=(self._parts.whole.layout,),
            tops=tuple(part.layout for part in self._parts.parts),
            params=(),
        )

    def forward(self, binding: Binding) -> Prepared:
        return self._parts.cut(binding.bottoms[0], binding.tops)

    def backward(self, binding: Binding) -> Prepared:
        return self._parts.joined(binding.top_diffs, binding.bottom_diffs[0])
