"""Messages to graph: resolve phase and rules, bind layers, wire blobs, share params.

Infer every shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import Message

from netc.errors import NetcError, Problems, Span, fail, nearest
from netc.graph.types import REGULARIZATION_TYPES, Blob, Graph, Node, Param, ParamUse
from netc.layers import registry
from netc.layers.types import BlobType, CodeHost, Layer, Phase, Refusal, Signature
from netc.schema import CUSTOM, Source, bind_fields, chooses_implementation, netc_pb2
from netc.schema.descriptors import field_of

# What Caffe calls the top that a loss layer gets when the text gives none.
AUTOMATIC_TOP = "(automatic)"

# Fields of LayerParameter that the graph itself reads, for every type.
_COMMON_FIELDS = frozenset(
    [
        "name",
        "type",
        "bottom",
        "top",
        "phase",
        "loss_weight",
        "param",
        "blobs",
        "propagate_down",
        "include",
        "exclude",
    ]
)


# Fields of NetParameter that are read here, or (debug_info) say nothing about the net itself.
_NET_FIELDS = frozenset(["name", "state", "layer", "force_backward", "debug_info"])


@dataclass(frozen=True, slots=True)
class NetState:
    """What the `include` and `exclude` rules of layers are compared with."""

    phase: Phase
    level: int = 0
    stages: tuple[str, ...] = ()

    def meets(self, rule: netc_pb2.NetStateRule) -> bool:
        """Say whether every condition of the rule holds."""
        return (
            (not rule.HasField("phase") or rule.phase == self.phase.value)
            and (not rule.HasField("min_level") or self.level >= rule.min_level)
            and (not rule.HasField("max_level") or self.level <= rule.max_level)
            and all(stage in self.stages for stage in rule.stage)
            and not any(stage in self.stages for stage in rule.not_stage)
        )

    def includes(self, layer: netc_pb2.LayerParameter) -> bool:
        """Say whether a layer belongs to the net in this state."""
        if layer.include:
            return any(map(self.meets, layer.include))
        return not any(map(self.meets, layer.exclude))


class Probed(Protocol):
    """What a probe finds out about a data source: the types of one item's blobs.

    And what it had to assume.
    """

    @property
    def types(self) -> tuple[BlobType, ...] | None:
        """One type per blob of an item, batch axis left out; None where nothing tells them.

        The layers behind such a source are then bound, but have no shapes and no place in the
        graph.
        """
        ...

    @property
    def assumed(self) -> str:
        """A remark for the user when the data is absent, "" otherwise."""
        ...


Probe = Callable[[Layer, Span | None], Probed]


class _UnshapedError(Exception):
    """Nothing tells the shape of a layer's data."""


def net_state(
    net: netc_pb2.NetParameter, phase: Phase, level: int = 0, stages: Sequence[str] = ()
) -> NetState:
    """Return the state of a net opened on its own, as for Caffe's `Net(file, phase, ...)`.

    The argument `level` replaces the one in the text, `stages` are added to the text's.
    """
    return NetState(phase, level, (*net.state.stage, *stages))


def build(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    *,
    probe: Probe | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    layers: dict[int, Layer] | None = None,
    host: CodeHost | None = None,
) -> Graph:
    """Return the shaped graph of a net in one state.

    `probe` answers for layers that read data; `shapes` overrides the shape of input and data tops
    by blob name; `host` allows the code of Python layers to run. Raises one NetcError with all
    independent mistakes of the text.

    To build the same net again for what its data turned out to be: `sizes` are the shapes of
    inputs, of data, and of tops that depend on the data, by key; data whose shapes they all tell is
    not probed. `layers` remembers the bound layers by their place in the text, from one call to the
    next.
    """
    builder = _Builder(
        source,
        state,
        probe,
        dict(shapes or {}),
        host,
        sizes or {},
        {} if layers is None else layers,
    )
    builder.check_net()
    for index, message in enumerate(source.message.layer):
        builder.add(index, message)
    return builder.finish()


@dataclass
class _OpenParam:
    """A param while later layers may still come to share it."""

    param: Param
    user: str
    lr_given: bool
    decay_given: bool


