"""The builder that lowering rules write to: ONNX operators, with every shape known as it is added.

Nothing has a name here. Operators refer to `Tensor` objects; `model.py` names what is left once the
whole net is lowered, so that a layer that adds no operator (Dropout) costs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import checker, defs, helper, numpy_helper, shape_inference

from netc.layers.types import Refusal, Value

#: The name of the open batch size, as in (N, C, H, W).
BATCH = "N"

# A constant of at most so many elements is shown to ONNX's shape inference. Shapes, axes, pads and
# scales have one element or two per axis; the content of anything larger never decides a shape.
_SMALL = 64

Dim = int | str | None
Array = np.ndarray[Any, np.dtype[Any]]


class InvalidLowering(RuntimeError):
    """A bug in a layer's `lower` rule: it disagrees with ONNX, or with the layer's shape rule."""


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor of the ONNX graph under construction: a `Value` of the lowering rules.

    `known` is the shape with the text's batch size, None where ONNX's inference has no answer.
    `dims` is the shape that the model will declare: `BATCH` stands for the open batch size, None
    for what inference cannot tell. `data` is the content of a constant. `depends` says whether the
    content depends on a tensor with an open batch size. `origin` is the param that a constant was
    made from, `title` its name if it is one.
    """

    known: tuple[int, ...] | None
    dims: tuple[Dim, ...] | None
    dtype: np.dtype[Any]
    data: Array | None = None
    depends: bool = False
    origin: Tensor | None = None
    title: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as inferred by netc (the batch size of the text, also in a dynamic export)."""
        if self.known is None:
            raise InvalidLowering("the shape of this tensor is not known: ONNX does not infer it")
        return self.known

    @property
    def open_axes(self) -> tuple[int, ...]:
        """The axes whose size the model leaves open."""
        return tuple(i for i, dim in enumerate(self.dims or ()) if not isinstance(dim, int))


@dataclass(eq=False, slots=True)
class Operator:
    """One ONNX node to be: type, inputs (None where left out), outputs, and the layer it is for."""

    type: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[onnx.AttributeProto, ...]
    layer: int

    def formal_name(self, position: int, opset: int) -> str:
        """Return what ONNX calls the input at `position` ("input_mean"); "" for a variadic one."""
        formal = defs.get_schema(self.type, opset, "").inputs
        if position >= len(formal):
            return ""
        parameter = formal[position]
        variadic = parameter.option == defs.OpSchema.FormalParameterOption.Variadic
        return "" if variadic else str(parameter.name)


@dataclass
class Builder:
    """What `Layer.lower` is handed. Fulfils the Protocol `netc.layers.types.OnnxBuilder`.

    `layer` is the index of the node that is being lowered; the caller sets it.
    """

    opset: int
    xp: Any = np
    operators: list[Operator] = field(default_factory=list)
    layer: int = -1
    _folded: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    # -- what lowering rules call ------------------------------------------------------------------

    def op(self, op_type: str, *inputs: Value | None, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its Value, or a tuple of them when `outputs` > 1.

        Inputs that are None are left out, and so are attributes that are None; numbers become
        what the operator's schema asks for. An operator that only moves the elements of a constant
        adds no node: a constant takes its place. Raises Refusal for an operator or attribute that
        exists in later opsets only, InvalidLowering for one that ONNX does not accept.
        """
        given = [_tensor(value) for value in inputs]
        while given and given[-1] is None:
            given.pop()
        settings = {name: value for name, value in attributes.items() if value is not None}
        if (constant := self._fold(op_type, given, settings)) is not None:
            return constant
        schema = self._schema(op_type, settings)
        protos = tuple(_attribute(schema, name, value) for name, value in settings.items())
        results = self._infer(schema, op_type, given, outputs, protos)
        self.operators.append(Operator(op_type, tuple(given), results, protos, self.layer))
        return results[0] if outputs == 1 else results

    def constant(self, value: Any, dtype: str = "float32") -> Tensor:
        """Return a constant holding `value` (array, list or number)."""
        # A copy: the model must not change when the caller's array does.
        data = np.array(value, dtype=dtype, order="C")
        return Tensor(data.shape, data.shape, data.dtype, data)

    def param(self, value: Array, title: str) -> Tensor:
        """Return the constant for a learnable blob named `title`. The array is not copied."""
        data = np.ascontiguousarray(value, dtype=np.float32).reshape(value.shape)
        return Tensor(data.shape, data.shape, data.dtype, data, title=title)

    def array(self, value: Value) -> Array | None:
        """Return the content of a constant or of a param, None for a computed tensor."""
        tensor = _tensor(value)
        assert tensor is not None
        return tensor.data

    def reshape(self, x: Value, shape: Sequence[int]) -> Tensor:
        """Reshape, keeping an open batch axis open.

        `shape` is written with the text's batch size. The open axis must be an axis of the result
        too, with the same elements before and behind it. Raises Refusal where it is not.
        """
        tensor = _tensor(x)
        assert tensor is not None
        target = tuple(int(n) for n in shape)
        if math.prod(target) != math.prod(tensor.shape) or min(target, default=0) < 0:
            raise InvalidLowering(f"cannot reshape {tensor.shape} to {target}")
        if target == tensor.shape:
            return tensor
        if tensor.data is not None:
            return self._constant_from(tensor, ("Reshape", target), lambda x: x.reshape(target))
        asked = list(target)
        if tensor.dims is None or len(tensor.open_axes) > 1:
            raise self.refuse(
                "where the batch axis is, ONNX cannot tell, so that its size cannot be left open",
                hint="export with a fixed batch size: -batch N",
            )
        for axis in tensor.open_axes:
            place = _aligned(tensor.shape, axis, target)
            # 0 copies the size of the input's axis at the same place; -1 computes it.
            asked[place] = 0 if place == axis else -1
        result: Tensor = self.op("Reshape", tensor, self.constant(asked, "int64"))
        for axis in tensor.open_axes:
            # Inference sees the 0, but gives up on the -1.
            place = asked.index(0 if 0 in asked else -1)
            result.known = target
            result.dims = (*target[:place], tensor.dims[axis], *target[place + 1 :])
        return result

    def cast(self, x: Value, dtype: str) -> Tensor:
        """Convert to a NumPy dtype by its name; no node where `x` has it already."""
        tensor = _tensor(x)
        assert tensor is not None
        wanted = np.dtype(dtype)
        if tensor.dtype == wanted:
            return tensor
        if tensor.data is not None:
            return self._constant_from(tensor, ("Cast", dtype), lambda x: x.astype(wanted))
        result: Tensor = self.op("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(wanted))
        return result

    def copy(self, x: Tensor) -> Tensor:
        """Return the same content under another name."""
        result = Tensor(x.known, x.dims, x.dtype, depends=x.depends)
        self.operators.append(Operator("Identity", (x,), (result,), (), self.layer))
        return result

    def refuse(self, what: str, *, hint: str = "") -> Refusal:
        """Return the error to raise for what ONNX cannot say."""
        return Refusal(what, expected=f"something that ONNX opset {self.opset} can say", hint=hint)

    # -- schemas -----------------------------------------------------------------------------------

    def _schema(self, op_type: str, attributes: Mapping[str, Any]) -> defs.OpSchema:
        """Return the operator's schema; refuse what only a later opset has."""
        found = None
        for opset in range(self.opset, defs.onnx_opset_version() + 1):
            try:
                schema = defs.get_schema(op_type, opset, "")
            except defs.SchemaError:
                continue
            found = schema
            missing = [name for name in attributes if name not in schema.attributes]
            if schema.deprecated or missing:
                continue
            if opset == self.opset:
                return schema
            raise Refusal(
                f"this needs ONNX opset {opset}: that is where {op_type} "
                + ("says it" if _exists(op_type, self.opset) else "appears"),
                expected=f"opset {opset} or later",
                got=f"opset {self.opset}",
                hint=f"export with -opset {opset}",
            )
        if found is None:
            raise InvalidLowering(f"ONNX has no operator {op_type}")
        unknown = sorted(set(attributes) - set(found.attributes))
        raise InvalidLowering(f"{op_type} has no attribute {', '.join(unknown)}")

    # -- shapes ------------------------------------------------------------------------------------

    def _infer(
        self,
        schema: defs.OpSchema,
        op_type: str,
        inputs: Sequence[Tensor | None],
        n_outputs: int,
        attributes: Sequence[onnx.AttributeProto],
    ) -> tuple[Tensor, ...]:
        """Ask ONNX for the types of the outputs: once with the text's batch size, once without."""
        if not schema.min_input <= len(inputs) <= schema.max_input:
            raise InvalidLowering(f"{op_type} does not take {len(inputs)} inputs")
        names = [f"i{k}" if tensor else "" for k, tensor in enumerate(inputs)]
        node = helper.make_node(op_type, names, [f"o{k}" for k in range(n_outputs)])
        node.attribute.extend(attributes)
        present = {name: tensor for name, tensor in zip(names, inputs, strict=True) if tensor}
        static = self._outputs(schema, node, present, declared=False)
        declared = static
        if any(tensor.open_axes for tensor in present.values()):
            declared = self._outputs(schema, node, present, declared=True)
        depends = any(tensor.depends for tensor in present.values())
        return tuple(
            Tensor(_sizes(dims), open_dims, dtype, depends=depends)
            for (dims, dtype), (open_dims, _) in zip(static, declared, strict=True)
        )

    def _outputs(
        self,
        schema: defs.OpSchema,
        node: onnx.NodeProto,
        inputs: Mapping[str, Tensor],
        *,
        declared: bool,
    ) -> list[tuple[tuple[Dim, ...] | None, np.dtype[Any]]]:
        opsets = [helper.make_opsetid("", self.opset)]
        types = {
            name: _type_proto(t.dtype, t.dims if declared else t.known)
            for name, t in inputs.items()
        }
        data = {
            name: numpy_helper.from_array(t.data)
            for name, t in inputs.items()
            if t.data is not None and t.data.size <= _SMALL
        }
        try:
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=opsets, ir_version=ir_version(self.opset)
            )
        except (shape_inference.InferenceError, checker.ValidationError) as error:
            # Each of ONNX's messages ends in a description of the node.
            shapes = ", ".join(str(t.dims if declared else t.known) for t in inputs.values())
            raise InvalidLowering(f"{node.op_type} of {shapes}: {error}") from error
        missing = [name for name in node.output if name not in found]
        if missing:
            raise InvalidLowering(f"ONNX gives no type for an output of {node.op_type}")
        return [_read_type(found[name]) for name in node.output]

    # -- constants ---------------------------------------------------------------------------------

    def _fold(
        self, op_type: str, inputs: Sequence[Tensor | None], attributes: Mapping[str, Any]
    ) -> Tensor | None:
        """Do what only moves elements of a constant now: the model need not do it on every run.

        Arithmetic is left to the rules (`g.array`, `g.xp`), which know what it means.
        """
        if not inputs or any(tensor is None or tensor.data is None for tensor in inputs):
            return None
        source, *rest = (tensor for tensor in inputs if tensor)
        operands = [tensor.data for tensor in rest if tensor.data is not None]
        # Axes that ONNX would refuse are left for ONNX to refuse.
        rank = source.data.ndim if source.data is not None else 0
        match op_type, operands:
            case "Identity", []:
                return source
            case "Transpose", []:
                perm = tuple(attributes.get("perm", range(rank)[::-1]))
                if sorted(perm) == list(range(rank)):
                    return self._constant_from(source, (op_type, perm), lambda x: x.transpose(perm))
            case "Unsqueeze", [axes] if set(attributes) == set():
                places = tuple(axes.tolist())
                return self._constant_from(
                    source, (op_type, places), lambda x: np.expand_dims(x, places)
                )
            case "Squeeze", [axes] if set(attributes) == set():
                places = tuple(axes.tolist())
                return self._constant_from(
                    source, (op_type, places), lambda x: np.squeeze(x, places)
                )
        return None

    def _constant_from(
        self, source: Tensor, how: tuple[Any, ...], compute: Callable[[Array], Array]
    ) -> Tensor:
        """Return a constant computed from another; the same one when it is asked for again."""
        key = (id(source), *how)
        if key not in self._folded:
            assert source.data is not None
            result = self.constant(compute(source.data), str(compute(source.data).dtype))
            result.origin = source.origin or source
            self._folded[key] = result
        return self._folded[key]


