"""Nets as pictures: `draw_net_to_file(net, "net.png")` for a NetParameter.

PNG, SVG and Graphviz's DOT are drawn by netc itself; other forms, and `get_pydot_graph`, need the
package pydot (or pydotplus) and Graphviz. `netc draw` shows more: the shapes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from netc.errors import fail
from netc.layers import registry
from netc.pycaffe.errors import RuntimeMistake, ValueMistake, mistake
from netc.report.diagram import DIRECTIONS, Arrow, Box, Diagram, Kind
from netc.report.picture import FORMS
from netc.schema import netc_pb2
from netc.schema.upgrade import upgrade_net

Net = netc_pb2.NetParameter
LayerMessage = netc_pb2.LayerParameter

# A type's parameter message -> what it does.
_KINDS = {
    "convolution_param": Kind.LEARNS,
    "inner_product_param": Kind.LEARNS,
    "pooling_param": Kind.WINDOW,
}


def get_pooling_types_dict() -> dict[int, str]:
    """Return the names of the ways to pool, by number."""
    return dict(map(reversed, netc_pb2.PoolingParameter.PoolMethod.items()))  # type: ignore[arg-type]


def get_edge_label(layer: LayerMessage) -> str:
    """Return what an arrow from a layer says: the number of its outputs, or of its images."""
    if layer.HasField("data_param"):
        return f"Batch {layer.data_param.batch_size}"
    for name in ("convolution_param", "inner_product_param"):
        if layer.HasField(name):
            return str(getattr(layer, name).num_output)
    return ""


def get_layer_lr_mult(layer: LayerMessage) -> tuple[float, float]:
    """Return the learning rate multipliers of a layer's weights and bias.

    Raises ValueError, in netc's words, for a layer that has no weights of its own.
    """
    if not any(layer.HasField(name) for name in ("convolution_param", "inner_product_param")):
        raise mistake(
            ValueMistake,
            f"{layer.type} layers do not have a learning rate multiplier",
            expected="a layer with convolution_param or inner_product_param",
            got=f"layer '{layer.name}'",
        )
    given = [param.lr_mult for param in layer.param]
    weight, bias = (*given, *(1.0,) * (2 - len(given)))[:2]
    return weight, bias


def get_layer_label(layer: LayerMessage, rankdir: str, display_lrm: bool = False) -> str:
    """Return the text of a layer's box: name, type, kernel, and `display_lrm` the multipliers.

    In one line for a drawing from top to bottom, which has room beside it.
    """
    separator = " " if rankdir in ("TB", "BT") else "\n"
    return separator.join(_lines(layer, display_lrm))


def choose_color_by_layertype(layertype: str) -> str:
    """Return the colour of a layer type's boxes, as #rrggbb."""
    kind = registry.layer_types().get(layertype)
    if kind is None:
        return Kind.OTHER.value
    if kind.cls.reads_data or kind.cls.fed:
        return Kind.DATA.value
    if kind.cls.loss:
        return Kind.LOSS.value
    return next((_KINDS[name] for name in kind.params if name in _KINDS), Kind.OTHER).value


