"""What the kernels of all families have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from netc.backends.base import Binding, Declined, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.onednn import Desc, Primitive
from netc.layers.types import Array, KeptType
from netc.layers.window import Slide

ALIGNMENT = 64


class Impossible(Exception):
    """Raised while a kernel is made: the reason why there is none."""


class Kernel:
    """Base of the kernels. A family makes its primitives, then states its terms."""

    terms: Terms

    def forward(self, binding: Binding) -> Prepared:
        raise NotImplementedError

    def backward(self, binding: Binding) -> Prepared:
        raise NotImplementedError


def kernel_or_reason(make: Callable[[Job], Kernel], job: Job) -> Kernel | Declined:
    """Return the kernel that a family makes for a job, or why it makes none."""
    try:
        return make(job)
    except Impossible as reason:
        return Declined(str(reason))


def required(found: Primitive | None, what: str) -> Primitive:
    """Return a primitive that the library was asked for; Impossible where it has none."""
    if found is None:
        raise Impossible(f"oneDNN has no {what} for these shapes and settings")
    return found


def fast(found: Primitive | None, what: str) -> Primitive:
    """Likewise, and refuse the library's plain loops: NumPy is faster."""
    primitive = required(found, what)
    if primitive.is_slow:
        raise Impossible(f"oneDNN has only its reference {what} ({primitive.implementation}) here")
    return primitive


def quick(candidates: Iterable[Primitive | None], what: str) -> Primitive:
    """Return the first primitive with a good implementation, else the first that is no plain loop.

    The candidates are asked for one after the other, as far as needed. Layouts left free may end
    in a product of windows where there is a better kernel for channels that are last: groups of 18
    channels take half as long there, in bfloat16 a quarter.
    """
    second: Primitive | None = None
    for found in candidates:
        if found is None or found.is_slow:
            continue
        if found.implementation.startswith(("jit", "brg")):
            return found
        second = second or found
    return required(second, what)


def given_desc(job: Job, index: int, dims: Sequence[int]) -> Desc:
    """Return how bottom `index` lies, seen as an array of these dims; plain if it cannot be."""
    layout = job.layouts[index]
    return Desc.of(layout if layout and layout.dims == tuple(dims) else None, dims)


def positive(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape that the library takes: not empty, and with at least one axis."""
    if 0 in shape:
        raise Impossible("there are no elements")
    return tuple(shape) or (1,)


def padding_behind(slide: Slide) -> int:
    """Return the padding behind the image: as much as before it, unless the windows say otherwise.

    The library rounds the number of windows down, so that pixels may be left over.
    """
    reach = slide.dilation * (slide.kernel - 1) + 1
    room = slide.pixels + 2 * slide.pad - reach
    return slide.pad if room // slide.stride + 1 == slide.places else slide.end_pad


class Scratch:
    """Counts the bytes that a step needs besides its operands, and cuts them when it is bound."""

    def __init__(self) -> None:
        self.nbytes = 0

    def reserve(self, nbytes: int) -> Callable[[Binding], Array]:
        """Return what cuts the piece out of a binding's scratch."""
        start = self.nbytes
        self.nbytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return lambda binding: binding.scratch[start : start + nbytes]


class Workspace:
    """What a primitive for training leaves for its backward pass, if anything, as `kept` says.

    Nothing else may be kept by the kernel.
    """

    def __init__(self, name: str, forward: Primitive | None) -> None:
        self._desc = None if forward is None else forward.workspace()
        self.kept: tuple[KeptType, ...] = ()
        if self._desc is not None:
            self.kept = (KeptType(name, (self._desc.nbytes,), "uint8"),)

    def argument(self, binding: Binding) -> dict[int, tuple[Desc, Array]]:
        """Return it as an argument of both passes."""
        if self._desc is None:
            return {}
        return {onednn.WORKSPACE: (self._desc, binding.kept[0])}


class Mover:
    """An operand of a primitive that lies otherwise than the plan's array: a copy in scratch.

    `before` copies into it, `after` copies back; both are nothing where the two agree.
    """

    def __init__(self, ours: Desc, wanted: Desc, scratch: Scratch) -> None:
        self.ours, self.wanted = ours, wanted
        self.differs = not ours.same(wanted)
        self._cut = scratch.reserve(wanted.nbytes) if self.differs else None

    def array(self, binding: Binding, array: Array) -> Array:
        """Return the array for the primitive."""
        return array if self._cut is None else self._cut(binding)

    def before(self, binding: Binding, array: Array) -> list[Prepared]:
        if not self.differs:
            return []
        return [move(self.ours, array, self.wanted, self.array(binding, array))]

    def after(self, binding: Binding, array: Array) -> list[Prepared]:
        if not self.differs:
            return []
        return [move(self.wanted, self.array(binding, array), self.ours, array)]


def move(source: Desc, values: Array, target: Desc, out: Array, *, add: bool = False) -> Prepared:
    """Return the call that copies between layouts."""
    return onednn.reorder(source, target, add=add).bind(
        {onednn.SRC: (source, values), onednn.DST: (target, out)}
    )


def in_a_row(calls: Sequence[Prepared]) -> Prepared:
    """Return a call that makes these calls."""
    if len(calls) == 1:
        return calls[0]
    fixed = tuple(calls)

    def run() -> None:
        for call in fixed:
            call()

    return run


def same_layout(job: Job, index: int = 0) -> tuple[Desc, Layout | None]:
    """Return how a bottom lies, for kernels that take whatever comes."""
    shape = positive(job.bottoms[index])
    layout = job.layouts[index]
    desc = Desc.of(layout, layout.dims if layout else shape)
    return desc, layout


def common_layout(job: Job) -> tuple[Desc, Layout | None]:
    """Return the layout of the first bottom that has one, for kernels whose bottoms lie alike."""
    shape = positive(job.bottoms[0])
    layout = next((found for found in job.layouts if found is not None), None)
    if layout is not None and layout.dims != shape:
        layout = None
    return Desc.of(layout, shape), layout
