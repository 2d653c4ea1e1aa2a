"""The parts of oneDNN's C API that the kernels use, as Python values.

`Desc` is a memory descriptor: dims, and how they lie in memory. A primitive is asked for with
`primitive`, which gives None where the library has no implementation, and bound to its arrays with
`Primitive.bind`: the call that comes back does nothing but run it.

Source: the reference of oneDNN's C API, version 3 (names, argument orders and constants).
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np

from netc.backends.base import Layout
from netc.backends.cpu.library import load

MAX_AXES = 12
Dims = c_int64 * MAX_AXES

# -- constants -------------------------------------------------------------------------------------

BF16, F32, S32, U8 = 2, 3, 4, 6
# NumPy has no bfloat16: what holds it are the upper halves of float32, whole numbers of 16 bits.
_TYPES: dict[int, np.dtype[Any]] = {
    BF16: np.dtype("uint16"),
    F32: np.dtype("float32"),
    S32: np.dtype("int32"),
    U8: np.dtype("uint8"),
}
# Behind the name of a layout whose elements are no float32.
_BF16_MARK = " bf16"

FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD, BACKWARD_DATA = 64, 96, 128, 160

CONVOLUTION_DIRECT, DECONVOLUTION_DIRECT = 0x1, 0xA
RELU, TANH, ELU, SQUARE, ABS, SQRT = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25
LINEAR, SOFT_RELU = 0x26, 0x27
HARD_SIGMOID, LOGISTIC, EXP, GELU_TANH, SWISH = 0x28, 0x29, 0x2A, 0x2B, 0x2C
CLIP, GELU_ERF, MISH, HARD_SWISH = 0x2F, 0x31, 0x33, 0x34
RELU_BY_TOP, TANH_BY_TOP, ELU_BY_TOP, LOGISTIC_BY_TOP = 0x100, 0x101, 0x102, 0x104
EXP_BY_TOP, CLIP_BY_TOP = 0x105, 0x106
POOLING_MAX, POOLING_WITH_PADDING, POOLING_WITHOUT_PADDING = 0x1FF, 0x2FF, 0x3FF
LRN_ACROSS = 0xAFF
ADD, MULTIPLY, MAXIMUM, DIVIDE, SUBTRACT = 0x1FFF0, 0x1FFF1, 0x1FFF2, 0x1FFF4, 0x1FFF5
AT_LEAST, GREATER = 0x1FFF6, 0x1FFF7
SOFTMAX = 0x30000
GLOBAL_STATS, USE_SCALE, USE_SHIFT, FUSED_RELU = 1, 2, 4, 8

SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE = 1, 17, 33, 41, 49, 50, 51, 52, 64
SRC_1 = 2
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
MULTIPLE_SRC, SCALE_OF = 1024, 4096
_POST_OP = 32768  # times the number of the post-op, from 1

_IMPLEMENTATION = 8
SRC_MD, DIFF_SRC_MD, WEIGHTS_MD, DIFF_WEIGHTS_MD, DST_MD, DIFF_DST_MD, WORKSPACE_MD = range(
    129, 136
)
_NDIMS, _DIMS, _TYPE = 256, 257, 258
_PADDED_DIMS, _KIND, _N_BLOCKS, _BLOCKS, _BLOCK_AXES = 260, 262, 263, 264, 265
_STRIDES = 14
# The bits of an instruction set include those of the ones below it.
_AVX512, _AVX512_BF16 = 0x27, 0xE7
_BLOCKED_KIND, _ANY_TAG = 2, 1


class OneDnnError(Exception):
    """A status other than success from the library: a bug in the kernel that asked."""


def _check(status: int) -> None:
    if status:
        raise OneDnnError(f"oneDNN status {status}")


@functools.cache
def _function(name: str, *types: Any) -> Any:
    function = load().handle[f"dnnl_{name}"]
    function.restype, function.argtypes = c_int, types
    return function


@functools.cache
def engine() -> c_void_p:
    """Return the engine: the CPU."""
    found = c_void_p()
    _check(_function("engine_create", c_void_p, c_int, c_size_t)(byref(found), 1, 0))
    return found


@functools.cache
def stream() -> c_void_p:
    """Return the stream; on this engine a primitive is done when its call returns."""
    found = c_void_p()
    _check(_function("stream_create", c_void_p, c_void_p, c_int)(byref(found), engine(), 1))
    return found


def dims_of(values: Sequence[int]) -> Any:
    """Return an array of the C type for dims."""
    return Dims(*values)


# -- memory descriptors ----------------------------------------------------------------------------

# The descriptors behind layouts, so that plans can hold names instead of pointers.
_KNOWN: dict[tuple[tuple[int, ...], str], Desc] = {}


class _Owned:
    """Something of the library's that goes with the Python object that stands for it.

    Nets whose data change their shape are planned again and again.
    """

    def _own(self, kind: str, handle: c_void_p) -> None:
        # Found now: when the interpreter ends, nothing can be looked up any more.
        destroy = _function(f"{kind}_destroy", c_void_p)
        self._freed = [*getattr(self, "_freed", ()), (destroy, handle)]

    def __del__(self) -> None:
        for destroy, handle in reversed(getattr(self, "_freed", ())):
            destroy(handle)


class Desc(_Owned):
    """How an array of some dims and type lies in memory. Never changes.

    Those behind the layouts that plans name are kept for the whole process.
    """

    def __init__(self, handle: c_void_p) -> None:
        self._own("memory_desc", handle)
        self.handle = handle
        n = self._number(_NDIMS)
        self.dims = self._vector(_DIMS, n)
        #: The library's number of the type: F32, BF16 or another.
        self.type = self._number(_TYPE)
        self.dtype = _TYPES[self.type]
        size = _function("memory_desc_get_size", c_void_p)
        size.restype = c_size_t
        self.nbytes: int = size(handle)
        self.name = self._describe()

    @classmethod
    def plain(cls, dims: Sequence[int], dtype: int = F32) -> Desc:
        """Return the descriptor of an array in C order."""
        return _plain(tuple(dims), dtype)

    @classmethod
    def strided(cls, dims: Sequence[int], strides: Sequence[int], dtype: int = F32) -> Desc:
        """Return the descriptor of an array with these strides, in elements."""
        return _strided(tuple(dims), tuple(strides), dtype)

    @classmethod
    def of(cls, layout: Layout | None, dims: Sequence[int]) -> Desc:
        """Return the descriptor behind a layout; for None the plain one of these dims."""
        return cls.plain(dims) if layout is None else _KNOWN[layout.dims, layout.name]

    @classmethod
    def blocked(cls, dims: Sequence[int], name: str) -> Desc | None:
        """Return the descriptor of dims in a layout named as `name` says: "aBcd16b", "abcd bf16".

        None for the names of unusual layouts, and where the number of axes is another.
        """
        if not name:
            return cls.plain(dims)
        return _named(tuple(dims), name)

    @classmethod
    def channels_last(cls, dims: Sequence[int], dtype: int = F32) -> Desc:
        """Return the descriptor of 3 to 5 dims where the channels of a place are neighbours."""
        return cls._usual(dims, "a" + "cde"[: len(dims) - 2] + "b", dtype)

    @classmethod
    def in_blocks(cls, dims: Sequence[int], channels: int, dtype: int = F32) -> Desc:
        """Return the descriptor of 3 to 5 dims in blocks of 4, 8 or 16 channels."""
        return cls._usual(dims, "aB" + "cde"[: len(dims) - 2] + f"{channels}b", dtype)

    @classmethod
    def _usual(cls, dims: Sequence[int], name: str, dtype: int) -> Desc:
        found = _named(tuple(dims), name + _BF16_MARK if dtype == BF16 else name)
        assert found is not None, "a name of a usual layout"
        return found

    def part(self, dims: Sequence[int], axis: int, start: int) -> Desc:
        """Return the descriptor of a part of this array, for the memory of the whole.

        OneDnnError where the part does not begin at a block.
        """
        found = c_void_p()
        offsets = [0] * len(self.dims)
        offsets[axis] = start
        create = _function("memory_desc_create_submemory", c_void_p, c_void_p, Dims, Dims)
        _check(create(byref(found), self.handle, dims_of(dims), dims_of(offsets)))
        return Desc(found)

    def free(self, dims: Sequence[int]) -> c_void_p:
        """Return a descriptor of dims and this type that leaves the layout to the primitive."""
        return any_layout(tuple(dims), self.type)

    @property
    def layout(self) -> Layout | None:
        """The layout to put into plans, None for C order."""
        if self.name == "":
            return None
        _KNOWN.setdefault((self.dims, self.name), self)
        return Layout(self.dims, self.name, self.nbytes, self.dtype.name)

    def same(self, other: Desc) -> bool:
        """Say whether two describe the same places for the same dims."""
        return self.dims == other.dims and self.name == other.name

    def _number(self, what: int) -> int:
        value = c_int()
        _check(_query()(self.handle, what, byref(value)))
        return value.value

    def _vector(self, what: int, n: int) -> tuple[int, ...]:
        values = POINTER(c_int64)()
        _check(_query()(self.handle, what, byref(values)))
        return tuple(values[i] for i in range(n))

    def _describe(self) -> str:
        """Return a name that tells layouts of the same dims apart; "" for C order.

        The axes from the slowest to the fastest, in capitals where they are split, then the sizes
        of the blocks: "aBcd16b"; bfloat16 is said behind that.
        """
        if self._number(_KIND) != _BLOCKED_KIND:
            raise OneDnnError("a layout that cannot be described")
        n = len(self.dims)
        strides = self._vector(_STRIDES, n)
        padded = self._vector(_PADDED_DIMS, n)
        n_blocks = self._number(_N_BLOCKS)
        sizes, axes = self._vector(_BLOCKS, n_blocks), self._vector(_BLOCK_AXES, n_blocks)
        mark = _BF16_MARK if self._number(_TYPE) == BF16 else ""
        ordered = not n_blocks and padded == self.dims
        if ordered and not mark and self._is_dense(range(n), strides, padded):
            return ""
        order = sorted(range(n), key=lambda axis: (-strides[axis], axis))
        names = "".join(chr(ord("A" if axis in axes else "a") + axis) for axis in order)
        blocks = "".join(
            f"{size}{chr(ord('a') + axis)}" for size, axis in zip(sizes, axes, strict=True)
        )
        outer = [
            size // math.prod(b for b, at in zip(sizes, axes, strict=True) if at == axis)
            for axis, size in enumerate(padded)
        ]
        # Anything unusual, gaps or odd padding, is said in full.
        dense = self._is_dense(order, strides, outer, math.prod(sizes))
        odd = [
            size
            for size, dim, at in zip(padded, self.dims, range(n), strict=True)
            if size != _round_up(dim, [b for b, x in zip(sizes, axes, strict=True) if x == at])
        ]
        extra = f":{strides}{padded}" if not dense or odd else ""
        return names + blocks + extra + mark

    @staticmethod
    def _is_dense(
        order: Sequence[int], strides: Sequence[int], sizes: Sequence[int], step: int = 1
    ) -> bool:
        """Say whether the axes, slowest first, follow each other without gaps."""
        for axis in reversed(order):
            if sizes[axis] != 1 and strides[axis] != step:
                return False
            step *= sizes[axis]
        return True


def _round_up(size: int, blocks: Sequence[int]) -> int:
    block = math.prod(blocks)
    return -(-size // block) * block


@functools.cache
def _query() -> Any:
    return _function("memory_desc_query", c_void_p, c_int, c_void_p)


# The numbers of the format tags that blobs are found to lie in, in all versions 3.x.
_TAGS = {
    "aBc4b": 60,
    "aBc8b": 69,
    "aBc16b": 56,
    "aBcd4b": 84,
    "aBcd8b": 102,
    "aBcd16b": 78,
    "aBcde4b": 128,
    "aBcde8b": 142,
    "aBcde16b": 121,
}


@functools.cache
def _named(dims: tuple[int, ...], name: str) -> Desc | None:
    dtype = BF16 if name.endswith(_BF16_MARK) else F32
    name = name.removesuffix(_BF16_MARK)
    order = [ord(c.lower()) - ord("a") for c in name[: len(dims)]]
    if ":" in name or sorted(order) != list(range(len(dims))):
        return None
    if len(name) == len(dims):
        strides, step = [0] * len(dims), 1
        for axis in reversed(order):
            strides[axis], step = step, step * dims[axis]
        return Desc.strided(dims, strides, dtype)
    if name not in _TAGS:
        return None
    return Desc(_tagged(dims, dtype, _TAGS[name]))


def widened(layout: Layout | None) -> Layout | None:
    """Return the layout in which float32 lies as bfloat16 does in this one; others as they are."""
    if layout is None or not layout.name.endswith(_BF16_MARK):
        return layout
    desc = _named(layout.dims, layout.name.removesuffix(_BF16_MARK))
    return None if desc is None else desc.layout


@functools.cache
def _plain(dims: tuple[int, ...], dtype: int) -> Desc:
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    return _strided(dims, tuple(strides), dtype)


@functools.cache
def _strided(dims: tuple[int, ...], strides: tuple[int, ...], dtype: int) -> Desc:
    found = c_void_p()
    create = _function("memory_desc_create_with_strides", c_void_p, c_int, Dims, c_int, Dims)
    _check(create(byref(found), len(dims), dims_of(dims), dtype, dims_of(strides)))
    return Desc(found)


@functools.cache
def any_layout(dims: tuple[int, ...], dtype: int = F32) -> c_void_p:
    """Return a descriptor that leaves the layout to the primitive."""
    return _tagged(dims, dtype, _ANY_TAG)


def _tagged(dims: tuple[int, ...], dtype: int, tag: int) -> c_void_p:
    found = c_void_p()
    create = _function("memory_desc_create_with_tag", c_void_p, c_int, Dims, c_int, c_int)
    _check(create(byref(found), len(dims), dims_of(dims), dtype, tag))
    return found


# -- primitives ------------------------------------------------------------------------------------


class _Argument(ctypes.Structure):
    _fields_ = (("number", c_int), ("memory", c_void_p))


class Primitive(_Owned):
    """A primitive that the library has chosen an implementation for, not yet bound to arrays."""

    def __init__(self, description: c_void_p) -> None:
        self._own("primitive_desc", description)
        self.description = description
        self._primitive: c_void_p | None = None

    def desc(self, which: int) -> Desc:
        """Return the descriptor of one of the arrays."""
        query = _function("primitive_desc_query_md", c_void_p, c_int, c_int)
        query.restype = c_void_p
        return Desc(_clone(c_void_p(query(self.description, which, 0))))

    def workspace(self) -> Desc | None:
        """Return the descriptor of what forward leaves for backward, None where it is nothing."""
        query = _function("primitive_desc_query_md", c_void_p, c_int, c_int)
        query.restype = c_void_p
        found = c_void_p(query(self.description, WORKSPACE_MD, 0))
        size = _function("memory_desc_get_size", c_void_p)
        size.restype = c_size_t
        return Desc(_clone(found)) if found.value and size(found) else None

    @property
    def implementation(self) -> str:
        """The library's name of the chosen implementation ("jit:avx512_core")."""
        text = ctypes.c_char_p()
        query = _function("primitive_desc_query", c_void_p, c_int, c_int, c_void_p)
        _check(query(self.description, _IMPLEMENTATION, 0, byref(text)))
        return (text.value or b"").decode()

    @property
    def is_slow(self) -> bool:
        """Whether it is the library's plain loop, which is there for completeness."""
        return self.implementation.startswith(("ref", "simple:ref"))

    def bind(self, arrays: Mapping[int, tuple[Desc, Any] | Operand]) -> Callable[[], None]:
        """Return the call that runs it on these arrays, which stay alive as long as the call."""
        if self._primitive is None:
            found = c_void_p()
            _check(
                _function("primitive_create", c_void_p, c_void_p)(byref(found), self.description)
            )
            self._own("primitive", found)
            self._primitive = found
        memories = [
            given.memory if isinstance(given, Operand) else _Memory(*given)
            for given in arrays.values()
        ]
        arguments = (_Argument * len(memories))(
            *(
                _Argument(number, memory.handle)
                for number, memory in zip(arrays, memories, strict=True)
            )
        )
        return _Call(self._primitive, arguments, (self, *memories))


