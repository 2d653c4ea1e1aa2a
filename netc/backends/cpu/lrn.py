"""LRN, by the library's own primitives or from sums.

The library has the gradient of LRN with AVX-512 only, for neighbours that are channels. Everything
else is made of what it has on every processor: squares, sums over neighbours, square roots and
products. A sum over the pixels around a pixel is a mean, which pooling finds. A sum over the
channels around a channel is a convolution with weights of 1 and 0, and a small one: where channels
lie in blocks of 8 or 16, a block is taken for all the channels and the blocks for an axis of the
image, so that its window has three places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from ctypes import c_int64

import numpy as np

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Scratch,
    Workspace,
    fast,
    in_a_row,
    move,
    positive,
    same_layout,
)
from netc.backends.cpu.onednn import (
    ADD,
    DIVIDE,
    MAXIMUM,
    MULTIPLY,
    SQRT,
    Desc,
    PostOps,
    Primitive,
    any_layout,
    dims_of,
    primitive,
)
from netc.layers.normalization import LRN, NormRegion
from netc.layers.types import Array, Reads

#: Elements that are worked on at a time: few enough for what they need besides to be small.
PIECE = 1 << 20

Arrays = Mapping[int, tuple[Desc, Array]]
# From where a piece is, where the sums go, and what the post-ops read, the call that finds them.
Summing = Callable[[Array, Array, Arrays], Prepared]


def lrn_kernel(job: Job) -> Kernel:
    """Return the kernel for an LRN layer."""
    try:
        return LrnKernel(job)
    except Impossible:
        return SummingLrnKernel(job)


class LrnKernel(Kernel):
    """The neighbours are channels, and the library has all that is needed."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, LRN)
        if layer.norm_region is not NormRegion.ACROSS_CHANNELS:
            raise Impossible("the neighbours lie within a channel")
        positive(job.bottoms[0])
        self._x, layout = same_layout(job)
        settings = (
            c_int64(layer.local_size),
            float(layer.alpha),
            float(layer.beta),
            float(layer.k),
        )
        self._forward = fast(
            primitive(
                "lrn_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                onednn.LRN_ACROSS,
                self._x,
                self._x.free(self._x.dims),
                *settings,
            ),
            "LRN",
        )
        self._y = self._forward.desc(onednn.DST_MD)
        if job.train:
            self._backward = fast(
                primitive(
                    "lrn_backward",
                    onednn.LRN_ACROSS,
                    self._x,
                    self._y,
                    self._x,
                    *settings,
                    self._forward,
                ),
                "gradient of LRN",
            )
        self._workspace = Workspace("workspace", self._forward if job.train else None)
        self.terms = Terms(
            bottoms=(layout,),
            tops=(self._y.layout,),
            params=(),
            kept=self._workspace.kept,
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DST: (self._y, binding.tops[0]),
            **self._workspace.argument(binding),
        }
        return self._forward.bind(arrays)

    def backward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DIFF_DST: (self._y, binding.top_diffs[0]),
            onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
            **self._workspace.argument(binding),
        }
        return self._backward.bind(arrays)