@dataclass
class _Builder:
    source: Source[netc_pb2.NetParameter]
    state: NetState
    probe: Probe | None
    shapes: dict[str, Sequence[int]]
    host: CodeHost | None
    sizes: Mapping[str, tuple[int, ...]]
    layers: dict[int, Layer]
    problems: Problems = field(default_factory=Problems)
    nodes: list[Node] = field(default_factory=list)
    blobs: dict[str, Blob] = field(default_factory=dict)
    params: list[_OpenParam] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # Settings of forks that choose an implementation, each once.
    no_effect: dict[str, None] = field(default_factory=dict)
    # Blob name in the text -> key of its current version; None while its producer is in error, so
    # that one mistake is not told again by every layer behind it.
    current: dict[str, str | None] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)

    # -- the net's own fields ---------------------------------------------------------------------

    def check_net(self) -> None:
        """Refuse the fields of the net itself that are set but not read."""
        for descriptor, _ in self.source.message.ListFields():
            name = descriptor.name
            if name in _NET_FIELDS:
                continue
            if chooses_implementation(self.source.message, [name]):
                self.no_effect.setdefault(name)
                continue
            self.problems.add(
                fail(
                    f"field '{name}' of the net is set, but not read",
                    span=self.source.span(name),
                    expected=f"fields of a net: {', '.join(sorted(_NET_FIELDS))}",
                    got=name,
                )
            )

    # -- one layer of the text ---------------------------------------------------------------------

    def add(self, index: int, message: netc_pb2.LayerParameter) -> None:
        span = self.source.span("layer", index)
        label = f"'{message.name}' ({message.type})"
        try:
            if message.include and message.exclude:
                raise fail(
                    "a layer has include and exclude rules",
                    expected="include rules or exclude rules, not both",
                    got=f"{len(message.include)} include and {len(message.exclude)} exclude",
                )
            if not self.state.includes(message):
                return
            self._add_included(index, message)
        except _UnshapedError:
            for name in message.top:
                self.current[name] = None
        except NetcError as error:
            self.problems.add(error.at(span, label))
            for name in message.top:
                self.current[name] = None
        except Refusal as refusal:
            self.problems.add(self._place(refusal, index, message).at(span, label))
            for name in message.top:
                self.current[name] = None

    def _place(self, refusal: Refusal, index: int, message: netc_pb2.LayerParameter) -> NetcError:
        """Point at the setting that a rule complained about, where the text has it."""
        return fail(
            refusal.what,
            span=self.source.span("layer", index, *_path(refusal.setting, message)),
            expected=refusal.expected,
            got=refusal.got,
            hint=refusal.hint,
        )

    def _add_included(self, index: int, message: netc_pb2.LayerParameter) -> None:
        kind = registry.find(message.type)
        bottoms = [self._bottom(index, message, i) for i in range(len(message.bottom))]
        tops = list(message.top)
        if not tops and kind.cls.loss:
            tops = [AUTOMATIC_TOP]
        if index not in self.layers:
            self.layers[index] = self._bind(index, message, kind)
        layer = self.layers[index]
        if None in bottoms:
            for name in tops:
                self.current[name] = None
            return
        keys = [key for key in bottoms if key is not None]
        _check_counts(layer, len(keys), len(tops))
        weights = _loss_weights(kind.cls.loss, message, len(tops))
        down = _propagate_down(message)
        types = [self.blobs[key].type for key in keys]
        in_place = self._check_tops(layer, list(message.bottom), tops)
        specs = list(message.param)
        parts = layer.expand(*types)
        if parts is None:
            self._add_node(index, message.name, layer, keys, tops, weights, down, specs)
        else:
            self._expand(index, message, parts, keys, tops, weights, specs)
        if specs:
            n_params = len(message.param) - len(specs)
            raise Refusal(
                "more param messages than learnable params",
                expected=f"at most {n_params} param {{ }} for this layer",
                got=f"{len(message.param)}",
                setting=f"param.{n_params}",
            )
        for key, name in zip(keys, message.bottom, strict=True):
            self._note_read(key, message.name, name in in_place)

    def _bottom(self, index: int, message: netc_pb2.LayerParameter, i: int) -> str | None:
        name = message.bottom[i]
        if name not in self.current:
            raise fail(
                f"unknown bottom blob '{name}'",
                span=self.source.span("layer", index, "bottom", i),
                expected="the top of an earlier layer"
                + (f": {', '.join(list(self.current)[-8:])}" if self.current else ""),
                got=f"'{name}'",
                hint=self._missed_producer(index, name) or nearest(name, self.current),
            )
        return self.current[name]

    def _missed_producer(self, index: int, name: str) -> str:
        """Say which layer of the text would give a blob, and why it does not."""
        layers = self.source.message.layer
        for i, layer in enumerate(layers):
            if name in layer.top and not self.state.includes(layer):
                return (
                    f"layer '{layer.name}' gives it, but its rules exclude it here (phase "
                    f"{self.state.phase.name}): the net may be meant for another phase or stage"
                )
            if name in layer.top and i > index:
                return "a later layer produces it: layers run in the order of the text"
        return ""

    def _bind(
        self, index: int, message: netc_pb2.LayerParameter, kind: registry.LayerType
    ) -> Layer:
        """Fill the dataclass from its messages; a field that is set but not read is an error."""
        resolved = netc_pb2.LayerParameter()
        resolved.CopyFrom(message)
        if not resolved.HasField("phase"):
            resolved.phase = netc_pb2.TRAIN if self.state.phase is Phase.TRAIN else netc_pb2.TEST
        layer, unread = bind_fields(
            kind.cls,
            [getattr(resolved, name) for name in kind.params if name != CUSTOM],
            outer=resolved,
            custom=resolved.custom_param if CUSTOM in kind.params else None,
            span=partial(self.source.span, "layer", index),
        )
        for path in unread:
            if path[0] in _COMMON_FIELDS or _is_empty(message, path):
                continue
            if chooses_implementation(message, path) or path[0] in kind.cls.leftovers:
                self.no_effect.setdefault(".".join(path))
                continue
            known = {f.name for f in dataclasses.fields(kind.cls)} | set(kind.params)
            shown = ".".join(path)
            raise fail(
                f"field '{shown}' is set, but layer type {kind.name} does not read it",
                span=self.source.span("layer", index, *path),
                expected="fields of " + ", ".join(kind.params) if kind.params else "no parameters",
                got=shown,
                hint=nearest(path[-1], known) or "remove it, or check the layer's type",
            )
        return layer.resolve(self.host)

    # -- blobs -------------------------------------------------------------------------------------

    def _check_tops(self, layer: Layer, bottoms: list[str], tops: list[str]) -> frozenset[str]:
        """Refuse a name that is produced twice; return the names written in place."""
        in_place = set()
        for i, name in enumerate(tops):
            if tops.index(name) != i:
                raise fail(
                    f"top '{name}' is listed twice",
                    expected="one name for each top",
                    got=", ".join(tops),
                )
            if i < len(bottoms) and bottoms[i] == name:
                if layer.refuses_in_place:
                    raise fail(
                        f"layer type {layer.type} does not work in place",
                        expected="a top with a name of its own",
                        got=f"bottom and top are both '{name}'",
                        hint=f"rename the top, for example to '{name}_{layer.type.lower()}', "
                        "and the bottoms that read it",
                    )
                in_place.add(name)
                reader = self.read.get(self.current[name] or "")
                if reader or bottoms.count(name) > 1:
                    raise fail(
                        f"blob '{name}' is overwritten, but it has another reader",
                        expected="a top with a name of its own, for a bottom that others read too",
                        got=f"'{name}' is read by layer '{reader}'" if reader else "two bottoms",
                        hint="give this layer's top a new name and use it in the layers after it",
                    )
            elif name in self.current and name != AUTOMATIC_TOP:
                key = self.current[name]
                producer = self.nodes[self.blobs[key].node].label if key else "a layer in error"
                raise fail(
                    f"top blob '{name}' is produced by two layers",
                    expected="a name that no earlier layer produces, or this layer's own bottom",
                    got=f"'{name}', the top of layer {producer}",
                    hint="rename one of them, or put the two layers in different phases",
                )
        return frozenset(in_place)

    def _note_read(self, key: str, reader: str, in_place: bool) -> None:
        if not in_place:
            self.read[key] = reader

    def _key(self, name: str) -> str:
        """Return the key of the next version of a blob."""
        key, version = name, 0
        while key in self.blobs:  # the text may itself call a blob "conv1#1"
            version += 1
            key = f"{name}#{version}"
        return key

    def _add_blob(self, name: str, blob_type: BlobType, top: int, weight: float) -> str:
        key = self._key(name)
        self.blobs[key] = Blob(key, name, blob_type, len(self.nodes), top, weight)
        self.current[name] = key
        return key

    # -- nodes -------------------------------------------------------------------------------------

    def _add_node(
        self,
        index: int,
        name: str,
        layer: Layer,
        bottoms: Sequence[str],
        tops: Sequence[str],
        weights: Sequence[float],
        down: tuple[bool | None, ...],
        specs: list[netc_pb2.ParamSpec],
    ) -> None:
        span = self.source.span("layer", index)
        signature = self._infer(layer, span, [self.blobs[key].type for key in bottoms], tops)
        uses = self._params(index, name, layer, signature, specs)
        keys = [
            self._add_blob(top, blob_type, i, weight)
            for i, (top, blob_type, weight) in enumerate(
                zip(tops, signature.tops, weights, strict=True)
            )
        ]
        self.nodes.append(
            Node(name, layer, tuple(bottoms), tuple(keys), uses, signature, down, span)
        )

    def _infer(
        self, layer: Layer, span: Span, bottoms: Sequence[BlobType], tops: Sequence[str]
    ) -> Signature:
        sizes = [self.sizes.get(self._key(top)) for top in tops]
        known = tuple(BlobType(size) for size in sizes if size is not None)
        if layer.reads_data and len(known) == len(tops):
            return Signature(known)
        if layer.reads_data:
            if self.probe is None:
                raise fail("the layer reads data, and no data reader was given")
            item = self.probe(layer, span)
            if item.assumed:
                self.notes.append(f"{span}: {item.assumed}")
            if item.types is None:
                raise _UnshapedError
            signature = layer.infer(*item.types)
        else:
            signature = layer.infer(*bottoms)
        if layer.reads_data or layer.fed:
            types = _overridden(tops, signature.tops, self.shapes, one_batch=layer.reads_data)
            signature = dataclasses.replace(signature, tops=types)
        if len(signature.tops) < len(tops):
            raise Refusal(
                "too many tops for these settings",
                expected=f"at most {len(signature.tops)}",
                got=f"{len(tops)}: {', '.join(tops)}",
                setting="top",
            )
        named = signature.tops[: len(tops)]
        if (layer.fed or layer.data_dependent) and len(known) == len(tops):
            named = known
        return dataclasses.replace(signature, tops=named)

    def _expand(
        self,
        index: int,
        message: netc_pb2.LayerParameter,
        parts: Sequence[Any],
        bottoms: Sequence[str],
        tops: Sequence[str],
        weights: Sequence[float],
        specs: list[netc_pb2.ParamSpec],
    ) -> None:
        """Add the small net that a type stands for.

        Its private blobs are prefixed with the layer's name.
        """
        keys: dict[str, str] = {f"$b{i}": key for i, key in enumerate(bottoms)}
        for part in parts:
            names = []
            part_weights = []
            for top in part.tops:
                position = int(top[2:]) if top.startswith("$t") else None
                names.append(f"{message.name}{top}" if position is None else tops[position])
                part_weights.append(0.0 if position is None else weights[position])
            inputs = [keys[bottom] for bottom in part.bottoms]
            self._add_node(
                index,
                f"{message.name}/{part.name}" if part.name else message.name,
                part.layer,
                inputs,
                names,
                part_weights,
                (None,) * len(inputs),
                specs,
            )
            keys |= dict(zip(part.tops, self.nodes[-1].tops, strict=True))

    # -- params ------------------------------------------------------------------------------------

    def _params(
        self,
        index: int,
        layer_name: str,
        layer: Layer,
        signature: Signature,
        specs: list[netc_pb2.ParamSpec],
    ) -> tuple[ParamUse, ...]:
        """Register the node's params.

        Taking one param message for each from the front of `specs`.
        """
        uses = []
        for i, declared in enumerate(signature.params):
            declared.filler.check(declared.shape)
            given = bool(specs)
            spec = specs.pop(0) if specs else netc_pb2.ParamSpec()
            if declared.fixed:
                own = netc_pb2.ParamSpec()
                own.CopyFrom(spec)
                own.lr_mult, own.decay_mult = declared.lr_mult, declared.decay_mult
                spec = own
            if declared.frozen and given and spec.lr_mult != 0:
                raise Refusal(
                    f"param {i} holds statistics, which no solver may change",
                    expected="param { lr_mult: 0 }, or no param message",
                    got=f"lr_mult {spec.lr_mult:g}",
                    setting=f"param.{i}",
                )
            lr_given, decay_given = spec.HasField("lr_mult"), spec.HasField("decay_mult")
            lr = spec.lr_mult if lr_given else declared.lr_mult
            decay = spec.decay_mult if decay_given else declared.decay_mult
            if spec.regularization_type not in ("", *REGULARIZATION_TYPES):
                raise Refusal(
                    f"unknown regularization_type '{spec.regularization_type}'",
                    expected=", ".join(REGULARIZATION_TYPES),
                    got=spec.regularization_type,
                    hint=nearest(spec.regularization_type, REGULARIZATION_TYPES),
                    setting=f"param.{i}",
                )
            if spec.name and spec.name in self.shared:
                uses.append(self._share(layer_name, i, declared.shape, spec))
                continue
            if spec.name:
                self.shared[spec.name] = len(self.params)
            uses.append(ParamUse(len(self.params), declared.shape))
            param = Param(
                len(self.nodes),
                i,
                declared.shape,
                declared.filler,
                lr,
                decay,
                spec.name,
                spec.regularization_type,
                declared.neurons,
            )
            self.params.append(_OpenParam(param, layer_name, lr_given, decay_given))
        return tuple(uses)

    def _share(
        self, layer_name: str, i: int, shape: tuple[int, ...], spec: netc_pb2.ParamSpec
    ) -> ParamUse:
        number = self.shared[spec.name]
        opened = self.params[number]
        owner = opened.param
        permissive = spec.share_mode == netc_pb2.ParamSpec.PERMISSIVE
        same = (
            BlobType(shape).count == BlobType(owner.shape).count
            if permissive
            else shape == owner.shape
        )
        if not same:
            raise Refusal(
                f"shared param '{spec.name}' has another {'count' if permissive else 'shape'} here",
                expected=f"{BlobType(owner.shape)}, as in layer '{opened.user}'",
                got=f"{BlobType(shape)} for param {i}",
                hint=""
                if permissive or BlobType(shape).count != BlobType(owner.shape).count
                else "the counts agree: param { share_mode: PERMISSIVE } shares it all the same",
                setting=f"param.{i}",
            )
        rates: dict[str, Any] = {}
        for rate, was_given in (
            ("lr_mult", opened.lr_given),
            ("decay_mult", opened.decay_given),
            ("regularization_type", bool(owner.regularization_type)),
        ):
            if not spec.HasField(rate):
                continue
            value = getattr(spec, rate)
            if was_given and value != getattr(owner, rate):
                first, second = (
                    f"{rate} {v:g}" if isinstance(v, float) else f"{rate} {v}"
                    for v in (getattr(owner, rate), value)
                )
                raise Refusal(
                    f"shared param '{spec.name}' has mismatched {rate}",
                    expected=f"{first}, as in layer '{opened.user}'",
                    got=second,
                    setting=f"param.{i}",
                )
            rates[rate] = value
        self.params[number] = _OpenParam(
            dataclasses.replace(owner, **rates),
            opened.user,
            opened.lr_given or "lr_mult" in rates,
            opened.decay_given or "decay_mult" in rates,
        )
        return ParamUse(number, shape)

    def finish(self) -> Graph:
        self.problems.raise_any()
        net = self.source.message
        if unknown := set(self.shapes) - set(self.current):
            name = min(unknown)
            raise fail(
                f"a shape is given for blob '{name}', which the net does not have",
                got=name,
                hint=nearest(name, self.current),
            )
        if self.no_effect:
            self.notes.append(
                f"{self.source.file}: {', '.join(self.no_effect)}: a fork's choice of "
                "implementation, of no effect here"
            )
        return Graph(
            name=net.name,
            phase=self.state.phase,
            nodes=tuple(self.nodes),
            blobs=self.blobs,
            params=tuple(opened.param for opened in self.params),
            force_backward=net.force_backward,
            notes=tuple(self.notes),
            file=self.source.file,
        )


