"""`plan(graph, backend)`: run the passes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from netc.backends.base import Backend, Layout
from netc.graph.types import Graph
from netc.plan.choose import choose
from netc.plan.memory import assign, visible_blobs
from netc.plan.need import find_need, no_need
from netc.plan.types import Plan, Updates


def plan(
    graph: Graph,
    backend: Backend,
    *,
    train: bool = False,
    keep: Iterable[str] | str = (),
    updates: Updates = Updates.NONE,
    param_layouts: Mapping[int, Layout | None] | None = None,
    follow: Collection[int] = (),
) -> Plan:
    """Compile a graph for a backend.

    `train` plans the backward pass too. `keep` lists blob keys whose data must be readable after a
    pass, besides inputs and outputs; "all" keeps the data and diff of every blob. With `updates`
    other than NONE the backward pass has an `Update` for each param, behind which its gradient is
    gone, or kernels hand it over in pieces. `param_layouts` says how params lie that are there
    already, by index. `follow` lists nodes whose tops get the shapes that their forward pass finds:
    there whoever runs the plan may have to go on with another. Raises NetcError where a gradient
    cannot flow.
    """
    need = find_need(graph) if train else no_need(graph)
    keep_all = keep == "all"
    found = [key for index in follow for key in graph.nodes[index].tops]
    visible = visible_blobs(graph, found if isinstance(keep, str) else (*keep, *found))
    chains = () if keep_all else backend.chains()
    choices = choose(
        graph,
        backend,
        need,
        chains,
        visible,
        plain=frozenset(graph.blobs) if keep_all else visible,
        plain_params=keep_all,
        params=param_layouts or {},
        in_pieces=updates is Updates.PIECES,
    )
    memory = assign(
        graph, need, choices, visible, keep_all, updates is not Updates.NONE, frozenset(follow)
    )
    return Plan(
        graph=graph,
        train=train,
        keep_all=keep_all,
        follow=frozenset(follow),
        need=need,
        forward=memory.forward,
        backward=memory.backward,
        kernels=tuple(choice.kernel for choice in choices.choices),
        buffers=memory.buffers,
        storages=memory.storages,
        data=memory.data,
        diff=memory.diff,
        kept=memory.kept,
        param_diff=memory.param_diff,
        updated=memory.updated,
        param_layouts=choices.params,
        arena_bytes=memory.arena_bytes,
    )
