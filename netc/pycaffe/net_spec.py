"""Nets written in Python: `layers as L`, `params as P`, `NetSpec`, `to_proto`.

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, weight_filler=dict(type="xavier"))
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    text = str(n.to_proto())

A keyword is a field of the type's own parameter message (`convolution_param`), or of the layer
(`param`, `loss_weight`, `transform_param`, ...). `ntop` says how many tops a layer has; one without
tops is added by giving it a name (`n.silence = L.Silence(n.x, ntop=0)`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from netc.errors import fail, nearest
from netc.layers import registry
from netc.pycaffe.errors import TypeMistake, mistake
from netc.schema import netc_pb2
from netc.schema.descriptors import descriptor_of, field_of


class Top:
    """A blob of a net being written: top number `n` of a layer."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> netc_pb2.NetParameter:
        """Return the net that computes this blob."""
        return to_proto(self)


class Function:
    """A layer of a net being written: a type, the blobs that it reads, its settings."""

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = inputs
        self.params = dict(params)
        self.ntop = self.params.pop("ntop", 1)
        self.in_place = self.params.pop("in_place", False)
        for i, value in enumerate(inputs):
            if not isinstance(value, Top):
                raise mistake(
                    TypeMistake,
                    f"{type_name} input {i} is not a Top (type is {type(value)})",
                    expected="a blob: what another layer gave",
                    got=repr(value),
                    hint="a layer with several tops gives a tuple of them"
                    if isinstance(value, tuple)
                    else "settings are keyword arguments",
                )
        if self.in_place and (len(inputs) != 1 or self.ntop != 1):
            raise fail(
                "a layer in place has one input and one top",
                layer=f"({type_name})",
                got=f"{len(inputs)} inputs, {self.ntop} tops",
            )
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> netc_pb2.NetParameter:
        """Return the net that ends in this layer."""
        return to_proto(self)


class _Writing:
    """A message being filled, layers before those that read them."""

    def __init__(self, names: Mapping[Top | Function, str]) -> None:
        self.net = netc_pb2.NetParameter()
        self._names: dict[Top | Function, str] = dict(names)
        self._auto: Counter[str] = Counter()
        self._written: dict[Function, netc_pb2.LayerParameter] = {}

    def add(self, last: Function) -> None:
        """Write a layer and all that it needs; not by recursion, for nets of any depth."""
        waiting = [last]
        while waiting:
            fn = waiting[-1]
            needed = [top.fn for top in fn.inputs if top.fn not in self._written]
            if fn in self._written or not needed:
                waiting.pop()
                if fn not in self._written:
                    self._write(fn)
            else:
                waiting += reversed(needed)

    def _write(self, fn: Function) -> None:
        layer = self.net.layer.add()
        self._written[fn] = layer
        layer.type = fn.type_name
        layer.bottom.extend(self._written[top.fn].top[top.n] for top in fn.inputs)
        layer.top.extend(layer.bottom if fn.in_place else map(self._top_name, fn.tops))
        layer.name = self._layer_name(fn)
        _assign_all(layer, fn)

    def _layer_name(self, fn: Function) -> str:
        named = (fn, *fn.tops[:1])
        return next((self._names[x] for x in named if x in self._names), None) or self._new(fn)

    def _top_name(self, top: Top) -> str:
        if top not in self._names:
            self._names[top] = self._new(top.fn)
        return self._names[top]

    def _new(self, fn: Function) -> str:
        self._auto[fn.type_name] += 1
        return f"{fn.type_name}{self._auto[fn.type_name]}"


def to_proto(*tops: Top | Function) -> netc_pb2.NetParameter:
    """Return the net that computes these blobs, with names made from the types."""
    return _written(tops, {})


def _written(
    tops: tuple[Top | Function, ...], names: Mapping[Top | Function, str]
) -> netc_pb2.NetParameter:
    writing = _Writing(names)
    for top in tops:
        writing.add(top.fn if isinstance(top, Top) else top)
    return writing.net