def _is_empty(message: netc_pb2.LayerParameter, path: Sequence[str]) -> bool:
    """Tell whether a layer has a message at `path` that sets nothing, as programs leave them."""
    if len(path) != 1 or not field_of(message, path[0]).message_type:
        return False
    value = getattr(message, path[0])
    return isinstance(value, Message) and not value.ListFields()


def _path(setting: str, message: netc_pb2.LayerParameter) -> tuple[str | int, ...]:
    """Return the path of a setting in a layer's message: () unless it, or where it belongs, is set.

    "param.1" is the second value of a repeated field.
    """
    name, _, number = setting.partition(".")
    if not name:
        return ()
    index = (int(number),) if number else ()
    holders = [
        descriptor.name
        for descriptor, _ in message.ListFields()
        if descriptor.message_type is not None and not descriptor.is_repeated
    ]
    for path, holder in (((), message), *(((h,), getattr(message, h)) for h in holders)):
        if name in (descriptor.name for descriptor, _ in holder.ListFields()):
            return (*path, name, *index)
    for h in holders:
        if name in getattr(message, h).DESCRIPTOR.fields_by_name:
            return (h,)
    return ()


def _overridden(
    tops: Sequence[str],
    types: Sequence[BlobType],
    shapes: Mapping[str, Sequence[int]],
    *,
    one_batch: bool,
) -> tuple[BlobType, ...]:
    """Return the types of tops with some shapes in place of the text's.

    With `one_batch` the first axis is the batch: tops that had as many items as one whose shape is
    given have as many as it then.
    """
    batches: dict[int, int] = {}
    for name, blob_type in zip(tops, types, strict=True):
        if one_batch and shapes.get(name) and blob_type.axes:
            batches.setdefault(blob_type.shape[0], shapes[name][0])
    found = []
    for name, blob_type in zip(tops, types, strict=True):
        if name in shapes:
            blob_type = BlobType(tuple(shapes[name]))
        elif blob_type.axes and blob_type.shape[0] in batches:
            blob_type = BlobType((batches[blob_type.shape[0]], *blob_type.shape[1:]))
        found.append(blob_type)
    return tuple(found)