class _Call:
    """A primitive with its arrays: calling it runs it."""

    __slots__ = ("_arguments", "_keep", "_n", "_primitive", "_run", "_stream")

    def __init__(self, primitive: c_void_p, arguments: Any, keep: Sequence[object]) -> None:
        self._primitive, self._arguments, self._keep = primitive, arguments, keep
        self._n, self._stream = len(arguments), stream()
        self._run = _function("primitive_execute", c_void_p, c_void_p, c_int, c_void_p)

    def __call__(self) -> None:
        status = self._run(self._primitive, self._stream, self._n, self._arguments)
        if status:
            raise OneDnnError(f"oneDNN status {status}")


class _Memory(_Owned):
    """An array as the library sees it. It must not outlive the array."""

    def __init__(self, desc: Desc, array: Any) -> None:
        assert array.flags.c_contiguous, "a kernel was given an array with gaps"
        assert array.nbytes >= desc.nbytes, "a kernel was given an array that is too small"
        self._array = array
        self.handle = c_void_p()
        create = _function("memory_create", c_void_p, c_void_p, c_void_p, c_void_p)
        _check(create(byref(self.handle), desc.handle, engine(), c_void_p(array.ctypes.data)))
        self._own("memory", self.handle)


class Operand:
    """An argument that stands for one array after the other, all of which lie as `desc` says."""

    def __init__(self, desc: Desc) -> None:
        self._desc = desc
        self.memory = _Memory(desc, np.zeros(desc.nbytes, np.uint8))
        self._set = _function("memory_set_data_handle", c_void_p, c_void_p)

    def point(self, array: Any) -> None:
        """Let the calls that it is bound to work on an array, which the caller keeps alive."""
        assert array.flags.c_contiguous and array.nbytes == self._desc.nbytes
        _check(self._set(self.memory.handle, c_void_p(array.ctypes.data)))


