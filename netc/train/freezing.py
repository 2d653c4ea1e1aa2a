"""Which layers are trained, from which iteration on, and how fast: by patterns of layer names.

    Wishes      what the user says: freeze, unfreeze, rates
    Schedule    what that means for a net, checked; `applied(graph, iter)` is the net at an iter

A frozen layer changes in no way. Its params have no rate and no decay, so that the plan computes no
gradient for them, and none for what lies below the lowest layer that is trained; a layer of
statistics (BatchNorm) uses those it has instead of gathering more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from netc.errors import Problem, Problems, Span
from netc.graph.types import Graph, Node
from netc.patterns import matches, selected, unmatched
from netc.schema import Source, netc_pb2
from netc.schema.printing import shortest
from netc.train.settings import SolverSettings


@dataclass(frozen=True, slots=True)
class Freeze:
    """Layers that are not trained; `!conv1` takes one out again. `span` is the place that says so.

    None for the command line.
    """

    layer: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Unfreeze:
    """Frozen layers that are trained from an iteration on."""

    layer: str
    iter: int
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Layers whose rate is multiplied."""

    layer: str
    lr_mult: float
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """All that the user says about what is trained; of lines that match a layer the last counts."""

    freeze: tuple[Freeze, ...] = ()
    unfreeze: tuple[Unfreeze, ...] = ()
    rates: tuple[Rate, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.freeze or self.unfreeze or self.rates)

    def __add__(self, more: Wishes) -> Wishes:
        return Wishes(
            self.freeze + more.freeze, self.unfreeze + more.unfreeze, self.rates + more.rates
        )

    @classmethod
    def of(cls, settings: SolverSettings, source: Source[netc_pb2.SolverParameter]) -> Wishes:
        """Return what a solver file says."""
        place = source.span
        return cls(
            tuple(Freeze(f, place("freeze", i)) for i, f in enumerate(settings.freeze)),
            tuple(
                Unfreeze(u.layer, u.iter, place("unfreeze", i))
                for i, u in enumerate(settings.unfreeze)
            ),
            tuple(
                Rate(r.layer, r.lr_mult, place("layer_rate", i))
                for i, r in enumerate(settings.layer_rate)
            ),
        )

    def put_into(self, message: netc_pb2.FineTuning) -> None:
        """Write them into the message of a snapshot."""
        message.freeze.extend(wish.layer for wish in self.freeze)
        for unfreeze in self.unfreeze:
            message.unfreeze.add(layer=unfreeze.layer, iter=unfreeze.iter)
        for rate in self.rates:
            message.layer_rate.add(layer=rate.layer, lr_mult=rate.lr_mult)

    @classmethod
    def taken_from(cls, message: netc_pb2.FineTuning) -> Wishes:
        """Return what `put_into` wrote."""
        return cls(
            tuple(map(Freeze, message.freeze)),
            tuple(Unfreeze(u.layer, u.iter) for u in message.unfreeze),
            tuple(Rate(r.layer, shortest(r.lr_mult)) for r in message.layer_rate),
        )


AS_TEXT = Wishes()
"""Nothing: all is trained as the text of the net says."""


