"""The nets that a solver file names: one to train, one for each test_iter, each with its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.errors import NetcError, Problem, Problems
from netc.graph.build import NetState
from netc.layers.types import Phase
from netc.schema import Source, netc_pb2, read_net, resolve

_TRAINING = ("net", "net_param", "train_net", "train_net_param")


@dataclass(frozen=True, slots=True)
class SolverNet:
    """A net's text, and the state in which the solver runs it."""

    source: Source[netc_pb2.NetParameter]
    state: NetState


def solver_nets(
    source: Source[netc_pb2.SolverParameter], level: int = 0, stages: Sequence[str] = ()
) -> tuple[SolverNet, ...]:
    """Return the training net, then the test nets in Caffe's order: inline, in files, the same net.

    `level` and `stages` are merged into the training state, as Caffe's command line does. Raises
    one NetcError with all that is wrong with the nets' texts, or with how the solver names them.
    """
    return _Nets(source).find(level, stages)


class _Nets:
    def __init__(self, source: Source[netc_pb2.SolverParameter]) -> None:
        self.source = source
        self.message = source.message
        self.problems = Problems()

    def find(self, level: int, stages: Sequence[str]) -> tuple[SolverNet, ...]:
        given = [name for name in _TRAINING if self.message.HasField(name)]
        if len(given) != 1:
            self._add(
                given[1] if given else "",
                "a solver needs exactly one training net",
                "one of " + ", ".join(_TRAINING),
                " and ".join(given) or "none",
                "" if given else 'add net: "train_test.prototxt"',
            )
        train = self._open(given[0]) if given else None
        message = self.message
        tests = [self.source.sub("test_net_param", i) for i in range(len(message.test_net_param))]
        for i in range(len(message.test_net)):
            test = self._open("test_net", i)
            if test:
                tests.append(test)
        self._check_numbers(given[0] if given else "")
        self.problems.raise_any()
        assert train
        tests += [train] * (len(message.test_iter) - len(tests))
        asked = netc_pb2.NetState(stage=stages)
        if level:
            asked.level = level
        state = merged(Phase.TRAIN, train.message.state, message.train_state, asked)
        found = [SolverNet(train, state)]
        for i, test in enumerate(tests):
            own = message.test_state[i] if message.test_state else netc_pb2.NetState()
            found.append(SolverNet(test, merged(Phase.TEST, test.message.state, own)))
        return tuple(found)

    def _open(self, name: str, index: int | None = None) -> Source[netc_pb2.NetParameter] | None:
        if name.endswith("_param"):
            return self.source.sub(name)
        value = getattr(self.message, name)
        path, place = (value, (name,)) if index is None else (value[index], (name, index))
        try:
            return read_net(resolve(path, self.source.span(*place)))
        except NetcError as error:
            self.problems.add(error)
            return None

    def _check_numbers(self, training: str) -> None:
        message, wanted = self.message, len(self.message.test_iter)
        n_tests = len(message.test_net) + len(message.test_net_param)
        own = training in ("net", "net_param")
        if n_tests > wanted or (n_tests < wanted and not own):
            self._add(
                "test_iter",
                "the numbers of test nets and of test_iter differ",
                f"{n_tests} test_iter, one for each test net",
                str(wanted),
                "" if own else "a solver with train_net tests the nets in test_net",
            )
        if message.test_state and len(message.test_state) != wanted:
            self._add(
                "test_state",
                "the numbers of test nets and of test_state differ",
                f"none or {wanted} test_state, one for each test net",
                str(len(message.test_state)),
            )
        if wanted and not message.test_interval:
            self._add(
                "test_iter",
                "test_iter is set, but test_interval is not",
                "test_interval > 0 iterations between tests",
                "none",
                "add test_interval: 500",
            )

    def _add(self, name: str, what: str, expected: str, got: str, hint: str = "") -> None:
        span = self.source.span(name) if name else self.source.span()
        self.problems.add(Problem(what, span, "", expected, got, hint))


def merged(phase: Phase, *states: netc_pb2.NetState) -> NetState:
    """Merge states as Caffe's solver does: the phase, the net's own state, then the solver's."""
    found = netc_pb2.NetState(phase=phase.name)
    for state in states:
        found.MergeFrom(state)
    return NetState(Phase(found.phase), found.level, tuple(found.stage))