def draw_net(
    caffe_net: Net,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """Return the picture of a net, of its layers in one phase or all of them.

    `rankdir` is TB (from top to bottom), LR, BT or RL; `ext` is png, svg, dot or raw (both DOT), or
    what Graphviz knows besides where it is installed.
    """
    if rankdir not in DIRECTIONS:
        raise fail(
            "this is not a direction", expected=f"one of {', '.join(DIRECTIONS)}", got=repr(rankdir)
        )
    form = "dot" if ext == "raw" else ext
    if form in FORMS:
        return FORMS[form](_diagram(caffe_net, phase, display_lrm), rankdir)
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    try:
        picture: bytes = graph.create(format=ext)
    except Exception as error:  # Each version of pydot has classes of its own for this.
        raise mistake(
            RuntimeMistake,
            f"Graphviz cannot draw a file of the form '{ext}'",
            expected=f"{', '.join(FORMS)}, or a form that the program `dot` knows",
            got=str(error),
        ) from error
    return picture


def draw_net_to_file(
    caffe_net: Net,
    filename: str,
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write the picture that `draw_net` gives for the ending of a file's name."""
    form = filename.rpartition(".")[2]
    picture = draw_net(caffe_net, rankdir, form, phase, display_lrm)
    with open(filename, "wb") as file:
        file.write(picture)


def get_pydot_graph(
    caffe_net: Net,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Any:
    """Return a net as a graph of pydot's, of layers and blobs.

    Raises NetcError where neither pydotplus nor pydot is installed.
    """
    pydot = _pydot()
    graph = pydot.Dot(caffe_net.name or "Net", graph_type="digraph", rankdir=rankdir)
    blobs: dict[str, None] = {}
    for number, layer in enumerate(_layers(caffe_net, phase)):
        node = f"layer{number}"
        label = get_layer_label(layer, rankdir, display_lrm)
        colour = choose_color_by_layertype(layer.type)
        graph.add_node(_node(pydot, node, label, "record", colour))
        for name in (*layer.bottom, *layer.top):
            if name not in blobs:
                graph.add_node(_node(pydot, _blob(name), name, "octagon", "#E0E0E0"))
                blobs[name] = None
        for name in layer.bottom:
            graph.add_edge(pydot.Edge(_blob(name), node))
        said = get_edge_label(layer) if label_edges else ""
        for name in layer.top:
            graph.add_edge(pydot.Edge(node, _blob(name), label=_quoted(said)))
    return graph


def _pydot() -> Any:
    for name in ("pydotplus", "pydot"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise mistake(
        RuntimeMistake,
        "pydot is not installed, with which graphs for Graphviz are made",
        expected=f"the package pydot; draw_net does without for {', '.join(FORMS)}",
        got="neither pydotplus nor pydot",
        hint='pip install "netc[draw]", and Graphviz for its pictures',
    )


def _node(pydot: Any, name: str, label: str, shape: str, colour: str) -> Any:
    return pydot.Node(
        name, label=_quoted(label), shape=shape, style="filled", fillcolor=f'"{colour}"'
    )


def _blob(name: str) -> str:
    return _quoted(f"{name}_blob")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _layers(caffe_net: Net, phase: int | None) -> Iterator[LayerMessage]:
    """Yield the layers of a net in a phase, of old nets in today's form."""
    net, _ = upgrade_net(caffe_net) if caffe_net.layers else (caffe_net, [])
    for layer in net.layer:
        if phase is not None:
            if layer.include and layer.exclude:
                raise mistake(
                    ValueMistake,
                    f"layer {layer.name} has both include and exclude specified.",
                    expected="include rules or exclude rules, not both",
                )
            here = [
                not rule.HasField("phase") or rule.phase == phase
                for rule in (*layer.include, *layer.exclude)
            ]
            if here and any(here) != bool(layer.include):
                continue
        yield layer


def _lines(layer: LayerMessage, display_lrm: bool) -> list[str]:
    what = layer.type
    kernel: list[str] = []
    if layer.HasField("pooling_param"):
        pooling = layer.pooling_param
        what += f" {get_pooling_types_dict()[pooling.pool]}"
        if not pooling.global_pooling:
            kernel = _kernel(pooling.kernel_size, pooling.stride, pooling.pad)
    elif layer.HasField("convolution_param"):
        windows = layer.convolution_param
        kernel = _kernel(
            *(
                next(iter(values), default)
                for values, default in (
                    (windows.kernel_size, 1),
                    (windows.stride, 1),
                    (windows.pad, 0),
                )
            )
        )
    lines = [layer.name, f"({what})", *kernel]
    if display_lrm and any(
        layer.HasField(name) for name in ("convolution_param", "inner_product_param")
    ):
        weight, bias = get_layer_lr_mult(layer)
        if weight or bias:
            lines.append(f"lr mult: {weight:.1f}, {bias:.1f}")
    return lines


def _kernel(size: int, stride: int, pad: int) -> list[str]:
    return [f"kernel size: {size}", f"stride: {stride}", f"pad: {pad}"]


def _diagram(caffe_net: Net, phase: int | None, display_lrm: bool) -> Diagram:
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    writer: dict[str, tuple[int, str]] = {}
    for layer in _layers(caffe_net, phase):
        number = len(boxes)
        colour = choose_color_by_layertype(layer.type)
        in_place = [*layer.bottom] == [*layer.top] and len(layer.top) == 1
        kind = Kind.ELEMENTWISE if in_place else Kind(colour)
        boxes.append(Box(tuple(_lines(layer, display_lrm)), kind))
        for name in dict.fromkeys(layer.bottom):
            if name in writer:
                source, said = writer[name]
                arrows.append(Arrow(source, number, said))
        for name in layer.top:
            writer[name] = number, get_edge_label(layer)
    title = caffe_net.name or "Net"
    return Diagram(title, tuple(boxes), tuple(arrows))
