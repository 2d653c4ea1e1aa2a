"""Third pass: a kernel for every unit, and with it the layout of every blob and param.

Going forward, the first kernel that writes a blob proposes how it lies in memory; later ones accept
that, or a reorder is inserted. A param lies as the first kernel that reads it wants it, for the
whole run. A diff lies as its blob does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netc.backends.base import Backend, Declined, Job, Kernel, Layout, Terms
from netc.graph.types import Graph
from netc.plan.chains import Unit, cut_again, units_of
from netc.plan.empty import empty
from netc.plan.types import Need


@dataclass(frozen=True, slots=True)
class Choice:
    """A unit with its kernel: the backend's name, and why the faster ones declined.

    Where nothing is computed, for inputs and data, there is no kernel.
    """

    unit: Unit
    kernel: Kernel | None
    backend: str
    declined: tuple[str, ...]
    terms: Terms


@dataclass(frozen=True, slots=True)
class Choices:
    """The answer of the pass. `blobs` and `params` say how they lie, None for C order."""

    choices: tuple[Choice, ...]
    blobs: dict[str, Layout | None]
    params: tuple[Layout | None, ...]


def choose(
    graph: Graph,
    backend: Backend,
    need: Need,
    chains: Sequence[tuple[str, ...]],
    visible: frozenset[str],
    *,
    plain: frozenset[str],
    plain_params: bool,
    params: Mapping[int, Layout | None],
    in_pieces: bool,
) -> Choices:
    """Choose kernels and layouts, and with them which layers run as one.

    `chains` may, unless somebody looks at a blob within: at a `visible` one. `plain` blobs lie in C
    order whatever the kernels want, and so do all params with `plain_params`; `params` gives the
    layouts of params that are there already. `in_pieces` allows kernels to hand over the gradient
    of a param that is theirs alone in pieces.
    """
    users = Counter(use.param for node in graph.nodes for use in node.params)
    pieces = frozenset(param for param, n in users.items() if in_pieces and n == 1)
    blobs: dict[str, Layout | None] = {}
    stored: dict[int, Layout | None] = dict(params)
    if plain_params:
        stored = dict.fromkeys(range(len(graph.params)), None)
    choices: list[Choice] = []
    waiting = units_of(graph, need, chains, visible)
    longest: dict[int, int] = {}
    while waiting:
        unit = waiting.pop(0)
        choice = _choose_one(graph, backend, unit, blobs, stored, pieces)
        if choice is None:
            # Nobody runs this chain as one.
            longest[unit.nodes[0]] = len(unit.nodes) - 1
            family = [unit, *(other for other in waiting if other.family == unit.family)]
            rest = [other for other in waiting if other.family != unit.family]
            parts = cut_again(graph, need, chains, visible, family, longest)
            waiting = sorted([*parts, *rest], key=lambda u: u.at)
            continue
        choices.append(choice)
        for key, layout in zip(unit.tops, choice.terms.tops, strict=True):
            blobs[key] = None if key in plain else layout
        for use, layout in zip(unit.params, choice.terms.params, strict=True):
            stored.setdefault(use.param, layout)
    choices.sort(key=lambda c: c.unit.at)
    return Choices(tuple(choices), blobs, tuple(stored.get(i) for i in range(len(graph.params))))


def _choose_one(
    graph: Graph,
    backend: Backend,
    unit: Unit,
    blobs: Mapping[str, Layout | None],
    stored: Mapping[int, Layout | None],
    pieces: frozenset[int],
) -> Choice | None:
    """Ask the backend, then its fallbacks; None for a chain that nobody runs as one."""
    nodes = tuple(graph.nodes[index] for index in unit.nodes)
    layer = nodes[0].layer
    if layer.fed or layer.reads_data:
        terms = Terms((), (None,) * len(unit.tops), (), nodes[0].kept)
        return Choice(unit, None, "reference", (), terms)
    if layer.writes_data:
        terms = Terms((None,) * len(unit.bottoms), (), (), ())
        return Choice(unit, None, "reference", (), terms)
    job = Job(
        nodes=nodes,
        bottoms=tuple(graph.blobs[key].shape for key in unit.bottoms),
        tops=tuple(graph.blobs[key].shape for key in unit.tops),
        layouts=tuple(blobs[key] for key in unit.bottoms),
        params=tuple(
            # Two layers that see a param in different shapes can only share it in C order.
            (None if use.shape != graph.params[use.param].shape else stored.get(use.param, ""))
            for use in unit.params
        ),
        train=unit.runs,
        wants_bottoms=unit.wants_bottoms,
        wants_params=unit.wants_params,
        pieces=tuple(use.param in pieces for use in unit.params),
    )
    if nothing := empty(job):
        if len(nodes) > 1:
            return None
        return Choice(unit, nothing, "none", (), nothing.terms)
    declined: list[str] = []
    for candidate in backend.candidates():
        if len(nodes) > 1 and candidate is not backend:
            return None
        answer = candidate.kernel_for(job)
        if not isinstance(answer, Declined):
            return Choice(unit, answer, candidate.name, tuple(declined), answer.terms)
        declined.append(f"{candidate.name}: {answer.reason}")
    if len(nodes) > 1:
        return None
    raise AssertionError(f"no backend has a kernel for {nodes[0].label}; the reference has all")