def ir_version(opset: int) -> int:
    """Return the oldest version of the file format that has this opset: old tools read it."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


def type_proto(tensor: Tensor) -> onnx.TypeProto:
    """Return the ONNX type of a tensor as the model declares it."""
    return _type_proto(tensor.dtype, tensor.dims)


def _exists(op_type: str, opset: int) -> bool:
    try:
        return not defs.get_schema(op_type, opset, "").deprecated
    except defs.SchemaError:
        return False


def _tensor(value: Value | None) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    raise InvalidLowering(f"not a tensor of this builder: {value!r}")


def _aligned(shape: tuple[int, ...], axis: int, target: tuple[int, ...]) -> int:
    """Return the axis of `target` that holds what `axis` of `shape` holds; refuse if none does."""
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    fits = [
        place
        for place, size in enumerate(target)
        if size == shape[axis]
        and math.prod(target[:place]) == before
        and math.prod(target[place + 1 :]) == behind
    ]
    if not fits:
        raise Refusal(
            "the batch axis is mixed with others, so that its size cannot be left open",
            expected="a reshape that leaves the batch axis as it is",
            got=f"{shape} to {target}",
            hint="export with a fixed batch size: -batch N",
        )
    return axis if axis in fits else fits[0]


def _attribute(schema: defs.OpSchema, name: str, value: Any) -> onnx.AttributeProto:
    """Return the attribute with the type that the schema declares: 1 for a float becomes 1.0."""
    kind: Any = schema.attributes[name].type  # an enum, whose annotation lacks `name`
    match kind.name:
        case "FLOAT":
            value = float(value)
        case "INT":
            value = int(value)
        case "FLOATS":
            value = [float(item) for item in value]
        case "INTS":
            value = [int(item) for item in value]
        case "TENSOR" if not isinstance(value, onnx.TensorProto):
            value = numpy_helper.from_array(np.asarray(value))
    return helper.make_attribute(
        name, value, attr_type=onnx.AttributeProto.AttributeType.Value(kind.name)
    )


def _type_proto(dtype: np.dtype[Any], dims: Sequence[Dim] | None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), dims)


def _read_type(proto: onnx.TypeProto) -> tuple[tuple[Dim, ...] | None, np.dtype[Any]]:
    tensor = proto.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return (tuple(_read_dims(tensor.shape)) if tensor.HasField("shape") else None), dtype


def _read_dims(shape: onnx.TensorShapeProto) -> Iterator[Dim]:
    for dim in shape.dim:
        if dim.HasField("dim_value"):
            yield dim.dim_value
        else:
            yield dim.dim_param or None


def _sizes(dims: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """Return the dims if all of them are numbers."""
    if dims is None:
        return None
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    return sizes if len(sizes) == len(dims) else None
