"""First pass: which layers run backward, and for which bottoms and params.

The rules are Caffe's (`Net::Init`): a gradient is computed where it leads from something in the
objective to a param with a rate, or where `propagate_down` or `force_backward` ask for it.
"""

from __future__ import annotations

from netc.errors import fail
from netc.graph.types import Graph
from netc.plan.types import Need


def find_need(graph: Graph) -> Need:
    """Return who needs a gradient.

    Raises NetcError where one would have to pass a layer that has none.
    """
    wanted_by_params = _towards_params(graph)
    runs, bottoms = _under_loss(graph, wanted_by_params)
    params = [
        tuple(
            runs[index] and (graph.force_backward or graph.params[use.param].lr_mult != 0)
            for use in node.params
        )
        for index, node in enumerate(graph.nodes)
    ]
    for index, node in enumerate(graph.nodes):
        possible = node.layer.gradient_bottoms(len(node.bottoms))
        if graph.force_backward:
            runs[index] = True
            bottoms[index] = possible
            params[index] = tuple(True for _ in node.params)
            continue
        for i, (want, can) in enumerate(zip(bottoms[index], possible, strict=True)):
            if want and not can:
                raise fail(
                    f"a gradient would have to flow into bottom '{node.bottoms[i]}', "
                    f"but {node.type} has none for it",
                    span=node.span,
                    layer=node.label,
                    expected="a bottom that no layer with a learning rate leads to",
                    got=f"'{node.bottoms[i]}', which depends on trained params",
                    hint="set propagate_down: false for this bottom if it is to stop here",
                )
    frozen = [
        tuple(
            want and not declared.frozen
            for want, declared in zip(wants, node.signature.params, strict=True)
        )
        for wants, node in zip(params, graph.nodes, strict=True)
    ]
    # A layer with neither a bottom nor a param to serve has nothing to compute.
    useful = tuple(
        run and (any(b) or any(p)) for run, b, p in zip(runs, bottoms, frozen, strict=True)
    )
    return Need(useful, tuple(bottoms), tuple(frozen))


def no_need(graph: Graph) -> Need:
    """Return the need of a net that only runs forward."""
    return Need(
        tuple(False for _ in graph.nodes),
        tuple((False,) * len(node.bottoms) for node in graph.nodes),
        tuple((False,) * len(node.params) for node in graph.nodes),
    )


def _towards_params(graph: Graph) -> list[tuple[bool, tuple[bool, ...]]]:
    """For each node: does its gradient serve a param at or before it.

    And which bottoms lead there?
    """
    needs_diff: dict[str, bool] = {}
    found = []
    for node in graph.nodes:
        leads = [needs_diff[key] for key in node.bottoms]
        if node.layer.stops_gradients:
            possible = node.layer.gradient_bottoms(len(leads))
            leads = [lead and can for lead, can in zip(leads, possible, strict=True)]
        trained = any(graph.params[use.param].lr_mult != 0 for use in node.params)
        bottoms = tuple(
            lead if said is None else said
            for lead, said in zip(leads, node.propagate_down, strict=True)
        )
        serves = any(leads) or trained
        found.append((serves, bottoms))
        needs_diff |= dict.fromkeys(node.tops, serves)
    return found


def _under_loss(
    graph: Graph, towards: list[tuple[bool, tuple[bool, ...]]]
) -> tuple[list[bool], list[tuple[bool, ...]]]:
    """Keep only what lies between the objective and the params."""
    under_loss: set[str] = {blob.key for blob in graph.loss_blobs}
    # A blob is wanted by the layers behind it as soon as one of them passes its gradient on.
    passed: set[str] = set(under_loss)
    runs = [False] * len(graph.nodes)
    bottoms: list[tuple[bool, ...]] = [()] * len(graph.nodes)
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        serves, wants = towards[index]
        contributes = any(key in under_loss for key in node.tops)
        receives = any(key in passed for key in node.tops)
        runs[index] = serves and contributes and receives
        bottoms[index] = tuple(runs[index] and want for want in wants)
        if contributes:
            under_loss.update(node.bottoms)
        passed.update(key for key, want in zip(node.bottoms, bottoms[index], strict=True) if want)
    return runs, bottoms
