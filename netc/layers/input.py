"""Blobs that the caller sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    BlobType,
    Layer,
    Refusal,
    Signature,
    at_least,
    exactly,
)


@dataclass(frozen=True, slots=True)
class BlobShape:
    """A `shape { dim: ... }` message."""

    dim: tuple[int, ...] = ()


@layer("Input", "input_param")
@dataclass(frozen=True)
class Input(Layer):
    """Tops whose content the caller sets: one `shape` for all of them, or one each.

    They start at zero.

    Shapes: tops as `shape` says: one for all of them, or one each.
    Source: BVLC Caffe.
    """

    shape: tuple[BlobShape, ...] = ()
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = exactly(0)
    tops: ClassVar[Arity] = at_least(1)
    fed: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        n_tops = len(self.top)
        if len(self.shape) not in (1, n_tops):
            raise Refusal(
                "the number of shapes does not match the number of tops",
                expected=f"1 shape for all tops, or {n_tops}",
                got=f"{len(self.shape)} shapes for {n_tops} tops",
                hint="add input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } }",
                setting="shape",
            )
        for shape in self.shape:
            if any(dim < 0 for dim in shape.dim):
                raise Refusal(
                    "an input has a negative size",
                    expected="every dim >= 0",
                    got=BlobType(shape.dim),
                    setting="shape",
                )
        shapes = self.shape * n_tops if len(self.shape) == 1 else self.shape
        return Signature(tuple(BlobType(shape.dim) for shape in shapes))
