"""An engine of TensorRT as a layer: settings and shapes. It is not run."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.labels import check_items
from netc.layers.registry import layer
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
    exactly,
)


class TRTMode(enum.Enum):
    """In which precision the engine computes."""

    FP32 = 0
    FP16 = 1
    INT8 = 2


@layer("TRT", "trt_param")
@dataclass(frozen=True)
class TRT(Layer):
    """What TensorRT makes of the net `deploy` and the weights `model`, timed and scored.

    Shapes: images (N, ...), labels (N,) -> top (N, 1). What the engine puts out has the shape of
    the net's blob `deploy_outputs`, but the fork never writes it to the top: it counts which of the
    `top_k` largest is the label, and prints that at the end.

    The layer can be looked at, but not run: TensorRT has no reader of Caffe's nets any more. The
    layers of `deploy` in its place do the same with netc, and Accuracy counts.

    ONNX: none, the net to export is the one that `deploy` names.

    Source: NVCaffe.
    """

    deploy: str
    model: str
    trt_mode: TRTMode = TRTMode.INT8
    top_k: int = 1
    deploy_outputs: tuple[str, ...] = ()
    calibrator: str = ""

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        images, labels = bottoms
        n = check_items(images, labels)
        for name, wrong, expected in (
            ("deploy", not self.deploy, "the file of a net"),
            ("model", not self.model, "a file of weights"),
            ("deploy_outputs", len(self.deploy_outputs) != 1, "one blob of the net"),
            ("calibrator", self.trt_mode is TRTMode.INT8 and not self.calibrator, "a file"),
            ("top_k", self.top_k < 1, "top_k > 0"),
        ):
            if wrong:
                raise Refusal(
                    f"{name} does not fit",
                    expected=expected,
                    got=f"{name} {getattr(self, name)!r}",
                    hint="INT8, the default of trt_mode, needs a calibrator"
                    if name == "calibrator"
                    else "",
                    setting=name,
                )
        if labels.count != n:
            raise Refusal(
                "there is not one label for each image",
                expected=f"{n} labels",
                got=f"labels of shape {labels}",
                setting="bottom",
            )
        return Signature((BlobType((n, 1)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        raise Refusal(
            "netc has no TensorRT to run an engine with",
            expected="the layers of the net itself",
            got=f"deploy '{self.deploy}'",
            hint=f"run netc test with -model {self.deploy} -weights {self.model}, or export it",
        )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, False)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "an engine of TensorRT has no ONNX form",
            hint=f"export the net itself: -model {self.deploy} -weights {self.model}",
        )