class NetSpec:
    """Named blobs of a net being written: `n.conv1 = L.Convolution(n.data, ...)`.

    The name of a blob is that of its layer too. `n["name with - in it"]` works as well.
    """

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, Top | Function):
            raise fail(
                f"'{name}' is given something that is no blob",
                expected="what a layer gave: L.Pooling(...)",
                got=repr(value),
                hint=f"give each of them a name: n.a, n.b = L.{value[0].fn.type_name}(..., ntop=2)"
                if isinstance(value, tuple) and value and isinstance(value[0], Top)
                else "",
            )
        self.tops[name] = value

    def __getattr__(self, name: str) -> Top | Function:
        try:
            return self.tops[name]
        except KeyError:
            raise AttributeError(
                f"there is no blob '{name}' yet. {nearest(name, self.tops)}".strip()
            ) from None

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Top | Function:
        if name not in self.tops:
            raise KeyError(f"there is no blob '{name}' yet. {nearest(name, self.tops)}".strip())
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tops

    def keys(self) -> list[str]:
        """Return the names so far: `n.keys()[-1]` is the last one. As in SSD's Caffe."""
        return list(self.tops)

    def vals(self) -> list[Top | Function]:
        """Return what the names stand for, likewise."""
        return list(self.tops.values())

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Change or add settings of the layer of a blob, likewise."""
        top = self[name]
        (top.fn if isinstance(top, Top) else top).params.update(params)

    def to_proto(self) -> netc_pb2.NetParameter:
        """Return the net; `str()` of it is its prototxt.

        Raises NetcError for settings that do not exist.
        """
        return _written(tuple(self.tops.values()), {top: name for name, top in self.tops.items()})


class Layers:
    """The layer types as functions: `L.Convolution(bottom, num_output=8)`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*inputs: Top, **params: Any) -> Any:
            fn = Function(name, inputs, params)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer


class _Constants:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, constant: str) -> Any:
        return getattr(getattr(netc_pb2, f"{self._name}Parameter"), constant)


class Parameters:
    """The constants of the types' messages: `P.Pooling.MAX`, `P.Loss.VALID`."""

    def __getattr__(self, name: str) -> _Constants:
        if not hasattr(netc_pb2, f"{name}Parameter"):
            raise AttributeError(f"there is no message {name}Parameter")
        return _Constants(name)


layers = Layers()
params = Parameters()


# -- settings to messages --------------------------------------------------------------------------


def message_of(fn: Function) -> netc_pb2.LayerParameter:
    """Return the message of one layer, without names."""
    layer = netc_pb2.LayerParameter(type=fn.type_name)
    _assign_all(layer, fn)
    return layer


def _assign_all(layer: netc_pb2.LayerParameter, fn: Function) -> None:
    """Set the fields of a layer: those of its own message first, others on the layer itself."""
    label = f"({fn.type_name})"
    own = _own_messages(fn.type_name)
    fields = descriptor_of(layer).fields_by_name
    inside = {p: descriptor_of(getattr(layer, p)).fields_by_name for p in own}
    for name, value in fn.params.items():
        holders = [p for p in own if name in inside[p]]
        if name.endswith("param") and name in fields:
            assign_proto(layer, name, value, label)
        elif holders:
            assign_proto(getattr(layer, holders[0]), name, value, label)
        elif name in fields:
            assign_proto(layer, name, value, label)
        else:
            known = [*fields, *(field for known in inside.values() for field in known)]
            raise fail(
                f"there is no setting '{name}'",
                layer=f"'{layer.name}' ({fn.type_name})",
                expected=f"a field of {', '.join((*own, 'the layer'))}",
                got=name,
                hint=nearest(name, known) if own else nearest(fn.type_name, registry.layer_types()),
            )


def _own_messages(type_name: str) -> tuple[str, ...]:
    """Return the parameter messages of a type: what netc reads, or what Caffe names after it."""
    types = registry.layer_types()
    if type_name in types:
        return types[type_name].params
    fields = descriptor_of(netc_pb2.LayerParameter).fields
    return tuple(
        field.name
        for field in fields
        if field.message_type is not None and field.message_type.name == f"{type_name}Parameter"
    )


def param_name_dict() -> dict[str, str]:
    """Return what is between a message's "Parameter" and a field's "_param": Pooling, pooling."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in descriptor_of(netc_pb2.LayerParameter).fields
        if field.name.endswith("_param") and field.message_type is not None
    }


def assign_proto(proto: Message, name: str, val: Any, label: str = "") -> None:
    """Set a field of a message from a number, a text, a dict (a message), or a list of those.

    Raises NetcError, about the layer of this `label`, for a field that does not exist and for a
    value that it cannot have.
    """
    known = descriptor_of(proto)
    if name not in known.fields_by_name:
        raise fail(
            f"there is no setting '{name}'",
            layer=label,
            expected=f"a field of {known.name}",
            got=name,
            hint=nearest(name, known.fields_by_name),
        )
    field = field_of(proto, name)
    values = val if isinstance(val, list | tuple) else [val]
    try:
        if field.message_type is not None:
            for item in values:
                held = getattr(proto, name)
                _fill(held.add() if field.is_repeated else held, item, label)
        elif field.is_repeated:
            getattr(proto, name).extend(values)
        else:
            setattr(proto, name, val)
    except (TypeError, ValueError):
        raise fail(
            f"a setting cannot have this value: {name}",
            layer=label,
            got=repr(val),
        ) from None


def _fill(message: Message, value: Any, label: str) -> None:
    if isinstance(value, Message):
        message.MergeFrom(value)
        return
    if not isinstance(value, Mapping):
        raise TypeError
    message.SetInParent()
    for name, inner in value.items():
        assign_proto(message, name, inner, label)