class SummingLrnKernel(Kernel):
    """y = x scale^-beta, with a sum over neighbours in scale and another in the gradient.

    dx = own - 2 alpha beta / n * x * (sum over the neighbours of own * x / scale), where own is
    dy scale^-beta. The backward pass finds the scale again, piece by piece, so that nothing has to
    be kept for it.
    """

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, LRN)
        roots = _roots(layer.beta)
        if layer.alpha < 0 or layer.offset <= 0:
            raise Impossible("alpha is negative, or k is not above 0")
        across = layer.norm_region is NormRegion.ACROSS_CHANNELS
        self._sum = sum_ = (_ChannelSum if across else _PixelSum)(job, layer.local_size)
        self._part = part = sum_.part
        same = (part, part, part)
        self._square = fast(
            primitive(
                *("eltwise_forward", onednn.FORWARD_INFERENCE, onednn.SQUARE),
                *(part, part, 0.0, 0.0),
            ),
            "square",
        )
        linear = PostOps().eltwise(onednn.LINEAR, layer.factor * sum_.unit, layer.offset)
        self._scale = sum_.followed_by(linear)
        # x scale^-beta = x scale^(1 - beta) / scale, and scale^(1 - beta) is a root of a root.
        post = PostOps()
        for _ in range(roots):
            post.eltwise(SQRT)
        self._divisor, self._factor = (post.binary(op, part) for op in (DIVIDE, MULTIPLY))
        # The greater of a value and itself: something for post-ops to stand behind.
        self._normalise = fast(primitive("binary", MAXIMUM, *same, post=post), "quotient")
        forward, backward = Scratch(), Scratch()
        self._forward_scale = forward.reserve(part.nbytes)
        if job.train:
            post = PostOps()
            self._divisor_of_product = post.binary(DIVIDE, part)
            self._multiply = fast(primitive("binary", MULTIPLY, *same, post=post), "product")
            shared = -2 * layer.factor * sum_.unit * layer.beta
            post = PostOps().eltwise(onednn.LINEAR, shared)
            self._neighbour, self._own = (post.binary(op, part) for op in (MULTIPLY, ADD))
            self._gradient = sum_.followed_by(post)
            self._temporary = [backward.reserve(part.nbytes) for _ in range(3)]
        self.terms = Terms(
            bottoms=(sum_.layout,),
            tops=(sum_.layout,),
            params=(),
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
            forward_scratch=forward.nbytes,
            backward_scratch=backward.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        scale = self._forward_scale(binding)
        calls: list[Prepared] = []
        for x, y in self._pieces(binding.bottoms[0], binding.tops[0]):
            calls += [*self._find_scale(x, y, scale), self._over_power(scale, x, y)]
        return in_a_row(calls)

    def backward(self, binding: Binding) -> Prepared:
        scale, own, product = (cut(binding) for cut in self._temporary)
        calls: list[Prepared] = []
        arrays = binding.bottoms[0], binding.top_diffs[0], binding.bottom_diffs[0]
        for x, dy, dx in self._pieces(*arrays):
            multiply = {
                onednn.SRC: (self._part, own),
                onednn.SRC_1: (self._part, x),
                onednn.DST: (self._part, product),
                self._divisor_of_product: (self._part, scale),
            }
            behind = {self._neighbour: (self._part, x), self._own: (self._part, own)}
            calls += [
                *self._find_scale(x, product, scale),
                self._over_power(scale, dy, own),
                self._multiply.bind(multiply),
                self._gradient(product, dx, behind),
            ]
        return in_a_row(calls)

    def _pieces(self, *arrays: Array) -> Iterable[tuple[Array, ...]]:
        """Return the parts of arrays that the primitives are for."""
        size = self._part.nbytes // 4
        flat = [array.reshape(-1) for array in arrays]
        return (
            tuple(array[start : start + size] for array in flat)
            for start in range(0, size * self._sum.pieces, size)
        )

    def _find_scale(self, x: Array, squares: Array, scale: Array) -> list[Prepared]:
        square = {onednn.SRC: (self._part, x), onednn.DST: (self._part, squares)}
        return [self._square.bind(square), self._scale(squares, scale, {})]

    def _over_power(self, scale: Array, x: Array, y: Array) -> Prepared:
        """Return y = x / scale^beta."""
        return self._normalise.bind(
            {
                onednn.SRC: (self._part, scale),
                onednn.SRC_1: (self._part, scale),
                onednn.DST: (self._part, y),
                self._divisor: (self._part, scale),
                self._factor: (self._part, x),
            }
        )


class _Sum:
    """The sum over the neighbours of each element, in `pieces` of some items each.

    `layout`: how the blob lies. `part`: how the library sees a piece. `unit`: what its results have
    to be multiplied with to be sums.
    """

    layout: Layout | None
    part: Desc
    pieces: int
    unit: float = 1.0

    def followed_by(self, post: PostOps) -> Summing:
        """Return what finds the sums and does something with them."""
        raise NotImplementedError

    def _summing(self, found: Primitive, weights: Arrays) -> Summing:
        def bind(x: Array, y: Array, more: Arrays) -> Prepared:
            operands = {onednn.SRC: (self.part, x), onednn.DST: (self.part, y)}
            return found.bind({**operands, **weights, **more})

        return bind


class _PixelSum(_Sum):
    """Over the pixels around a pixel: the mean times their number, padding included."""

    def __init__(self, job: Job, size: int) -> None:
        shape = n, *each = positive(job.bottoms[0])
        name = _name(job, shape)
        # In C order, the kernel for AVX-512 mistakes the operands of what stands behind it.
        whole = (
            Desc.blocked(shape, name) if name else Desc.in_blocks(shape, onednn.channels_in_block())
        )
        if whole is None:
            raise Impossible(f"the bottom lies as {name}")
        self.layout = whole.layout
        items = _items(n, whole.nbytes // 4 // n)
        part = Desc.blocked((items, *each), whole.name)
        assert part is not None, "a name of a usual layout"
        self.part, self.pieces, self.unit = part, n // items, float(size * size)
        self._window = [dims_of([places] * 2) for places in (1, size, 0, size // 2, size // 2)]

    def followed_by(self, post: PostOps) -> Summing:
        found = primitive(
            "pooling_forward",
            *(onednn.FORWARD_INFERENCE, onednn.POOLING_WITH_PADDING),
            *(self.part, self.part, *self._window),
            post=post,
        )
        return self._summing(fast(found, "sum over pixels"), {})


class _ChannelSum(_Sum):
    """Over the channels around a channel: a convolution over blocks of channels.

    An infinite value makes NaN of its whole block and the next ones, 0 times infinity.
    """

    def __init__(self, job: Job, size: int) -> None:
        shape = n, channels, height, width = positive(job.bottoms[0])
        name = _name(job, shape)
        block = _BLOCKED.get(name, onednn.channels_in_block())
        # Blocks of all pixels, one after the other, or the blocks of each pixel.
        last = name == "acdb" and channels % block == 0
        self.layout = (Desc.channels_last(shape) if last else Desc.in_blocks(shape, block)).layout
        blocks, pixels = -(-channels // block), height * width
        items = _items(n, blocks * block * pixels)
        dims = (items, block, pixels, blocks) if last else (items, block, blocks, pixels)
        self.part, self.pieces = Desc.in_blocks(dims, block), n // items
        around = -(-(size // 2) // block)
        self._weights = _band(block, size // 2, around).reshape(
            (block, block, *((1, -1) if last else (-1, 1)))
        )
        self._padding = dims_of([0, around] if last else [around, 0])

    def followed_by(self, post: PostOps) -> Summing:
        shape = self._weights.shape
        found = primitive(
            "convolution_forward",
            *(onednn.FORWARD_INFERENCE, onednn.CONVOLUTION_DIRECT),
            *(self.part, any_layout(shape), None, self.part),
            *(dims_of([1, 1]), dims_of([0, 0]), self._padding, self._padding),
            post=post,
        )
        convolution = fast(found, "sum over channels")
        wanted = convolution.desc(onednn.WEIGHTS_MD)
        weights = np.zeros(wanted.nbytes // 4, np.float32)
        move(Desc.plain(shape), self._weights, wanted, weights)()
        return self._summing(convolution, {onednn.WEIGHTS: (wanted, weights)})


_BLOCKED = {"aBcd16b": 16, "aBcd8b": 8}


def _name(job: Job, shape: tuple[int, ...]) -> str:
    """Return the name of how the bottom lies, if it is one for this shape."""
    given = job.layouts[0]
    if given is not None and given.dtype == "uint16":
        raise Impossible("the bottom is in bfloat16")
    return "" if given is None or given.dims != shape else given.name


def _band(block: int, reach: int, around: int) -> Array:
    """Return the weights by channel of the block, other channel, and place of its block."""
    channel = np.arange(block)
    place = np.arange(-around, around + 1)
    apart = channel[:, None, None] - channel[:, None] - block * place
    return (abs(apart) <= reach).astype(np.float32)


def _items(n: int, each: int) -> int:
    """Return how many of n items of so many elements make a piece; n is a multiple of it."""
    return max(
        items
        for items in range(1, n + 1)
        if n % items == 0 and (items * each <= PIECE or items < 2)
    )


def _roots(beta: float) -> int:
    """Return the n for which beta is 1 - 1 / 2^n."""
    n = round(-math.log2(1 - beta)) if 0 < beta < 1 else 0
    if not n or beta != 1 - 0.5**n:
        raise Impossible(f"beta is {beta:g}, not 0.75 or another 1 - 1 / 2^n")
    return n
