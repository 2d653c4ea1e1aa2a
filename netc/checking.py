"""Every mistake in nets and solvers that can be found without running them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from netc.assemble import shaped
from netc.errors import NetcError, Problem, Span, in_order, nearest
from netc.graph.build import NetState, net_state
from netc.layers.registry import layer_types
from netc.layers.types import CodeHost, Phase
from netc.plan.need import find_need
from netc.report.problems import FileReport
from netc.schema import Source, netc_pb2, read_net, read_solver, resolve
from netc.schema.kinds import is_solver
from netc.train.detection import check_detection
from netc.train.finetuning import schedule_of
from netc.train.nets import SolverNet, solver_nets
from netc.train.settings import SolverSettings, idle_settings, read_settings
from netc.weights.transfer import read_renames

T = TypeVar("T")
_Solver = tuple[SolverSettings, Source[netc_pb2.SolverParameter]]


def check(
    files: Sequence[str],
    *,
    level: int = 0,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    host: CodeHost | None = None,
) -> list[FileReport]:
    """Check the text, the layers and the settings of nets and solvers, told apart by content.

    A net is built for each phase that its text speaks of, a solver with all of its nets; `level`
    and `stages` are compared with include and exclude rules. Absent data is no problem where
    `shapes` (by blob name) or the settings tell its shape. `host` allows the code of Python layers
    to run. A mistake is in one report only, the first of a file that leads to it.
    """
    told: set[object] = set()
    blobs: set[str] = set()
    all_built = True
    reports = []
    for file in files:
        one = _FileCheck(file, level, tuple(stages), shapes or {}, host)
        summary = one.run()
        blobs |= one.blobs
        all_built &= bool(one.blobs)
        # In two phases the shapes in a message may differ; the mistake is one.
        problems = {_identity(problem): problem for problem in reversed(in_order(one.problems))}
        fresh = [p for key, p in reversed(problems.items()) if key not in told]
        old = [p.span.file for key, p in problems.items() if key in told and p.span]
        told.update(problems)
        reports.append(
            FileReport(
                file,
                tuple(fresh),
                tuple(dict.fromkeys(one.notes)),
                "" if problems else summary,
                tuple(sorted(set(old))),
            )
        )
    if all_built:
        reports += [_no_such_blob(name, blobs) for name in shapes or {} if name not in blobs]
    return reports


def _identity(problem: Problem) -> object:
    span = problem.span or Span("")
    # Two ways to name a file are one file.
    file = os.path.realpath(span.file)
    return file, span.line, span.column, problem.layer, problem.what


def _no_such_blob(name: str, blobs: Iterable[str]) -> FileReport:
    what = f"a shape is given for blob '{name}', which no net has as an input or as data"
    return FileReport("", (Problem(what, got=f"-shape {name}=...", hint=nearest(name, blobs)),))


class _FileCheck:
    """The check of one file. `blobs` are those whose shape somebody may set."""

    def __init__(
        self,
        file: str,
        level: int,
        stages: tuple[str, ...],
        shapes: Mapping[str, Sequence[int]],
        host: CodeHost | None,
    ) -> None:
        self.file = file
        self.host = host
        self.level = level
        self.stages = stages
        self.shapes = shapes
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.blobs: set[str] = set()

    def run(self) -> str:
        """Find everything; return what the file holds."""
        return self._solver() if is_solver(self.file) else self._net()

    def _net(self) -> str:
        source = self._attempt(partial(read_net, self.file))
        if source is None:
            return ""
        self.notes += [f"{self.file}: {change}" for change in source.upgraded]
        states = [
            net_state(source.message, phase, self.level, self.stages)
            for phase in _phases(source.message)
        ]
        fed = [state for state in states if _sources(source.message, state)]
        if fed:
            for state in states:
                if state not in fed:
                    self.notes.append(
                        f"{self.file}: not checked for {state.phase.name}, where its rules exclude "
                        "every layer that data could come from (-stage or -level may bring one in)"
                    )
            states = fed
        return self._graphs([SolverNet(source, state) for state in states])

    def _solver(self) -> str:
        source = self._attempt(partial(read_solver, self.file))
        if source is None:
            return ""
        self.notes += [f"{self.file}: {change}" for change in source.upgraded]
        settings = self._attempt(partial(read_settings, source))
        if settings:
            self.notes += idle_settings(source, settings)
        for i, path in enumerate(source.message.weights):
            self._attempt(partial(resolve, path, source.span("weights", i)))
        if settings and settings.rename_file:
            names = self._attempt(
                partial(resolve, settings.rename_file, source.span("rename_file"))
            )
            if names:
                self._attempt(partial(read_renames, names))
        nets = self._attempt(partial(solver_nets, source, self.level, self.stages))
        solver = (settings, source) if settings else None
        content = self._graphs(nets, solver) if nets else ""
        return f"{settings.type} solver, {content}" if settings else ""

    def _graphs(self, nets: Sequence[SolverNet], solver: _Solver | None = None) -> str:
        """Build every net in its state, and look whether its gradients can flow.

        And whether a solver can train the first as it says, and test the others.
        """
        sizes: dict[str, int] = {}
        for net in nets:
            source, state = net.source, net.state
            layers = [layer for layer in source.message.layer if state.includes(layer)]
            sizes.setdefault(state.phase.name, len(layers))
            tops = {top for layer in layers if not layer.bottom for top in layer.top}
            self.blobs |= tops
            given = {name: shape for name, shape in self.shapes.items() if name in tops}
            graph = self._attempt(
                partial(
                    shaped,
                    source,
                    state,
                    shapes=given,
                    assume=True,
                    leave_open=True,
                    host=self.host,
                )
            )
            if graph is None:
                continue
            self.notes += graph.notes
            if solver and net is not nets[0]:
                self._attempt(partial(check_detection, solver[0], graph))
            # Where data is absent, layers may be missing that patterns would match.
            elif solver and {layer.name for layer in layers} <= {n.name for n in graph.nodes}:
                self._attempt(partial(schedule_of, *solver, graph))
            if graph.loss_blobs or graph.force_backward:
                self._attempt(partial(find_need, graph))
        self._note_unreached(nets)
        return f"net '{nets[0].source.message.name}', {_sizes(sizes, nets)}"

    def _note_unreached(self, nets: Sequence[SolverNet]) -> None:
        """Name the layers that no state includes: nothing was found out about them."""
        states: dict[int, list[NetState]] = {}
        sources = {id(net.source): net.source for net in nets}
        for net in nets:
            states.setdefault(id(net.source), []).append(net.state)
        for key, source in sources.items():
            for i, layer in enumerate(source.message.layer):
                if not any(state.includes(layer) for state in states[key]):
                    self.notes.append(
                        f"{source.span('layer', i)}: layer '{layer.name}' ({layer.type}) was not "
                        "checked: its rules exclude it (-stage or -level may bring it in)"
                    )

    def _attempt(self, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except NetcError as error:
            self.problems += error.problems
            return None


def _phases(net: netc_pb2.NetParameter) -> tuple[Phase, ...]:
    """Return the phases to check: both where a rule asks for one, else the net's own.

    Of a net for use, which speaks of TEST alone, it is TEST: nobody opens it for another phase.
    """
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    asked = {Phase(rule.phase) for rule in rules if rule.HasField("phase")}
    if asked == {Phase.TEST} and _is_for_use(net):
        return (Phase.TEST,)
    return (Phase.TRAIN, Phase.TEST) if asked else (Phase(net.state.phase),)


def _is_for_use(net: netc_pb2.NetParameter) -> bool:
    """Tell whether the caller sets all data of a net, and nothing in it is minimised."""
    kinds = layer_types()
    known = [(layer, kinds[layer.type].cls) for layer in net.layer if layer.type in kinds]
    sources = [cls for layer, cls in known if layer.top and not layer.bottom]
    return all(cls.fed for cls in sources) and not any(cls.loss for _, cls in known)


def _sources(net: netc_pb2.NetParameter, state: NetState) -> list[str]:
    """Return the names of the layers that a net's data could come from in a state.

    Many nets are for training only, or for testing only, and still have a rule that speaks of the
    other phase: there they have no data, and nobody opens them.
    """
    return [
        layer.name
        for layer in net.layer
        if layer.top and not layer.bottom and state.includes(layer)
    ]


def _sizes(sizes: Mapping[str, int], nets: Sequence[SolverNet]) -> str:
    if len(set(sizes.values())) > 1:
        return ", ".join(f"{phase} {n} layers" for phase, n in sizes.items())
    n = next(iter(sizes.values()))
    layers = f"{n} layer{'' if n == 1 else 's'}"
    return f"{layers}, {' and '.join(sizes)}" if len(nets) > 1 else layers
