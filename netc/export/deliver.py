"""From a net and its weights files to a file of ONNX that has been proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from netc.backends.base import Backend
from netc.errors import NetcError, Span, fail
from netc.export.forward import Forward
from netc.export.model import export, provenance, save
from netc.export.names import Interface
from netc.export.proof import Draw, Parity, Regions, parity
from netc.graph.deploy import deploy, select
from netc.graph.discrete import discrete_blobs, region_blobs
from netc.graph.types import Graph
from netc.learned import read_params
from netc.weights import Fate, check_writable

# Whole numbers that are good for whatever reads them: a flag, an index into two or more.
_WHOLE = Draw(0, 2, whole=True)


def deliver(
    graph: Graph,
    weights: Sequence[str],
    output: Path,
    backend: Backend,
    *,
    outputs: Sequence[str] = (),
    opset: int | None = None,
    batch: int | Literal["dynamic"] | None = None,
    fill: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Parity:
    """Write the net that `graph` deploys to as ONNX, and return how it compares with netc's own.

    `graph` is the TEST graph of a file. `outputs` names the blobs to give out, all others that the
    outputs do not need are left out. `batch` is as for `export`, but where the text reads data
    (whose batch size is training's business) None leaves it open. `fill` fills by their fillers the
    layers that the weights lack, which otherwise are an error. `tell` gets lines that say what is
    written.

    What does not agree is not written: an earlier file then stays as it was. Raises NetcError for
    whatever else stands in the way.
    """
    _refuse_sources(output, [graph.file, *weights])
    check_writable(output)
    if batch is None and any(n.layer.is_source() and not n.layer.fed for n in graph.nodes):
        batch = "dynamic"
    graph = deploy(graph)
    if outputs:
        graph = select(graph, outputs)
    params, match = read_params(graph, weights, fill=fill)
    tell(f"weights: {match.summary()}")
    for row in match.of(Fate.FRESH):
        tell(f"  layer '{row.name}' is filled by its filler")
    model = export(
        graph,
        params,
        opset=opset,
        batch=batch,
        metadata=provenance(Path(graph.file), [Path(file) for file in weights]),
    )
    tell(f"opset {model.opset_import[0].version}, inputs {_described(model.graph.input)}")
    ends = Interface.of(graph)
    whole, regions = discrete_blobs(graph), region_blobs(graph)
    draws: dict[str, Draw | Regions] = {
        name: Regions(*regions[key]) if key in regions else _WHOLE
        for key, name in ends.inputs.items()
        if key in regions or key in whole
    }
    proof = parity(model, Forward(graph, params, backend), draws=draws)
    if proof.ok:
        save(model, output)
    return proof


def mismatch(proof: Parity, output: Path) -> NetcError:
    """Return the error that tells of a proof that failed."""
    wrong = [o for o in proof.outputs if not o.ok]
    return fail(
        f"{', '.join(repr(o.name) for o in wrong)}: ONNX Runtime and netc do not agree",
        expected="the same numbers within the tolerance above",
        got="\n".join(f"{o.name}: off by {o.max_abs:.2e} at {o.case}" for o in wrong),
        hint=f"{output} was not written; this is a mistake of netc or of ONNX Runtime, not yours: "
        "please report it with the net",
    )


def _refuse_sources(output: Path, sources: Sequence[str]) -> None:
    for source in sources:
        if _is_same(output, source):
            raise fail(
                "the output would replace what it is made from",
                span=Span(str(output)),
                expected="-output with a name of its own, such as "
                f"{Path(source).with_suffix('.onnx').name}",
            )


def _is_same(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, or has an impossible name
        return False


def _described(values: Sequence[Any]) -> str:
    dims = [(value.name, value.type.tensor_type.shape.dim) for value in values]
    return ", ".join(
        f"{name} ({', '.join(d.dim_param or str(d.dim_value) for d in shape)})"
        for name, shape in dims
    )
