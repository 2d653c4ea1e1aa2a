"""A shaped net and its weights -> an ONNX model, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import checker, helper, shape_inference

from netc._version import __version__
from netc.errors import Problems, fail
from netc.export.batch import batch_size, counted_blobs, mixed, open_blobs, with_batch
from netc.export.builder import (
    BATCH,
    Builder,
    Dim,
    InvalidLowering,
    Operator,
    Tensor,
    ir_version,
    type_proto,
)
from netc.export.fold import fold_scales
from netc.export.names import Interface, name_nodes, name_tensors
from netc.export.session import DEFAULT_OPSET, OLDEST_OPSET, latest_opset
from netc.graph.reshape import problem
from netc.graph.types import Blob, Graph, Node, Param, ParamUse
from netc.layers.input import BlobShape, Input
from netc.layers.types import BlobType, Layer, Part, Phase, Refusal
from netc.weights.atomic import atomic_write

Array = np.ndarray[Any, np.dtype[Any]]

# A protobuf message, and so an ONNX file without side files, ends at 2 GiB; a MiB is left for what
# is not weights.
_LARGEST = 2**31 - 2**20

_FLOAT = np.dtype(np.float32)


def export(
    graph: Graph,
    params: Sequence[Array],
    *,
    opset: int | None = None,
    batch: int | Literal["dynamic"] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Return the ONNX model of a deployed net in the TEST phase.

    `params` holds one array for each of `graph.params`. `opset` is `DEFAULT_OPSET` unless given.
    `batch` replaces the first axis of every input; "dynamic" leaves it open, named "N"; None keeps
    the text's. `metadata` is added to the model's properties (see `provenance`). The same arguments
    give the same bytes.

    Raises one NetcError with everything that ONNX cannot say. The result has passed ONNX's checker,
    which also compares the shapes of every blob with ONNX's own inference.
    """
    opset = _checked_opset(opset)
    if graph.phase is not Phase.TEST:
        raise fail(
            "a net for training cannot be exported",
            expected="the net of phase TEST",
            got=f"phase {graph.phase.name}",
        )
    if isinstance(batch, int) and batch < 1:
        raise fail("the batch size is not positive", expected="-batch 1 or more", got=batch)
    _check_params(graph, params)
    if isinstance(batch, int):
        graph = with_batch(graph, batch)
    ends = Interface.of(graph)
    if not ends.outputs:
        raise fail("the net has no outputs", expected="a top that no layer reads")
    _check_elements(graph)
    builder = Builder(opset)
    opened = dict.fromkeys(open_blobs(graph) if batch == "dynamic" else (), BATCH)
    blobs = _lower(graph, params, builder, opened | counted_blobs(graph))
    outputs = _outputs(builder, graph, ends.outputs, blobs)
    named = {*(blobs[key] for key in graph.last.values()), *outputs.values()}
    operators = fold_scales(_needed(builder.operators, outputs.values()), named)
    model = _assemble(graph, ends, blobs, outputs, operators, opset)
    properties = {"netc.version": __version__, "netc.net": graph.name} | dict(metadata or {})
    helper.set_model_props(model, dict(sorted(properties.items())))
    _check(model)
    return model


def lower_layer(
    layer: Layer,
    bottoms: Sequence[BlobType],
    params: Sequence[Array] = (),
    *,
    opset: int | None = None,
    batch: Literal["dynamic"] | None = None,
) -> onnx.ModelProto:
    """Return the model of one layer: inputs "bottom0", ..., outputs "top0", ....

    A type that expands to other types is expanded; `params` are then those of its parts in order.
    Raises NetcError where the layer refuses its bottoms, or ONNX cannot say it.
    """
    return export(_small_graph(layer, bottoms), params, opset=opset, batch=batch)


