"""What a layer type is made of: the values its rules take and give.

A layer type is a frozen dataclass derived from `Layer`. Its fields are the schema fields it reads;
its methods are its rules; it has no other state. This module knows no array library: arrays arrive
as arguments together with the namespace `xp` (NumPy or CuPy) that works on them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from netc.layers.fillers import Filler

# Arrays are NumPy's or CuPy's. No static type covers both: the two libraries share names, not
# classes, and a Protocol with every operator used in the maths would say less than these two names
# do.
Array = Any
ArrayNamespace = Any


class Phase(enum.Enum):
    """Which of the two nets in one text is meant. The values are those of the schema's `Phase`."""

    TRAIN = 0
    TEST = 1


class Refusal(Exception):
    """A layer's answer to bottoms or settings that it cannot work with.

    `setting` names the schema field to point at ("param.1": its second value), "" for the layer as
    a whole. The caller adds the place.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object = "",
        got: object = "",
        hint: str = "",
        setting: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.expected = str(expected)
        self.got = str(got)
        self.hint = hint
        self.setting = setting


@dataclass(frozen=True, slots=True)
class BlobType:
    """The shape of a blob. Every blob holds float32 (labels and indices too, as in Caffe)."""

    shape: tuple[int, ...]

    @property
    def axes(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def count(self) -> int:
        """The number of elements; 1 for shape ()."""
        return math.prod(self.shape)

    def span(self, first: int, last: int | None = None) -> int:
        """Return the number of elements in the axes first..last-1 (to the end by default)."""
        return math.prod(self.shape[first:last])

    def axis(self, index: int, setting: str = "axis") -> int:
        """Return `index` counted from the front; refuse one outside -axes..axes-1."""
        if not -self.axes <= index < self.axes:
            raise Refusal(
                f"{setting} {index} is out of range",
                expected=f"{-self.axes} <= {setting} < {self.axes}",
                got=f"{setting} {index}, bottom of shape {self}",
                setting=setting,
            )
        return index % self.axes if self.axes else 0

    def __str__(self) -> str:
        return "(" + ", ".join(map(str, self.shape)) + ("," if self.axes == 1 else "") + ")"


@dataclass(frozen=True, slots=True)
class Neurons:
    """How the weights of a param belong to neurons.

    In the shape `view` (of the same elements in the same order) those that come into one neuron
    differ along `axes` only.
    """

    view: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def rows(cls, shape: tuple[int, ...]) -> Neurons:
        """Return what holds where each index of the first axis is a neuron."""
        return cls((shape[0], math.prod(shape[1:])), (1,))

    @classmethod
    def columns(cls, shape: tuple[int, int]) -> Neurons:
        """Return what holds where each index of the second of two axes is a neuron."""
        return cls(shape, (0,))


@dataclass(frozen=True, slots=True)
class ParamType:
    """A learnable blob: shape, how it is first filled, and its rates where the text gives none.

    `neurons` tells which weights come into which neuron, None for biases and other params that are
    no such weights. `frozen` marks statistics that no solver may touch (BatchNorm's): a rate other
    than 0 is refused, unless `fixed` says that rates in the text have no effect (as in some forks).
    """

    shape: tuple[int, ...]
    filler: Filler
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    frozen: bool = False
    fixed: bool = False
    neurons: Neurons | None = None


@dataclass(frozen=True, slots=True)
class KeptType:
    """A blob that a layer keeps for itself, from forward to backward or from pass to pass.

    Persistent blobs start at zero and belong to a snapshot; the others may share memory with
    anything that does not live between this layer's forward and its backward.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What `infer` finds out: shapes of the tops, learnable params in Caffe's order, kept blobs.

    `tops` may list more than the text names: optional tops that nobody wants are left out by the
    graph, and `out`, `tops` and `top_diffs` of the calls hold only the named ones.
    """

    tops: tuple[BlobType, ...]
    params: tuple[ParamType, ...] = ()
    kept: tuple[KeptType, ...] = ()


class Reads(enum.Flag):
    """What a backward pass looks at besides the top diffs, the params and the kept blobs."""

    NOTHING = 0
    BOTTOM = enum.auto()
    TOP = enum.auto()


@dataclass(frozen=True, slots=True)
class Arity:
    """How many bottoms or tops a type takes; `most` None means any number."""

    least: int
    most: int | None

    def allows(self, n: int) -> bool:
        """Say whether n blobs are acceptable."""
        return self.least <= n and (self.most is None or n <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


def exactly(n: int) -> Arity:
    """Return the arity "n, no more, no fewer"."""
    return Arity(n, n)


def between(least: int, most: int) -> Arity:
    """Return the arity "least to most"."""
    return Arity(least, most)


def at_least(n: int) -> Arity:
    """Return the arity "n or more"."""
    return Arity(n, None)


def _done() -> float:
    return 1.0


@dataclass(slots=True)
class ForwardCall:
    """What a forward pass is given.

    `kept` and the params of statistics are written in place. `out` holds the buffers that the tops
    go to: a rule may compute into them (`xp.matmul(a, b, out=call.out[0])`) or return fresh arrays,
    which are then copied. It is empty for a `data_dependent` type whose caller takes the tops in
    whatever shape they come. `random()` gives the numpy Generator of (seed, layer name, pass):
    equal on every repeat of that pass. `progress()` is the share of the training that is done; 1
    where a net runs without a solver.
    """

    xp: ArrayNamespace
    bottoms: tuple[Array, ...]
    params: tuple[Array, ...]
    kept: tuple[Array, ...]
    out: tuple[Array, ...]
    random: Callable[[], Any]
    progress: Callable[[], float] = _done


@dataclass(slots=True)
class BackwardCall:
    """What a backward pass is given.

    In bottoms and tops only what `backward_reads` names may be looked at. `wants_bottoms[i]` and
    `wants_params[i]` say which gradients somebody will read: the others need not be computed.
    """

    xp: ArrayNamespace
    bottoms: tuple[Array, ...]
    tops: tuple[Array, ...]
    params: tuple[Array, ...]
    kept: tuple[Array, ...]
    top_diffs: tuple[Array, ...]
    wants_bottoms: tuple[bool, ...]
    wants_params: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a backward pass returns: one array or None per bottom and per param.

    The caller stores or adds them, so that a rule never needs to know who else reads a blob.
    """

    bottoms: tuple[Array | None, ...] = ()
    params: tuple[Array | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where the pixels of a bottom are in the top: `scale * position + shift`.

    `scale` and `shift` have one value for each axis behind `axis`, or one for all of them. Without
    `axis` every pixel stays where it is, along any axis.
    """

    axis: int | None = None
    scale: tuple[float, ...] = (1,)
    shift: tuple[float, ...] = (0,)


class Value(Protocol):
    """A tensor of the ONNX graph under construction: a name with a shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as inferred by netc (the batch size of the text, also in a dynamic export)."""
        ...


class OnnxBuilder(Protocol):
    """What a lowering rule is handed. The layer files need no onnx package."""

    opset: int
    xp: ArrayNamespace

    def op(self, op_type: str, *inputs: Value | None, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its Value, or a tuple of them when `outputs` > 1.

        None inputs are left out.
        """
        ...

    def constant(self, value: Any, dtype: str = "float32") -> Value:
        """Add an initializer holding `value` (array, list or number)."""
        ...

    def array(self, value: Value) -> Array | None:
        """Return the content of a constant or of a param, None for a computed tensor."""
        ...

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape, keeping a dynamic batch axis dynamic.

        Refuses what mixes that axis with others.
        """
        ...

    def cast(self, x: Value, dtype: str) -> Value:
        """Add a Cast node to a NumPy dtype name."""
        ...

    def refuse(self, what: str, *, hint: str = "") -> Refusal:
        """Return the error to raise for what ONNX cannot say."""
        ...


class CodeHost(Protocol):
    """What runs the code of Python layers. Whoever gives one to a net allows that code to run.

    `known` says to leave the code of well-known layers aside, although it is there.
    """

    @property
    def known(self) -> bool:
        """See above."""
        ...

    def has(self, module: str) -> bool:
        """Say whether the module can be found; runs nothing."""
        ...

    def load(self, module: str, name: str) -> Any:
        """Import the module and return the class of that name; raise `Refusal` if it cannot."""
        ...

    def run(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a method; raise `Refusal` that says where and why it failed."""
        ...

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return an array of zeros."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of the small net that a type expands to.

    Blob names starting with "." are private to it. The graph calls it "layer/name"; a part without
    a name stands for the whole layer and has its name, in weights files too.
    """

    name: str
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """The base of every layer type: the facts and rules with their defaults.

    A subclass states its facts as class variables and overrides `infer`, `forward`, and what else
    applies.
    """

    #: The type's name in the text, set by the `layer` decorator.
    type: ClassVar[str] = ""
    #: How many bottoms and tops it takes.
    bottoms: ClassVar[Arity] = exactly(1)
    tops: ClassVar[Arity] = exactly(1)
    #: One top for each bottom (Convolution with three bottoms has three tops).
    tops_match_bottoms: ClassVar[bool] = False
    #: The first top enters the objective with weight 1, and may be left out of the text.
    loss: ClassVar[bool] = False
    #: It reads a file or a database: `infer` is given the types of one item's blobs as if they were
    #: bottoms.
    reads_data: ClassVar[bool] = False
    #: It writes its bottoms to a file, and has neither tops nor a forward rule.
    writes_data: ClassVar[bool] = False
    #: Only the forward pass tells the shapes of its tops. `infer` gives the largest; with an empty
    #: `call.out` forward returns the tops as they are, with buffers of the largest shapes in it
    #: something that fills them, or it refuses.
    data_dependent: ClassVar[bool] = False
    #: It can fill tops of the largest shapes: rows that its readers know to be empty follow.
    pads: ClassVar[bool] = False
    #: The caller sets its tops (Input).
    fed: ClassVar[bool] = False
    #: Elementwise: the top may lie where bottom 0 lies, the bottom diff where the top diff lies.
    in_place: ClassVar[bool] = False
    #: Each top is bottom 0 with the same elements in the same order.
    view: ClassVar[bool] = False
    #: A gradient that would flow to a bottom which `gradient_bottoms` denies ends here, as if the
    #: bottom were constant; for other types a net that leads one there is refused.
    stops_gradients: ClassVar[bool] = False
    #: Messages of other types that nets of a fork leave standing where this type took their place.
    #: Neither the fork nor netc reads them.
    leftovers: ClassVar[tuple[str, ...]] = ()
    #: A top with the name of its bottom is refused, as Caffe does.
    refuses_in_place: ClassVar[bool] = False
    #: What the params are called in other formats ("conv1.weight"), in order; params beyond are
    #: numbered.
    param_names: ClassVar[tuple[str, ...]] = ("weight", "bias")

    # -- rules
    # ---------------------------------------------------------------------------------------------

    def resolve(self, host: CodeHost | None) -> Layer:
        """Return the layer that takes this one's place once its settings are read: itself, mostly.

        `host` is None where no code may run. Raises `Refusal`.
        """
        return self

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return shapes, params and kept blobs, or raise `Refusal`.

        The only authority on shapes.
        """
        raise TypeError(f"layer type {self.type} lacks a shape rule")

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return the layers that stand for this one, or None for a type with its own rules.

        In the parts' names "$b0", "$t0" stand for the layer's bottoms and tops.
        """
        return None

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        """Return the tops."""
        raise TypeError(f"layer type {self.type} lacks a forward rule")

    def backward_reads(self) -> Reads:
        """Say what `backward` looks at.

        From which the plan computes lifetimes and in-place safety.
        """
        return Reads.BOTTOM | Reads.TOP

    def dead_at_zero(self) -> bool:
        """Say whether an element of the top that is 0 passes no gradient on.

        A unit that is 0 for every item then learns nothing, and may never do so again.
        """
        return False

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        """Say which bottoms a gradient can flow to."""
        return (True,) * n_bottoms

    def coordinates(self) -> Coordinates | None:
        """Say where the pixels of a bottom are in the top; None where that has no meaning.

        It holds for bottom 0, and for the others that a gradient can flow to.
        """
        return Coordinates() if self.in_place else None

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        """Say which bottoms hold labels, indices or flags, for whoever makes up an input.

        By default those that no gradient flows to, unless it is the first one.
        """
        flows = self.gradient_bottoms(n_bottoms)
        return tuple(i > 0 and not flows[i] for i in range(n_bottoms))

    def region_bottoms(self, bottoms: tuple[BlobType, ...]) -> dict[int, tuple[float, float]]:
        """Say which bottoms hold regions, and the size in pixels of the image that these are of.

        For whoever makes up an input. A region is (image, x1, y1, x2, y2), a size height and width.
        """
        return {}

    def backward(self, call: BackwardCall) -> Gradients:
        """Return the gradients for the bottoms and params that are wanted."""
        raise TypeError(f"layer type {self.type} lacks a backward rule")

    def dense(self) -> bool:
        """Say whether param 0 is (outputs, inputs of each): what sums all of a window or a blob.

        The inputs may be spread over several axes, in C order. So the weights of a fully connected
        layer are those of a convolution with a kernel as large as its bottom.
        """
        return False

    def settled(self) -> Layer:
        """Return what stands in this layer's place while it is frozen: itself, mostly.

        A type that gathers statistics as it runs gives one that uses those it has, with the same
        params.
        """
        return self

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Return the tops as ONNX values, TEST phase."""
        raise g.refuse("this type has no ONNX form")

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return the multiply-adds of one forward pass.

        Types that only move or compare data cost 0.
        """
        return 0

    def is_source(self) -> bool:
        """Say whether its tops are data from outside, which are inputs of a net for inference."""
        return self.fed or self.reads_data

    def deployed(self) -> Layer | None:
        """Return what stands in this layer's place in a net for inference; None drops it.

        A loss gives its activation, applied to bottom 0; a dropped loss leaves bottom 0 as an
        output.
        """
        return None if self.loss else self
