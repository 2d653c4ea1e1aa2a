"""The nets of a solver and their states."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.layers.types import Phase
from netc.schema import read_solver
from netc.train.nets import SolverNet, solver_nets


def nets_of(
    text: str, folder: Path, level: int = 0, stages: tuple[str, ...] = ()
) -> list[SolverNet]:
    for name in ("a", "b"):
        (folder / f"{name}.prototxt").write_text(
            f'name: "{name}" state {{ stage: "{name}s" level: 3 }}'
        )
    source = read_solver(folder / "solver.prototxt", text)
    return list(solver_nets(source, level, stages))


def test_one_net_for_all(tmp_path: Path) -> None:
    found = nets_of('net: "a.prototxt" test_iter: 1 test_iter: 2 test_interval: 5', tmp_path)
    assert [net.source.message.name for net in found] == ["a", "a", "a"]
    assert [net.state.phase for net in found] == [Phase.TRAIN, Phase.TEST, Phase.TEST]


def test_test_nets_come_inline_first_then_from_files_then_the_net_itself(tmp_path: Path) -> None:
    text = """
    net: "a.prototxt" test_net: "b.prototxt" test_net_param { name: "inline" }
    test_iter: 1 test_iter: 1 test_iter: 1 test_interval: 5
    """
    assert [net.source.message.name for net in nets_of(text, tmp_path)] == [
        *("a", "inline", "b", "a"),
    ]


def test_states_are_merged(tmp_path: Path) -> None:
    text = """
    net: "a.prototxt" test_iter: 1 test_interval: 5
    train_state { stage: "solver" } test_state { level: 7 stage: "t" }
    """
    train, test = nets_of(text, tmp_path, 9, ("asked",))
    assert (train.state.level, train.state.stages) == (9, ("as", "solver", "asked"))
    assert (test.state.level, test.state.stages) == (7, ("as", "t"))
    train, _ = nets_of(text, tmp_path)
    assert train.state.level == 3, "a level of 0 on the command line is none"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base_lr: 1", ["a solver needs exactly one training net"]),
        ('net: "a.prototxt" train_net: "b.prototxt"', ["a solver needs exactly one training net"]),
        ('net: "c.prototxt"', ["'c.prototxt' does not exist"]),
        (
            'train_net: "c.prototxt" test_net: "d.prototxt"',
            [
                "'c.prototxt' does not exist",
                "'d.prototxt' does not exist",
                "the numbers of test nets and of test_iter differ",
            ],
        ),
        (
            'net: "a.prototxt" test_iter: 1 test_state {} test_state {}',
            [
                "the numbers of test nets and of test_state differ",
                "test_iter is set, but test_interval is not",
            ],
        ),
        (
            'train_net: "a.prototxt" test_iter: 1 test_interval: 5',
            ["the numbers of test nets and of test_iter differ"],
        ),
    ],
)
def test_all_that_is_wrong_is_told(text: str, told: list[str], tmp_path: Path) -> None:
    with pytest.raises(NetcError) as refused:
        nets_of(text, tmp_path)
    assert sorted(problem.what for problem in refused.value.problems) == sorted(told)