def _clone(handle: c_void_p) -> c_void_p:
    found = c_void_p()
    _check(_function("memory_desc_clone", c_void_p, c_void_p)(byref(found), handle))
    return found


class PostOps(_Owned):
    """What a primitive does to each result before it writes it, as an attribute."""

    def __init__(self) -> None:
        self._ops, self.attribute = c_void_p(), c_void_p()
        _check(_function("post_ops_create", c_void_p)(byref(self._ops)))
        self._own("post_ops", self._ops)
        _check(_function("primitive_attr_create", c_void_p)(byref(self.attribute)))
        self._own("primitive_attr", self.attribute)

    def _set(self) -> PostOps:
        put = _function("primitive_attr_set_post_ops", c_void_p, c_void_p)
        _check(put(self.attribute, self._ops))
        return self

    def binary(self, algorithm: int, operand: Desc | c_void_p) -> int:
        """Combine with an array, repeated along axes of size 1; return the number to bind it by."""
        append = _function("post_ops_append_binary", c_void_p, c_int, c_void_p)
        handle = operand.handle if isinstance(operand, Desc) else operand
        _check(append(self._ops, algorithm, handle))
        return self._added() | SRC_1

    def prelu(self, per_channel: bool) -> int:
        """Multiply what is negative with a slope; return the number to bind the slopes by."""
        append = _function("post_ops_append_prelu", c_void_p, c_int)
        _check(append(self._ops, 2 if per_channel else 0))
        return self._added() | WEIGHTS

    def _added(self) -> int:
        """Return the number of the post-op that was added last."""
        self._set()
        length = _function("post_ops_len", c_void_p)
        return _POST_OP * int(length(self._ops))

    def add_to_target(self, factor: float = 1.0) -> PostOps:
        """Add the result to what the target holds, times a factor."""
        append = _function("post_ops_append_sum", c_void_p, c_float, ctypes.c_int32, c_int)
        _check(append(self._ops, factor, 0, 0))
        return self._set()

    def scaled(self, *arguments: int) -> PostOps:
        """Multiply arguments first, by one number each that is bound as `SCALE_OF | argument`."""
        put = _function("primitive_attr_set_scales_mask", c_void_p, c_int, c_int)
        for argument in arguments:
            _check(put(self.attribute, argument, 0))
        return self

    def eltwise(self, algorithm: int, alpha: float = 0.0, beta: float = 0.0) -> PostOps:
        """Apply an activation."""
        append = _function("post_ops_append_eltwise", c_void_p, c_int, c_float, c_float)
        _check(append(self._ops, algorithm, alpha, beta))
        return self._set()