class Schedule:
    """What the wishes mean for a net. Raises one NetcError with all that is wrong with them."""

    def __init__(self, graph: Graph, wishes: Wishes, max_iter: int = 0) -> None:
        """`max_iter` 0 means that the end is not known."""
        self._wishes = wishes
        self._max_iter = max_iter
        self._names = list(dict.fromkeys(node.name for node in graph.nodes))
        self._learning = _names(node for node in graph.nodes if _learns(graph, node))
        self._freezable = _names(
            node
            for node in graph.nodes
            if _learns(graph, node) or node.layer.settled() != node.layer
        )
        #: The frozen layers, each with the iteration from which on it is trained, None for never.
        self.until: dict[str, int | None] = {}
        #: The factors of the rates, by layer.
        self.factors: dict[str, float] = {}
        self._problems = Problems()
        self._freeze()
        self._unfreeze()
        self._rate()
        self._check_sharing(graph)
        self._check_rest(graph)
        self._problems.raise_any()
        #: The iterations at which something changes.
        self.changes = tuple(sorted({at for at in self.until.values() if at is not None}))

    def frozen(self, iteration: int) -> tuple[str, ...]:
        """Return the layers that are not trained at an iteration, in the order of the net."""
        return tuple(
            name for name, until in self.until.items() if until is None or iteration < until
        )

    def stage(self, iteration: int) -> int:
        """Return how many of the changes are behind us at an iteration."""
        return sum(at <= iteration for at in self.changes)

    def applied(self, graph: Graph, iteration: int) -> Graph:
        """Return the net as it is trained at an iteration: the same layers, blobs and params."""
        frozen = set(self.frozen(iteration))
        params = list(graph.params)
        nodes = []
        for node in graph.nodes:
            for use in node.params:
                param = graph.params[use.param]
                if node.name in frozen:
                    params[use.param] = replace(param, lr_mult=0.0, decay_mult=0.0)
                elif node.name in self.factors:
                    factor = self.factors[node.name]
                    params[use.param] = replace(param, lr_mult=param.lr_mult * factor)
            nodes.append(_settled(graph, node) if node.name in frozen else node)
        return replace(graph, nodes=tuple(nodes), params=tuple(params))

    def describe(self) -> Iterator[str]:
        """Yield lines for the log."""
        for at in (None, *self.changes):
            names = [name for name, until in self.until.items() if until == at]
            if names:
                when = "" if at is None else f" before iteration {at}"
                yield f"Not trained{when}: {', '.join(names)}"
        for factor in sorted(set(self.factors.values())):
            names = [name for name, own in self.factors.items() if own == factor]
            yield f"Trained at {factor:g} times the rate: {', '.join(names)}"

    # -- checks ------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        for wish in self._wishes.freeze:
            pattern = wish.layer
            if pattern.startswith("!") and pattern not in self._names:
                pattern = pattern[1:]
            self._known(pattern, wish.span, self._freezable, "nothing to freeze")
        patterns = [wish.layer for wish in self._wishes.freeze]
        self.until = dict.fromkeys(selected(patterns, self._freezable))
        if patterns and not self.until and not self._problems:
            self._add(
                self._wishes.freeze[-1].span,
                "all frozen layers are taken out again",
                "freeze lines that leave something frozen",
                ", ".join(patterns),
                "the last line that matches a layer counts",
            )

    def _unfreeze(self) -> None:
        for wish in self._wishes.unfreeze:
            if not self._known(wish.layer, wish.span, self._freezable, "nothing to freeze"):
                continue
            names = [name for name in self.until if matches(wish.layer, name)]
            if not names:
                self._add(
                    wish.span,
                    f"unfreeze: '{wish.layer}' matches no layer that is frozen",
                    "a layer that freeze matches: " + (_some(list(self.until)) or "none is frozen"),
                    f"'{wish.layer}'",
                    f'add freeze: "{wish.layer}"',
                )
            elif wish.iter < 1:
                self._add(
                    wish.span,
                    f"unfreeze: '{wish.layer}' would be frozen at no iteration",
                    "iter >= 1, the iteration from which on the layers are trained",
                    wish.iter,
                    "leave the layers out of freeze, or say iter: 1000",
                )
            elif self._max_iter and wish.iter >= self._max_iter:
                self._add(
                    wish.span,
                    f"unfreeze: the run ends before '{wish.layer}' is trained",
                    f"iter < {self._max_iter}, which is max_iter",
                    wish.iter,
                )
            self.until |= dict.fromkeys(names, wish.iter)

    def _rate(self) -> None:
        said: dict[str, Rate] = {}
        for wish in self._wishes.rates:
            if not self._known(wish.layer, wish.span, self._learning, "no rate"):
                continue
            if not 0 < wish.lr_mult < float("inf"):
                self._add(
                    wish.span,
                    f"the rate of '{wish.layer}' is no positive factor",
                    "lr_mult > 0",
                    f"{wish.lr_mult:g}",
                    f'freeze: "{wish.layer}" is how a layer is not trained' * (not wish.lr_mult),
                )
            said |= {name: wish for name in self._learning if matches(wish.layer, name)}
        for wish in self._wishes.rates:
            names = [name for name in self._learning if matches(wish.layer, name)]
            counts = [name for name in names if said[name] is wish]
            if names and not counts:
                self._add(
                    wish.span,
                    f"the rate of '{wish.layer}' has no effect",
                    "lines from the general to the special: the last that matches a layer counts",
                    "later lines for " + _some(names),
                )
            elif names and all(self.until.get(name, 0) is None for name in counts):
                self._add(
                    wish.span,
                    f"'{wish.layer}' is given a rate, and is frozen",
                    "one of freeze and layer_rate for a layer",
                    "frozen for the whole run: " + _some(counts),
                    f'unfreeze {{ layer: "{wish.layer}" iter: 1000 }} trains it from then on',
                )
        self.factors = {name: wish.lr_mult for name, wish in said.items()}

    def _check_sharing(self, graph: Graph) -> None:
        users: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for use in node.params:
                users.setdefault(use.param, []).append(node)
        for nodes in users.values():
            first, *others = nodes
            for other in others:
                if self._said(first.name) != self._said(other.name):
                    self._problems.add(
                        Problem(
                            "two layers share a param and are treated differently",
                            other.span,
                            other.label,
                            expected=f"the same as for '{first.name}': {self._said(first.name)}",
                            got=self._said(other.name),
                        )
                    )

    def _said(self, name: str) -> str:
        if name in self.until:
            until = self.until[name]
            return "not trained" + ("" if until is None else f" before iteration {until}")
        return f"trained at {self.factors.get(name, 1):g} times the rate"

    def _check_rest(self, graph: Graph) -> None:
        if self._problems or not self.until:
            return
        frozen = set(self.frozen(0))
        if not any(name not in frozen for name in self._learning):
            self._add(
                self._wishes.freeze[-1].span,
                "all layers are frozen: nothing would be trained",
                "a layer that learns from iteration 0 on",
                _some(self._learning),
                f'freeze: "!{self._learning[-1]}" takes the last one out' if self._learning else "",
            )

    def _known(self, pattern: str, span: Span | None, having: Sequence[str], lack: str) -> bool:
        """Say whether a pattern matches a layer that has something; note it where it does not."""
        if any(matches(pattern, name) for name in having):
            return True
        found = [name for name in self._names if matches(pattern, name)]
        if not found:
            self._problems.add(unmatched(pattern, having, "of the net", span))
        else:
            self._add(
                span,
                f"the layers that '{pattern}' matches have {lack}",
                "layers that learn: " + _some(having),
                _some(found),
            )
        return False

    def _add(
        self, span: Span | None, what: str, expected: str, got: object, hint: str = ""
    ) -> None:
        self._problems.add(Problem(what, span, "", expected, str(got), hint))


def _learns(graph: Graph, node: Node) -> bool:
    return any(
        not declared.frozen and graph.params[use.param].lr_mult
        for use, declared in zip(node.params, node.signature.params, strict=True)
    )


def _settled(graph: Graph, node: Node) -> Node:
    """Return a node with its layer as it is while frozen."""
    layer = node.layer.settled()
    if layer == node.layer:
        return node
    found = layer.infer(*(graph.blobs[key].type for key in node.bottoms))
    return replace(node, layer=layer, signature=replace(found, tops=node.signature.tops))


def _names(nodes: Iterator[Node]) -> list[str]:
    return list(dict.fromkeys(node.name for node in nodes))


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
