"""Messages become typed, frozen values, and nothing that was set is lost on the way."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netc.schema import bind_fields, netc_pb2, shortest


class Norm(enum.Enum):
    FAN_AVERAGE = -1
    # Values of its own: the names are what counts.
    AVERAGE = 10
    FAN_IN = 11
    FAN_OUT = 12


class Share(enum.Enum):
    STRICT = "s"
    PERMISSIVE = "p"


@dataclass(frozen=True, slots=True)
class Filler:
    type: str = "?"
    std: float = -1.0
    variance_norm: Norm = Norm.FAN_AVERAGE


@dataclass(frozen=True)
class Small:
    num_output: int
    top: tuple[str, ...]


def conv_layer() -> netc_pb2.LayerParameter:
    layer = netc_pb2.LayerParameter(name="c", type="Convolution", top=["t"])
    layer.convolution_param.num_output = 3
    layer.convolution_param.pad.extend([1, 2])
    layer.convolution_param.weight_filler.std = 0.1
    layer.convolution_param.weight_filler.variance_norm = netc_pb2.FillerParameter.AVERAGE
    return layer


@dataclass(frozen=True)
class Plain:
    num_output: int
    bias_term: bool
    pad: tuple[int, ...]
    kernel_size: tuple[int, ...]
    kernel_h: int | None
    pad_h: int | None
    axis: int
    weight_filler: Filler
    bias_filler: Filler | None


def test_values_defaults_and_what_is_not_set() -> None:
    value, unread = bind_fields(Plain, [conv_layer().convolution_param])
    assert value == Plain(
        num_output=3,
        bias_term=True,  # the schema's default
        pad=(1, 2),
        kernel_size=(),
        kernel_h=None,
        pad_h=None,  # not set, though the schema has a default
        axis=1,
        weight_filler=Filler("constant", 0.1, Norm.AVERAGE),
        bias_filler=None,
    )
    assert unread == []


def test_an_unset_message_has_its_defaults() -> None:
    value, _ = bind_fields(Plain, [netc_pb2.ConvolutionParameter()])
    assert value.weight_filler == Filler("constant", 1.0, Norm.FAN_IN)


def test_fields_set_but_not_read() -> None:
    layer = conv_layer()
    layer.convolution_param.weight_filler.sparse = 2
    layer.convolution_param.stride_h = 0
    layer.pooling_param.SetInParent()
    value, unread = bind_fields(Small, [layer.convolution_param], outer=layer)
    assert value == Small(3, ("t",))
    assert sorted(unread) == [
        ("convolution_param", "pad"),
        ("convolution_param", "stride_h"),
        ("convolution_param", "weight_filler"),
        ("name",),
        ("pooling_param",),
        ("type",),
    ]
    _, unread = bind_fields(Plain, [layer.convolution_param])
    assert sorted(unread) == [("stride_h",), ("weight_filler", "sparse")]


@dataclass(frozen=True)
class Loss:
    ignore_label: int | None
    axis: int


def test_the_message_that_sets_a_field_counts() -> None:
    layer = netc_pb2.LayerParameter()
    layer.accuracy_param.ignore_label = 5
    layer.softmax_param.axis = 2
    value, unread = bind_fields(Loss, [layer.accuracy_param, layer.softmax_param], outer=layer)
    assert value == Loss(5, 2) and unread == []
    layer.accuracy_param.axis = 3
    value, unread = bind_fields(Loss, [layer.accuracy_param, layer.softmax_param], outer=layer)
    assert value == Loss(5, 3) and unread == [("softmax_param", "axis")]


def test_repeated_messages_and_single_values_as_tuples() -> None:
    @dataclass(frozen=True)
    class Spec:
        name: str
        share_mode: Share | None

    Layer = dataclass(frozen=True)(
        type("Layer", (), {"__annotations__": {"param": tuple[Spec, ...], "name": tuple[str, ...]}})
    )
    message = netc_pb2.LayerParameter()
    message.param.add(name="w", share_mode=netc_pb2.ParamSpec.PERMISSIVE)
    message.param.add(lr_mult=2)
    value, unread = bind_fields(Layer, [message])
    assert value.param == (Spec("w", Share.PERMISSIVE), Spec("", None))
    assert value.name == ()
    assert unread == [("param", "lr_mult")]
    message.name = "x"
    assert bind_fields(Layer, [message])[0].name == ("x",)


def wrong(**annotations: object) -> type:
    return dataclass(frozen=True)(type("Wrong", (), {"__annotations__": annotations}))


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"nothing": int}, "no field of that name"),
        ({"num_output": str}, "cannot fill"),
        ({"num_output": float}, "cannot fill"),
        ({"bias_term": int}, "cannot fill"),
        ({"pad": int}, "annotate it tuple"),
        ({"weight_filler": int}, "cannot fill"),
        ({"engine": int}, "cannot fill"),
        ({"engine": Share}, "no member DEFAULT"),
        ({"num_output": int | str}, "one type"),
        ({"pad": tuple[int, int]}, "annotate repeated fields"),
        ({"pad": list[int]}, "no schema field has the type"),
    ],
)
def test_a_dataclass_that_does_not_fit_the_schema_is_a_bug(
    annotations: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        bind_fields(wrong(**annotations), [netc_pb2.ConvolutionParameter()])


# Floats


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@given(st.floats(width=32, allow_nan=False))
@example(3.4028234663852886e38)
@example(1.401298464324817e-45)
def test_shortest_is_the_same_float32(value: float) -> None:
    assert single(shortest(value)) == value
    assert str(shortest(value)).startswith("-") == str(value).startswith("-")


@pytest.mark.parametrize("text", ["0.1", "1e-05", "0.999", "0.00390625", "1e-08", "16777216.0"])
def test_shortest_is_what_was_written(text: str) -> None:
    assert repr(shortest(single(float(text)))) == text


@given(st.integers(-999_999, 999_999), st.integers(-30, 30))
def test_six_digits_come_back(digits: int, power: int) -> None:
    value = float(f"{digits}e{power}")
    assert shortest(single(value)) == value