def _check_counts(layer: Layer, n_bottoms: int, n_tops: int) -> None:
    for kind, n, arity in (("bottom", n_bottoms, layer.bottoms), ("top", n_tops, layer.tops)):
        if not arity.allows(n):
            raise Refusal(
                f"wrong number of {kind}s", expected=f"{arity} {kind}(s)", got=n, setting=kind
            )
    if layer.tops_match_bottoms and n_bottoms != n_tops:
        raise Refusal(
            "the numbers of bottoms and tops differ",
            expected="one top for each bottom",
            got=f"{n_bottoms} bottoms, {n_tops} tops",
            setting="top",
        )


def _loss_weights(loss: bool, message: netc_pb2.LayerParameter, n_tops: int) -> tuple[float, ...]:
    given = tuple(message.loss_weight)
    if not given and loss and n_tops == 1:
        return (1.0,)
    if (given and len(given) != n_tops) or (not given and loss and n_tops > 1):
        raise Refusal(
            "loss_weight must be unspecified or specified once per top blob",
            expected=f"{n_tops} loss_weight values, one for each top",
            got=f"{len(given)} of them",
            hint=f"write {' '.join('loss_weight: ' + ('0' if i else '1') for i in range(n_tops))}",
            setting="loss_weight",
        )
    return given or (0.0,) * n_tops


def _propagate_down(message: netc_pb2.LayerParameter) -> tuple[bool | None, ...]:
    given = tuple(message.propagate_down)
    if given and len(given) != len(message.bottom):
        raise Refusal(
            "propagate_down must be unspecified or specified once per bottom",
            expected=f"{len(message.bottom)} propagate_down values",
            got=f"{len(given)}",
            setting="propagate_down",
        )
    return given or (None,) * len(message.bottom)
