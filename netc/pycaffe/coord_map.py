"""How the coordinates of two blobs of a `NetSpec` correspond, and Crop layers made from that.

A map is (axis, scale, shift): position x along an axis behind `axis` becomes scale * x + shift.
`axis` is None, scale 1 and shift 0 where nothing moves. The rules are those of the layer types, and
settings with _h and _w count too, which pycaffe refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from netc.errors import NetcError, fail
from netc.layers import registry
from netc.layers.types import Coordinates, Layer, Refusal
from netc.pycaffe.errors import RuntimeMistake, mistake
from netc.pycaffe.net_spec import Function, Top, layers, message_of
from netc.schema.convert import bind_fields

Numbers: TypeAlias = NDArray[np.float64]
Map: TypeAlias = tuple[int | None, Numbers, Numbers]


class UndefinedMapException(NetcError):
    """The coordinates of a layer's bottoms and tops do not correspond."""


class AxisMismatchException(NetcError):
    """Two maps are along different axes."""


class CropMistake(NetcError, AssertionError):
    """A blob that cannot be cropped to another."""


def coord_map(fn: Function) -> Map:
    """Return the map of a layer from its bottoms to its tops.

    Raises UndefinedMapException for a type that has none, such as InnerProduct.
    """
    try:
        found = _layer(fn).coordinates()
    except Refusal as refusal:
        raise fail(
            refusal.what,
            layer=f"({fn.type_name})",
            expected=refusal.expected,
            got=refusal.got,
            hint=refusal.hint,
        ) from None
    if found is None:
        raise _undefined(fn)
    return _map(found)


def _undefined(fn: Function) -> UndefinedMapException:
    return mistake(
        UndefinedMapException,
        "the pixels of this layer's bottoms and tops do not correspond",
        layer=f"({fn.type_name})",
    )


def _layer(fn: Function) -> Layer:
    kind = registry.layer_types().get(fn.type_name)
    if kind is None:
        raise _undefined(fn)
    message = message_of(fn)
    layer, _ = bind_fields(kind.cls, [getattr(message, p) for p in kind.params], outer=message)
    return layer


def _map(found: Coordinates) -> Map:
    return found.axis, np.array(found.scale, float), np.array(found.shift, float)


def compose(base_map: Map, next_map: Map) -> Map:
    """Return the map that goes through `next_map` first and then through `base_map`.

    Raises AxisMismatchException where they are along different axes.
    """
    (axis1, scale1, shift1), (axis2, scale2, shift2) = base_map, next_map
    if axis1 is not None and axis2 is not None and axis1 != axis2:
        raise mistake(
            AxisMismatchException,
            "the maps are along different axes",
            got=f"axis {axis1} and axis {axis2}",
        )
    axis = axis2 if axis1 is None else axis1
    return axis, scale1 * scale2, scale1 * shift2 + shift1


def inverse(coord_map: Map) -> Map:
    """Return the map in the other direction."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Return the map from one blob to another, through a blob that both are computed from.

    Raises RuntimeError, in netc's words, where layers of other types lie between.
    """
    start: Map = (None, np.ones(1), np.zeros(1))
    below = _maps_below(top_from, start)
    found = _maps_below(top_to, start, stop=below.__contains__)
    for top, way in found.items():
        if top in below:
            return compose(way, inverse(below[top]))
    raise mistake(
        RuntimeMistake,
        "Could not compute map between tops; are they connected by spatial layers?",
        expected="two blobs with a common source, and only layers that keep or slide over pixels",
        got=f"tops of {top_from.fn.type_name} and {top_to.fn.type_name} layers",
    )


def _maps_below(
    top: Top, start: Map, stop: Callable[[Top], bool] = lambda top: False
) -> dict[Top, Map]:
    """Return what a blob is computed from, itself included, with the map from each to the blob."""
    maps = {top: start}
    waiting = [top]
    while waiting:
        current = waiting.pop()
        if stop(current):
            break
        fn = current.fn
        if not fn.inputs:
            continue
        try:
            way = compose(maps[current], coord_map(fn))
            flows = _layer(fn).gradient_bottoms(len(fn.inputs))
        except UndefinedMapException:
            continue
        for index, bottom in enumerate(fn.inputs):
            if bottom not in maps and (index == 0 or flows[index]):
                maps[bottom] = way
                waiting.append(bottom)
    return maps


def crop(top_from: Top, top_to: Top) -> Any:
    """Return a Crop layer that cuts one blob to the size of another, pixel upon pixel.

    Raises AssertionError, in netc's words, where the blobs differ in scale, or the first does not
    reach as far, or by a fraction of a pixel.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    for what, wrong, value in (
        ("scale mismatch on crop", scale != 1, f"scale {_shown(scale)}"),
        ("cannot crop negative offset", shift > 0, f"offset {_shown(-shift)}"),
        ("cannot crop noninteger offset", shift != np.round(shift), f"offset {_shown(-shift)}"),
    ):
        if wrong.any():
            raise mistake(
                CropMistake,
                what,
                expected="scale 1, and whole offsets that are not negative",
                got=value,
                hint="padding the first convolution more makes the offset larger"
                if "negative" in what
                else "",
            )
    offset = [int(n) for n in -np.round(shift)]
    return layers.Crop(top_from, top_to, axis=(1 if axis is None else axis) + 1, offset=offset)


def _shown(values: Numbers) -> str:
    return ", ".join(f"{value:g}" for value in values)