def primitive(name: str, *arguments: Any, post: PostOps | None = None) -> Primitive | None:
    """Ask for a primitive: `dnnl_<name>_primitive_desc_create` without engine and attribute.

    Arguments are numbers, `Desc`s, what `any_layout` or `dims_of` give, None for an absent array,
    other `Primitive`s (hints). Returns None where the library has no implementation.
    """
    found = c_void_p()
    values = [_raw(value) for value in arguments]
    types: list[Any] = [c_void_p if value is None else type(value) for value in values]
    create = _function(f"{name}_primitive_desc_create", c_void_p, c_void_p, *types, c_void_p)
    status = create(byref(found), engine(), *values, post.attribute if post else None)
    return None if status else Primitive(found)


def _raw(value: Any) -> Any:
    match value:
        case Desc():
            return value.handle
        case Primitive():
            return value.description
        case bool() | int():
            return c_int(value)
        case float():
            return c_float(value)
    return value


def reorder(source: Desc, target: Desc, *, add: bool = False) -> Primitive:
    """Return the primitive that copies between layouts of the same dims."""
    found = c_void_p()
    create = _function(
        "reorder_primitive_desc_create", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
    )
    post = PostOps().add_to_target() if add else None
    attribute = post.attribute if post else None
    _check(create(byref(found), source.handle, engine(), target.handle, engine(), attribute))
    return Primitive(found)


def has_avx512() -> bool:
    """Say whether the processor has AVX-512 (with its parts BW, VL and DQ)."""
    return _has(_AVX512)


def channels_in_block() -> int:
    """Return how many channels are a block of float32 on this processor."""
    return 16 if has_avx512() else 8


def has_bf16() -> bool:
    """Say whether the processor multiplies bfloat16 (AVX512-BF16, or AMX, which includes it)."""
    return _has(_AVX512_BF16)


def _has(instructions: int) -> bool:
    ask = load().handle.dnnl_get_effective_cpu_isa
    ask.restype = c_int
    isa: int = ask()
    return isa & instructions == instructions


def threads() -> int:
    """Return on how many threads the calling thread's primitives run."""
    return int(load().openmp.omp_get_max_threads())


def set_threads(n: int) -> None:
    """Let the calling thread's primitives run on n threads."""
    load().openmp.omp_set_num_threads(c_int(n))
