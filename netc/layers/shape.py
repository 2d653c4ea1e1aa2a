"""Types that move, copy, join and cut blobs without computing anything."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.input import BlobShape
from netc.layers.permute import Permute
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    Coordinates,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    exactly,
)


def _axis_or_old_name(x: BlobType, axis: int | None, old: int | None, old_name: str) -> int:
    """Return the axis that `axis` or its older, never negative twin names; 1 if neither is set."""
    if old is None:
        return x.axis(1 if axis is None else axis)
    if axis is not None:
        raise Refusal(
            f"axis and {old_name} are both set",
            expected=f"axis or {old_name}, which mean the same",
            got=f"axis {axis} and {old_name} {old}",
            hint=f"remove {old_name}, the older name",
            setting=old_name,
        )
    if old < 0:
        raise Refusal(
            f"{old_name} is negative",
            expected=f"{old_name} >= 0",
            got=f"{old_name} {old}",
            hint="axis can count from the end: axis: -1 is the last",
            setting=old_name,
        )
    return x.axis(old, old_name)


def _along(axis: int, first: int | None, last: int | None) -> tuple[slice, ...]:
    """Return the index that takes first..last-1 of one axis and all of those before it."""
    return (*(slice(None),) * axis, slice(first, last))


@layer("Concat", "concat_param")
@dataclass(frozen=True)
class Concat(Layer):
    """The bottoms one behind the other along `axis`; all other axes must agree.

    Shapes: (N, C1, ...), (N, C2, ...), ... -> (N, C1 + C2 + ..., ...) for axis 1. `concat_dim` is
    the older name of `axis`. With IntelCaffe's `per_fla_fuse` and axis 1 each bottom is first
    written with its channels innermost and flattened, as the predictions of SSD are:
    (N, C1, H1, W1), (N, C2, H2, W2), ... -> (N, H1 W1 C1 + H2 W2 C2 + ..., 1, 1).

    Source: BVLC Caffe; `per_fla_fuse`, IntelCaffe.
    """

    axis: int | None = None
    concat_dim: int | None = None
    per_fla_fuse: bool = False

    bottoms: ClassVar[Arity] = at_least(1)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        if not self.per_fla_fuse or self._axis(bottoms[0]) != 1:
            return None
        parts = []
        for i, bottom in enumerate(bottoms):
            if bottom.axes != 4:
                raise Refusal(
                    "per_fla_fuse takes images",
                    expected="bottoms of 4 axes",
                    got=f"bottom {i} of shape {bottom}",
                    setting="per_fla_fuse",
                )
            flat = Reshape(shape=BlobShape((0, -1, 1, 1)))
            parts.append(Part(f"permute{i}", Permute((0, 2, 3, 1)), (f"$b{i}",), (f".p{i}",)))
            parts.append(Part(f"flatten{i}", flat, (f".p{i}",), (f".f{i}",)))
        flats = tuple(f".f{i}" for i in range(len(bottoms)))
        return (*parts, Part("concat", Concat(axis=1), flats, ("$t0",)))

    def infer(self, *bottoms: BlobType) -> Signature:
        first = bottoms[0]
        axis = self._axis(first)
        for index, other in enumerate(bottoms):
            if other.axes != first.axes or any(
                a != b
                for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True))
                if i != axis
            ):
                raise Refusal(
                    f"the bottoms differ in shape elsewhere than on axis {axis}",
                    expected=f"every bottom of shape {first}, but for axis {axis}",
                    got=f"bottom {index} of shape {other}",
                )
        joined = sum(x.shape[axis] for x in bottoms)
        return Signature((BlobType((*first.shape[:axis], joined, *first.shape[axis + 1 :])),))

    def _axis(self, first: BlobType) -> int:
        return _axis_or_old_name(first, self.axis, self.concat_dim, "concat_dim")

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        axis = self._axis(BlobType(call.bottoms[0].shape))
        return (call.xp.concatenate(call.bottoms, axis=axis, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        axis = self._axis(BlobType(dy.shape))
        ends = list(itertools.accumulate((x.shape[axis] for x in call.bottoms), initial=0))
        return Gradients(
            tuple(
                dy[_along(axis, first, last)] if wanted else None
                for (first, last), wanted in zip(
                    itertools.pairwise(ends), call.wants_bottoms, strict=True
                )
            )
        )

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if len(bottoms) == 1:
            return bottoms
        return (g.op("Concat", *bottoms, axis=self._axis(BlobType(bottoms[0].shape))),)


@layer("Slice", "slice_param")
@dataclass(frozen=True)
class Slice(Layer):
    """The bottom cut along `axis` before each `slice_point`, or into equal parts: one per top.

    Shapes: (N, C, ...) -> (N, p1, ...), (N, p2 - p1, ...), ..., (N, C - pk, ...) for axis 1 and the
    slice points p1 < p2 < ... < pk. `slice_dim` is the older name of `axis`.

    Source: BVLC Caffe.
    """

    axis: int | None = None
    slice_dim: int | None = None
    slice_point: tuple[int, ...] = ()
    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = at_least(1)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        axis = self._axis(x)
        return Signature(
            tuple(
                BlobType((*x.shape[:axis], last - first, *x.shape[axis + 1 :]))
                for first, last in self._parts(x)
            )
        )

    def _axis(self, x: BlobType) -> int:
        return _axis_or_old_name(x, self.axis, self.slice_dim, "slice_dim")

    def _parts(self, x: BlobType) -> tuple[tuple[int, int], ...]:
        """Return where on the axis each top begins and ends."""
        axis = self._axis(x)
        size, n = x.shape[axis], len(self.top)
        if not self.slice_point:
            if size % n:
                raise Refusal(
                    f"axis {axis} cannot be cut into {n} equal parts",
                    expected=f"a size that {n} tops divide, or {n - 1} slice_point",
                    got=f"size {size}, bottom of shape {x}",
                )
            points = range(0, size + 1, size // n) if size else (0,) * (n + 1)
            return tuple(itertools.pairwise(points))
        if len(self.slice_point) != n - 1:
            raise Refusal(
                "the number of slice points does not match the number of tops",
                expected=f"{n - 1} slice_point for {n} tops, or none for equal parts",
                got=f"{len(self.slice_point)} slice_point",
                setting="slice_point",
            )
        points = (0, *self.slice_point, size)
        if any(first >= last for first, last in itertools.pairwise(points)):
            raise Refusal(
                "a slice point leaves nothing for a top",
                expected=f"increasing slice points between 1 and {size - 1}",
                got=f"{', '.join(map(str, self.slice_point))}, bottom of shape {x}",
                setting="slice_point",
            )
        return tuple(itertools.pairwise(points))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        shape = BlobType(x.shape)
        axis = self._axis(shape)
        return tuple(x[_along(axis, first, last)] for first, last in self._parts(shape))

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        axis = self._axis(BlobType(call.top_diffs[0].shape))
        return Gradients((call.xp.concatenate(call.top_diffs, axis=axis),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, n = bottoms[0], len(self.top)
        if n == 1:
            return (x,)
        shape = BlobType(x.shape)
        axis = self._axis(shape)
        if not self.slice_point:
            count = {"num_outputs": n} if g.opset >= 18 else {}
            return tuple(g.op("Split", x, outputs=n, axis=axis, **count))
        sizes = g.constant([last - first for first, last in self._parts(shape)], "int64")
        return tuple(g.op("Split", x, sizes, outputs=n, axis=axis))


@layer("Split")
@dataclass(frozen=True)
class Split(Layer):
    """The bottom under several names. No text needs it: a blob may have any number of readers.

    Shapes: bottom (any) -> each top (the same).
    Source: BVLC Caffe.
    """

    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = at_least(1)
    view: ClassVar[bool] = True
    refuses_in_place: ClassVar[bool] = True

    def coordinates(self) -> Coordinates | None:
        return Coordinates()

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature((bottoms[0],) * len(self.top))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0],) * len(call.out)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dx, *rest = call.top_diffs
        for dy in rest:
            dx = dx + dy
        return Gradients((dx,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (bottoms[0],) * len(self.top)


@dataclass(frozen=True)
class _Exchange(Layer):
    """Base of what several processes exchange: a net of one process has every blob whole."""

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    tops_match_bottoms: ClassVar[bool] = True

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        """Return each bottom as the top of its place."""
        alone = len(bottoms) == 1
        return tuple(
            Part("" if alone else f".{i}", Split(("top",)), (f"$b{i}",), (f"$t{i}",))
            for i in range(len(bottoms))
        )


@layer("Gather")
@dataclass(frozen=True)
class Gather(_Exchange):
    """Each bottom, with the items that other processes have of it behind one another.

    netc trains in one process, in which each top is its bottom.

    Shapes: bottoms (any) -> tops (the same).
    Source: yjxiong's fork, which trains with MPI.
    """


@layer("Scatter")
@dataclass(frozen=True)
class Scatter(_Exchange):
    """The items of each bottom, shared out among processes: what Gather undoes.

    netc trains in one process, in which each top is its bottom.

    Shapes: bottoms (any) -> tops (the same).
    Source: yjxiong's fork, which trains with MPI.
    """


@dataclass(frozen=True)
class _Reshaped(Layer):
    """Base of the types whose top is the bottom in another shape."""

    view: ClassVar[bool] = True
    refuses_in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature((BlobType(self._shape(bottoms[0])),))

    def _shape(self, x: BlobType) -> tuple[int, ...]:
        """Return the shape of the top."""
        raise TypeError(f"layer type {self.type} lacks a shape rule")

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        return (x.reshape(self._shape(BlobType(x.shape))),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0].reshape(call.bottoms[0].shape),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.reshape(bottoms[0], self._shape(BlobType(bottoms[0].shape))),)


@layer("Flatten", "flatten_param")
@dataclass(frozen=True)
class Flatten(_Reshaped):
    """The axes `axis` to `end_axis`, both included, become one.

    Shapes: (N, C, H, W) -> (N, C * H * W) by default. An end_axis just before axis puts an axis of
    size 1 between the two, as in Caffe.

    Source: BVLC Caffe.
    """

    axis: int = 1
    end_axis: int = -1

    def _shape(self, x: BlobType) -> tuple[int, ...]:
        first, last = x.axis(self.axis), x.axis(self.end_axis, "end_axis") + 1
        if first > last:
            raise Refusal(
                "end_axis lies before axis",
                expected="axis <= end_axis",
                got=f"axis {self.axis}, end_axis {self.end_axis}, bottom of shape {x}",
                setting="end_axis",
            )
        return (*x.shape[:first], x.span(first, last), *x.shape[last:])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        shape = bottoms[0].shape
        if self._shape(BlobType(shape)) == (*shape[:1], math.prod(shape[1:])):
            return (g.op("Flatten", bottoms[0], axis=1),)
        return super().lower(g, bottoms, params)


@layer("Reshape", "reshape_param")
@dataclass(frozen=True)
class Reshape(_Reshaped):
    """The elements of the bottom, in their order, in a new shape.

    `shape` replaces the `num_axes` axes from `axis` on; -1 of them are all that follow, 0 puts new
    axes in between. A dim 0 in `shape` copies the bottom's axis at the same place; one dim may be
    -1 and is computed from the rest. A negative `axis` counts insertion points from the end: -1 is
    behind the last axis.

    Shapes: bottom (any) -> top with as many elements.
    Source: BVLC Caffe.
    """

    shape: BlobShape = field(default_factory=BlobShape)
    axis: int = 0
    num_axes: int = -1

    def _shape(self, x: BlobType) -> tuple[int, ...]:
        first, last = self._replaced(x)
        dims = self.shape.dim
        if any(dim < -1 for dim in dims) or dims.count(-1) > 1:
            raise Refusal(
                "shape has a dim that means nothing",
                expected="sizes, 0 for 'as in the bottom', and at most one -1 for 'the rest'",
                got=f"dims {BlobType(dims)}",
                setting="shape",
            )
        if any(dim == 0 and first + i >= x.axes for i, dim in enumerate(dims)):
            raise Refusal(
                "shape has a 0, but the bottom has no axis there to copy",
                expected=f"no 0 behind axis {x.axes - 1} of the bottom",
                got=f"dims {BlobType(dims)} from axis {first} on, bottom of shape {x}",
                setting="shape",
            )
        copied = [x.shape[first + i] if dim == 0 else dim for i, dim in enumerate(dims)]
        shape = (*x.shape[:first], *copied, *x.shape[last:])
        if -1 not in dims:
            if math.prod(shape) != x.count:
                raise Refusal(
                    "the new shape holds another number of elements",
                    expected=f"{x.count} elements, as in the bottom of shape {x}",
                    got=f"{math.prod(shape)} in {BlobType(shape)}",
                    hint="let one dim be -1: it is computed",
                    setting="shape",
                )
            return shape
        count, known = x.count, math.prod(dim for dim in shape if dim != -1)
        if not count and not known:
            # No items: the axes without size tell nothing of the one to be computed.
            count, known = (math.prod(n for n in dims if n > 0) for dims in (x.shape, shape))
        if known == 0 or count % known:
            raise Refusal(
                "the dims that are known do not divide the number of elements",
                expected=f"a divisor of {x.count}, for the bottom of shape {x}",
                got=f"{known}, for the top of shape {BlobType(shape)}",
                setting="shape",
            )
        return tuple(count // known if dim == -1 else dim for dim in shape)

    def _replaced(self, x: BlobType) -> tuple[int, int]:
        """Return the first axis that is replaced, and the first behind it that is not."""
        first = self.axis if self.axis >= 0 else x.axes + 1 + self.axis
        if not 0 <= first <= x.axes:
            raise Refusal(
                f"axis {self.axis} is out of range",
                expected=f"{-x.axes - 1} <= axis <= {x.axes}",
                got=f"axis {self.axis}, bottom of shape {x}",
                setting="axis",
            )
        last = x.axes if self.num_axes == -1 else first + self.num_axes
        if self.num_axes < -1 or last > x.axes:
            raise Refusal(
                f"num_axes {self.num_axes} is out of range",
                expected=f"0 <= num_axes <= {x.axes - first}, or -1 for all axes from {first} on",
                got=f"num_axes {self.num_axes}, bottom of shape {x}",
                setting="num_axes",
            )
        return first, last


@layer("Silence")
@dataclass(frozen=True)
class Silence(Layer):
    """Reads its bottoms and does nothing, so that they do not count as outputs of the net.

    Shapes: bottoms (any).
    Source: BVLC Caffe.
    """

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = exactly(0)

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature(())

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return ()

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return ()


@layer("Tile", "tile_param")
@dataclass(frozen=True)
class Tile(Layer):
    """`tiles` copies of the bottom one behind the other along `axis`.

    Shapes: (N, C, ...) -> (N, tiles * C, ...) for axis 1.

    Source: BVLC Caffe.
    """

    axis: int = 1
    tiles: int | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if self.tiles is None or self.tiles <= 0:
            raise Refusal(
                "tiles is missing" if self.tiles is None else "tiles is not positive",
                expected="tiles >= 1",
                got="no tiles" if self.tiles is None else f"tiles {self.tiles}",
                hint="add tile_param { axis: 1 tiles: 2 }" if self.tiles is None else "",
                setting="tiles",
            )
        axis = x.axis(self.axis)
        size = x.shape[axis] * self.tiles
        return Signature((BlobType((*x.shape[:axis], size, *x.shape[axis + 1 :])),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        copies = call.bottoms * (self.tiles or 0)
        return (call.xp.concatenate(copies, axis=self.axis, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        x, dy = call.bottoms[0], call.top_diffs[0]
        axis = self.axis % x.ndim
        return Gradients((dy.reshape(*x.shape[:axis], self.tiles, *x.shape[axis:]).sum(axis=axis),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        repeats = [1] * len(bottoms[0].shape)
        repeats[self.axis] = self.tiles or 0
        return (g.op("Tile", bottoms[0], g.constant(repeats, "int64")),)


@layer("Crop", "crop_param")
@dataclass(frozen=True)
class Crop(Layer):
    """A part of bottom 0 that has the size of bottom 1 on `axis` and the axes behind it.

    Shapes: (N, C, H, W) and a reference (..., h, w) -> (N, C, h, w) for axis 2. The part begins at
    `offset`: one for all cropped axes, or one for each; 0 if there is none. No gradient flows to
    the reference, whose content is not read.

    Source: BVLC Caffe.
    """

    axis: int = 2
    offset: tuple[int, ...] = ()

    # The second bottom is there for its shape: what leads to it is constant to the objective.
    stops_gradients: ClassVar[bool] = True
    bottoms: ClassVar[Arity] = exactly(2)

    def coordinates(self) -> Coordinates | None:
        offset = self.offset or (0,)
        return Coordinates(self.axis - 1, (1,) * len(offset), tuple(-first for first in offset))

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature((BlobType(tuple(last - first for first, last in self._window(*bottoms))),))

    def _window(self, x: BlobType, reference: BlobType) -> tuple[tuple[int, int], ...]:
        """Return for each axis of x where the part begins and ends."""
        axis = x.axis(self.axis)
        cropped = x.axes - axis
        if len(self.offset) > 1 and len(self.offset) != cropped:
            raise Refusal(
                "the number of offsets does not match the number of cropped axes",
                expected=f"{cropped} offset, for axes {axis} to {x.axes - 1}; or one for all",
                got=f"{len(self.offset)} offset",
                setting="offset",
            )
        if reference.axes < x.axes:
            raise Refusal(
                "the reference has fewer axes than the blob to crop",
                expected=f"bottom 1 of {x.axes} axes, like bottom 0 of shape {x}",
                got=f"bottom 1 of shape {reference}",
            )
        offsets = self.offset or (0,)
        if len(offsets) == 1:
            offsets *= cropped
        window = [(0, size) for size in x.shape[:axis]]
        for i, offset in enumerate(offsets, start=axis):
            if not 0 <= offset <= x.shape[i] - reference.shape[i]:
                raise Refusal(
                    f"the part does not lie inside bottom 0 on axis {i}",
                    expected=f"0 <= offset and offset + {reference.shape[i]} <= {x.shape[i]}",
                    got=f"offset {offset}, bottoms of shapes {x} and {reference}",
                    setting="offset" if self.offset else "",
                )
            window.append((offset, offset + reference.shape[i]))
        return tuple(window)

    def _index(self, bottoms: tuple[Array, ...]) -> tuple[slice, ...]:
        types = (BlobType(bottom.shape) for bottom in bottoms)
        return tuple(slice(first, last) for first, last in self._window(*types))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0][self._index(call.bottoms)],)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        dx = call.xp.zeros(call.bottoms[0].shape, dy.dtype)
        dx[self._index(call.bottoms)] = dy
        return Gradients((dx, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, reference = bottoms
        window = self._window(BlobType(x.shape), BlobType(reference.shape))
        cut = tuple(i for i, part in enumerate(window) if part != (0, x.shape[i]))
        if not cut:
            return (x,)
        first = g.constant([window[i][0] for i in cut], "int64")
        last = g.constant([window[i][1] for i in cut], "int64")
        return (g.op("Slice", x, first, last, g.constant(cut, "int64")),)


@layer("BatchReindex")
@dataclass(frozen=True)
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1 names, in that order.

    Shapes: (N, ...) and indices (M,) -> (M, ...). Indices are truncated to int; one may occur any
    number of times. No gradient flows to the indices.

    Source: BVLC Caffe.
    """

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, index = bottoms
        if x.axes == 0 or index.axes != 1:
            raise Refusal(
                "the bottoms are not items and their indices",
                expected="bottoms of shapes (N, ...) and (M,)",
                got=f"bottoms of shapes {x} and {index}",
            )
        return Signature(
            (BlobType((*index.shape, *x.shape[1:])),),
            kept=(KeptType("index", index.shape, "int64"),),
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, given = call.bottoms
        index = call.kept[0]
        # Compared as numbers, so that a NaN does not become some index.
        outside = ~((given > -1) & (given < x.shape[0]))
        if outside.any():
            raise Refusal(
                "an index names no item of bottom 0",
                expected=f"indices from 0 to {x.shape[0] - 1}",
                got=f"{float(given[outside][0]):g}",
            )
        index[...] = given.astype("int64")
        return (x[index],)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        dx = call.xp.zeros(call.bottoms[0].shape, dy.dtype)
        call.xp.add.at(dx, call.kept[0], dy)
        return Gradients((dx, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Gather", bottoms[0], g.cast(bottoms[1], "int64"), axis=0),)