def provenance(model: Path, weights: Sequence[Path] = ()) -> dict[str, str]:
    """Return `metadata` for `export` that tells which files a model was made from.

    Keys "netc.model.file" and "netc.model.sha256", and the same with "weights", "weights2", ...
    """
    found = {}
    roles = {f"weights{number if number > 1 else ''}": p for number, p in enumerate(weights, 1)}
    for role, path in ({"model": model} | roles).items():
        found[f"netc.{role}.file"] = path.name
        try:
            with path.open("rb") as file:
                found[f"netc.{role}.sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise fail("cannot read the file", got=f"{path}: {error.strerror}") from error
    return found


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model to a file, whole or not at all. Raises NetcError where that fails."""
    content = model.SerializeToString(deterministic=True)
    with atomic_write(path, size=len(content)) as file:
        file.write(content)


# -- what is asked for -----------------------------------------------------------------------------


def _checked_opset(opset: int | None) -> int:
    if opset is None:
        return DEFAULT_OPSET
    latest = latest_opset()
    if not OLDEST_OPSET <= opset <= latest:
        raise fail(
            f"opset {opset} is not supported",
            expected=f"{OLDEST_OPSET} to {latest} (the newest that the installed onnx and "
            "onnxruntime have)",
            got=f"-opset {opset}",
            hint=f"leave it out to use {DEFAULT_OPSET}, which most tools read",
        )
    return opset


def _check_params(graph: Graph, params: Sequence[Array]) -> None:
    if len(params) != len(graph.params):
        raise ValueError(f"{len(params)} arrays for {len(graph.params)} params")
    for index, (param, array) in enumerate(zip(graph.params, params, strict=True)):
        if array.shape != param.shape:
            raise ValueError(f"param {index} has shape {param.shape}, not {array.shape}")


def _check_elements(graph: Graph) -> None:
    problems = Problems()
    for blob in graph.blobs.values():
        if not blob.type.count:
            node = graph.nodes[blob.node]
            refusal = Refusal(
                f"blob '{blob.name}' has no elements",
                expected="every axis of size 1 or more",
                got=f"shape {blob.type}",
            )
            problems.add(problem(node, refusal))
    problems.raise_any()


# -- lowering --------------------------------------------------------------------------------------


def _lower(
    graph: Graph, params: Sequence[Array], builder: Builder, opened: Mapping[str, str]
) -> dict[str, Tensor]:
    """Ask each layer for its form. Return the tensor of each blob, by key.

    `opened` names the first axis of blobs where its size is left open.
    """
    owned = [
        builder.param(array, _title(graph, param))
        for param, array in zip(graph.params, params, strict=True)
    ]
    problems = Problems()
    blobs: dict[str, Tensor] = {}
    for index, node in enumerate(graph.nodes):
        types = [graph.blobs[key] for key in node.tops]
        if node.layer.fed:
            tops: Sequence[Tensor] = [_declared(blob, opened.get(blob.key)) for blob in types]
        else:
            builder.layer = index
            uses = [builder.reshape(owned[use.param], use.shape) for use in node.params]
            try:
                tops = _lower_node(node, builder, [blobs[key] for key in node.bottoms], uses)
                for blob, top in zip(types, tops, strict=True):
                    _settle(graph, node, blob, top, opened)
            except Refusal as refusal:
                problems.add(problem(node, refusal))
                # What stands behind it may be in error too, and is told in the same run.
                tops = [_declared(blob, opened.get(blob.key)) for blob in types]
        blobs.update(zip(node.tops, tops, strict=True))
    problems.raise_any()
    return blobs


def _lower_node(
    node: Node, builder: Builder, bottoms: Sequence[Tensor], params: Sequence[Tensor]
) -> Sequence[Tensor]:
    if node.layer.reads_data:
        raise Refusal(
            "an exported net does not read data: whoever runs it hands it in",
            expected="an input in place of this layer, as in a net for deployment",
            hint="export the deployed form of the net",
        )
    try:
        tops = node.layer.lower(builder, tuple(bottoms), tuple(params))
    except InvalidLowering as error:
        raise InvalidLowering(f"layer {node.label}: {error}") from error
    if len(tops) != len(node.tops):
        raise InvalidLowering(f"layer {node.label}: {len(tops)} tops, not {len(node.tops)}")
    for top in tops:
        if not isinstance(top, Tensor):
            raise InvalidLowering(f"layer {node.label}: a top is {top!r}")
    return [top for top in tops if isinstance(top, Tensor)]


def _settle(graph: Graph, node: Node, blob: Blob, top: Tensor, opened: Mapping[str, str]) -> None:
    """Compare a top with the shape rule, which is the authority, and declare its dims.

    Raises InvalidLowering where ONNX finds another shape, Refusal where the open batch is lost.
    """
    if top.dtype != _FLOAT:
        raise InvalidLowering(f"layer {node.label}: top '{blob.name}' is {top.dtype}, not float32")
    top.known = blob.shape if top.known is None else top.known
    if top.known != blob.shape:
        raise InvalidLowering(
            f"layer {node.label}: top '{blob.name}' has shape {blob.type}, but its ONNX form "
            f"makes {top.known}"
        )
    name = opened.get(blob.key)
    if not name and top.depends and BATCH in opened.values():
        got = ", ".join(str(graph.blobs[key].type) for key in node.bottoms)
        raise mixed(f"{got} to {blob.type}", batch_size(graph))
    if name and top.dims is not None and isinstance(top.dims[0], int):
        raise Refusal(
            "its ONNX form fixes the batch size",
            expected="a top whose first axis is open",
            got=f"top '{blob.name}' of shape {blob.type}",
            hint=f"export with a fixed batch size: -batch {batch_size(graph)}",
        )
    top.dims = (name, *blob.shape[1:]) if name else blob.shape
    top.depends |= name is not None


def _title(graph: Graph, param: Param) -> str:
    owner = graph.nodes[param.owner]
    names = owner.layer.param_names
    name = names[param.index] if param.index < len(names) else str(param.index)
    return f"{owner.name}.{name}"


def _declared(blob: Blob, name: str | None) -> Tensor:
    """Return the tensor of a blob that no operator makes."""
    dims: tuple[Dim, ...] = (name, *blob.shape[1:]) if name else blob.shape
    return Tensor(blob.shape, dims, _FLOAT, depends=name is not None)


def _outputs(
    builder: Builder, graph: Graph, keys: Iterable[str], blobs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensor of each output, by key; each one for itself."""
    inputs = {blobs[key] for key in graph.inputs}
    found: dict[str, Tensor] = {}
    for key in keys:
        tensor = blobs[key]
        if tensor in inputs or tensor.data is not None or tensor in found.values():
            builder.layer = graph.blobs[key].node
            tensor = builder.copy(tensor)
        found[key] = tensor
    return found


def _needed(operators: Sequence[Operator], outputs: Iterable[Tensor]) -> list[Operator]:
    """Return the operators that outputs depend on, in order."""
    wanted = set(outputs)
    kept = []
    for operator in reversed(operators):
        if wanted.intersection(operator.outputs):
            wanted.update(tensor for tensor in operator.inputs if tensor)
            kept.append(operator)
    return kept[::-1]


# -- the model -------------------------------------------------------------------------------------


def _assemble(
    graph: Graph,
    ends: Interface,
    blobs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    operators: Sequence[Operator],
    opset: int,
) -> onnx.ModelProto:
    names = name_tensors(graph, ends, blobs, outputs, operators, opset)
    used = dict.fromkeys(tensor for operator in operators for tensor in operator.inputs if tensor)
    constants = {names[tensor]: tensor.data for tensor in used if tensor.data is not None}
    _check_size(constants.values())
    last = set(outputs.values())
    inner = [t for operator in operators for t in operator.outputs if t not in last]
    model = onnx.ModelProto(
        ir_version=ir_version(opset),
        producer_name="netc",
        producer_version=__version__,
        opset_import=[helper.make_opsetid("", opset)],
        # ONNX wants a name here, Caffe does not.
        graph=onnx.GraphProto(name=graph.name or "net"),
    )
    model.graph.input.extend(_value_info(names, blobs[key]) for key in ends.inputs)
    model.graph.output.extend(_value_info(names, tensor) for tensor in outputs.values())
    model.graph.value_info.extend(_value_info(names, tensor) for tensor in inner)
    titles = name_nodes(graph, {**blobs, **outputs}, operators)
    for name, operator in zip(titles, operators, strict=True):
        node = model.graph.node.add(name=name, op_type=operator.type)
        node.input.extend(names[tensor] if tensor else "" for tensor in operator.inputs)
        node.output.extend(names[tensor] for tensor in operator.outputs)
        node.attribute.extend(operator.attributes)
    for name, data in constants.items():
        # Written in place: onnx's own constructors copy all weights several times.
        model.graph.initializer.add(
            name=name,
            dims=data.shape,
            data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
            raw_data=data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
    return model


def _value_info(names: Mapping[Tensor, str], tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_value_info(names[tensor], type_proto(tensor))


def _check_size(constants: Iterable[Array]) -> None:
    size = sum(data.nbytes for data in constants)
    if size > _LARGEST:
        raise fail(
            "the weights do not fit in an ONNX file",
            expected=f"at most {_LARGEST / 2**30:.1f} GiB",
            got=f"{size / 2**30:.1f} GiB",
        )


def _check(model: onnx.ModelProto) -> None:
    """Run ONNX's checker. Its shape inference compares what it finds with what we declare."""
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise InvalidLowering(f"ONNX does not accept the model: {error}") from error


# -- one layer -------------------------------------------------------------------------------------


def _small_graph(layer: Layer, bottoms: Sequence[BlobType]) -> Graph:
    """Return the net that feeds one layer, with blobs "bottom0", ... and "top0", ..."""
    nodes: list[Node] = []
    blobs: dict[str, Blob] = {}
    params: list[Param] = []

    def add(name: str, part: Layer, reads: Sequence[str], makes: Sequence[str]) -> None:
        signature = part.infer(*(blobs[key].type for key in reads))
        uses = []
        for index, declared in enumerate(signature.params):
            uses.append(ParamUse(len(params), declared.shape))
            params.append(
                Param(
                    len(nodes),
                    index,
                    declared.shape,
                    declared.filler,
                    declared.lr_mult,
                    declared.decay_mult,
                )
            )
        # Of a part its tops are known; a layer alone has one top for each that it infers.
        keys = makes or [f"top{i}" for i in range(len(signature.tops))]
        for position, (key, blob_type) in enumerate(zip(keys, signature.tops, strict=True)):
            blobs[key] = Blob(key, key, blob_type, len(nodes), position)
        down = (None,) * len(reads)
        nodes.append(
            Node(name, part, tuple(reads), tuple(keys), tuple(uses), signature, down, None)
        )

    inputs = [f"bottom{i}" for i in range(len(bottoms))]
    for key, blob_type in zip(inputs, bottoms, strict=True):
        add(key, Input((BlobShape(blob_type.shape),), top=(key,)), (), (key,))
    parts = layer.expand(*bottoms) or (
        Part("", layer, tuple(f"$b{i}" for i in range(len(bottoms))), ()),
    )
    outer = {f"$b{i}": key for i, key in enumerate(inputs)}
    for part in parts:
        add(
            f"{layer.type}{part.name}",
            part.layer,
            [outer.get(name, name) for name in part.bottoms],
            [name.replace("$t", "top") for name in part.tops],
        )
    return Graph("layer", Phase.TEST, tuple(nodes), blobs, tuple(params))
