"""Settings of a solver from the command line."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from netc.schema import netc_pb2, override, read_solver
from netc.schema.source import Source

FILE = """\
net: "n.prototxt"
base_lr: 0.01 lr_policy: "multistep" gamma: 0.1
stepvalue: 10 stepvalue: 20 stepvalue: 30
max_iter: 40
train_state { stage: "a" }
"""


def solver(*words: str) -> tuple[Source[netc_pb2.SolverParameter], tuple[str, ...]]:
    return override(read_solver("solver.prototxt", FILE), words)


def test_values_are_converted_by_the_type_of_the_field() -> None:
    source, lines = solver(
        *("base_lr=1e-3", "max_iter=0x10", "snapshot_format=HDF5", "type=Adam", "debug_info=true"),
        *("stepvalue=5,7", "test_iter=", 'snapshot_prefix="a b"', "time_limit=3600"),
    )
    message = source.message
    assert message.base_lr == pytest.approx(1e-3)
    assert (message.max_iter, message.type, message.debug_info) == (16, "Adam", True)
    assert message.snapshot_format == netc_pb2.SolverParameter.HDF5
    assert list(message.stepvalue) == [5, 7]
    assert list(message.test_iter) == []
    assert message.snapshot_prefix == "a b"
    assert message.gamma == pytest.approx(0.1), "what is not overridden stays"
    assert lines == (
        "base_lr = 0.001 (before: 0.01)",
        "max_iter = 16 (before: 40)",
        "snapshot_format = HDF5 (before: BINARYPROTO, the default)",
        'type = "Adam" (before: "SGD", the default)',
        "debug_info = true (before: false, the default)",
        "stepvalue = 5,7 (before: 10,20,30)",
        "test_iter = none (before: none)",
        'snapshot_prefix = "a b" (before: "", the default)',
        "time_limit = 3600.0 (before: 0.0, the default)",
    )


def test_a_dot_leads_into_a_message() -> None:
    source, lines = solver("train_state.level=2", "train_state.stage=b,c")
    assert source.message.train_state.level == 2
    assert list(source.message.train_state.stage) == ["b", "c"]
    assert lines[1] == 'train_state.stage = "b","c" (before: "a")'


def test_the_file_is_left_alone_and_places_are_those_of_the_words() -> None:
    file = read_solver("solver.prototxt", FILE)
    changed, _ = override(file, ["momentum=0.9", "stepvalue=5,7"])
    assert not file.message.HasField("momentum")
    assert file.span("stepvalue", 1).line == 3
    span = changed.span("stepvalue", 1)
    assert (str(span), span.source) == ("command line:1:13", "stepvalue=5,7")
    assert str(changed.span("gamma")) == str(file.span("gamma"))


def test_the_old_name_of_the_type_is_known() -> None:
    source, _ = solver("solver_type=ADAM")
    assert source.message.type == "Adam"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["base_lrr=1"], "command line:1:1: unknown field 'base_lrr' in SolverParameter"),
        (["base_lrr=1"], "did you mean 'base_lr'?"),
        (["max_iter=1.5"], "command line:1:10: the field 'max_iter' takes a whole number"),
        (["max_iter=1.5"], "    | max_iter=1.5\n    |          ^"),
        (["max_iter="], "the field 'max_iter' takes a whole number"),
        (["stepvalue=5,x"], "command line:1:13: the field 'stepvalue' takes a whole number"),
        (["snapshot_format=HDF6"], "did you mean 'HDF5'?"),
        (["max_iter=5", "max_iter=6"], "two values for 'max_iter'"),
        (["max_iter=5", "max_iter=6"], "got       max_iter=5 and max_iter=6"),
        (["train_state=5"], "'train_state' is a message"),
        (["train_state.levle=5"], "did you mean 'level'?"),
        (["max_iter.x=5"], "takes a value, not a message"),
        (["test_state.level=5"], "is a list of messages, which the command line cannot set"),
        (["max_iter"], "this is no setting"),
    ],
)
def test_mistakes(words: list[str], says: str) -> None:
    with pytest.raises(NetcError) as caught:
        solver(*words)
    assert says in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(NetcError) as caught:
        solver("base_lr=x", "max_iter=y", "gama=1")
    assert len(caught.value.problems) == 3
