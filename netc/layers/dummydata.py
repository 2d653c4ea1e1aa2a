"""Made-up data: blobs of a given shape from fillers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import (
    Arity,
    Array,
    BlobType,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Refusal,
    Signature,
    Value,
    at_least,
    exactly,
)

OLD_DIMS = ("num", "channels", "height", "width")


@layer("DummyData", "dummy_data_param")
@dataclass(frozen=True)
class DummyData(Layer):
    """Tops that fillers make: the same in each pass, or drawn anew where the filler is random.

    Of shapes and of fillers there is one for all tops, or one each; without a filler the tops are
    0. Older texts give `num`, `channels`, `height` and `width`, each once or once for each top, in
    place of `shape`. `transform_param` is read and has no effect, as in Caffe.

    Shapes: tops as `shape` says: one for all of them, or one each.
    Source: BVLC Caffe.
    """

    data_filler: tuple[Filler, ...] = ()
    shape: tuple[BlobShape, ...] = ()
    num: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    height: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    top: tuple[str, ...] = ()
    transform_param: TransformParam = field(default_factory=TransformParam)

    bottoms: ClassVar[Arity] = exactly(0)
    tops: ClassVar[Arity] = at_least(1)

    @property
    def _n_tops(self) -> int:
        return max(len(self.top), 1)

    @property
    def _fillers(self) -> tuple[Filler, ...]:
        """One filler for each top."""
        fillers = self.data_filler or (Filler(),)
        return fillers * self._n_tops if len(fillers) == 1 else fillers

    def infer(self, *bottoms: BlobType) -> Signature:
        if len(self.data_filler) not in (0, 1, self._n_tops):
            raise Refusal(
                "the number of fillers does not match the number of tops",
                expected=f"no data_filler, 1 for all tops, or {self._n_tops}",
                got=f"{len(self.data_filler)} data_filler for {self._n_tops} tops",
                setting="data_filler",
            )
        shapes = self._old_shapes() if self._has_old_dims else self._shapes()
        for filler, top in zip(self._fillers, shapes, strict=True):
            filler.check(top.shape)
        return Signature(tuple(shapes))

    @property
    def _has_old_dims(self) -> bool:
        return any(getattr(self, name) for name in OLD_DIMS)

    def _shapes(self) -> list[BlobType]:
        if len(self.shape) not in (1, self._n_tops):
            raise Refusal(
                "the number of shapes does not match the number of tops",
                expected=f"1 shape for all tops, or {self._n_tops}",
                got=f"{len(self.shape)} shapes for {self._n_tops} tops",
                hint="add dummy_data_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } }",
                setting="shape",
            )
        for shape in self.shape:
            if any(dim < 0 for dim in shape.dim):
                raise Refusal(
                    "a shape has a negative size",
                    expected="every dim >= 0",
                    got=BlobType(shape.dim),
                    setting="shape",
                )
        shapes = self.shape * self._n_tops if len(self.shape) == 1 else self.shape
        return [BlobType(shape.dim) for shape in shapes]

    def _old_shapes(self) -> list[BlobType]:
        if self.shape:
            raise Refusal(
                "shape and the older num, channels, height, width exclude each other",
                expected="shape { dim: ... } only",
                got="shape, and " + ", ".join(name for name in OLD_DIMS if getattr(self, name)),
                setting="shape",
            )
        columns = []
        for name in OLD_DIMS:
            given: tuple[int, ...] = getattr(self, name)
            if len(given) not in (1, self._n_tops):
                raise Refusal(
                    f"{name} must be given once, or once for each top",
                    expected=f"1 or {self._n_tops} of each of {', '.join(OLD_DIMS)}",
                    got=f"{len(given)} {name} for {self._n_tops} tops",
                    hint="shape { dim: ... } takes any number of axes",
                    setting=name,
                )
            columns.append(given * self._n_tops if len(given) == 1 else given)
        return [BlobType(shape) for shape in zip(*columns, strict=True)]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        rng = call.random() if any(filler.random for filler in self._fillers) else None
        return tuple(
            filler.draw(call.xp, rng, top.shape)
            for filler, top in zip(self._fillers, call.out, strict=True)
        )

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Give tops that do not change as constants; ONNX has no random numbers that repeat."""
        tops = []
        for filler, top in zip(self._fillers, self.infer().tops, strict=True):
            if filler.random:
                raise g.refuse(
                    f"the top is drawn anew in each pass by a {filler.type} filler",
                    hint="replace the layer by an Input layer of the same shape",
                )
            if filler.type == "constant":
                value = g.constant(filler.value)
                tops.append(g.op("Expand", value, g.constant(list(top.shape), "int64")))
            else:
                tops.append(g.op("Identity", g.constant(filler.draw(g.xp, None, top.shape))))
        return tuple(tops)
