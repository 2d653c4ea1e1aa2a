"""Nets and solvers told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.schema.kinds import is_solver

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "solvers").iterdir()), ids=lambda p: p.name)
def test_solvers(path: Path) -> None:
    assert is_solver(path)


@pytest.mark.parametrize("path", sorted((ROOT / "zoo").rglob("*_train_test.prototxt")), ids=str)
def test_nets(path: Path) -> None:
    assert not is_solver(path)


@pytest.mark.parametrize(
    ("name", "text", "solver"),
    [
        ("x", "base_lr: 1", True),
        ("x", "layers { }", False),
        ("net.yaml", "{base_lr: 1, net: a, type: SGD}", True),
        ("x", "net_param { layer { } } base_lr: 1", True),
        ("my_solver.prototxt", "nmae: 3", True),
        ("x", "nmae: 3", False),
        ("x", "layer { { base_lr: 1", False),
        ("x", "<html>", False),
    ],
)
def test_texts(name: str, text: str, solver: bool) -> None:
    assert is_solver(name, text) == solver


def test_what_cannot_be_read_counts_as_a_net(tmp_path: Path) -> None:
    assert not is_solver(tmp_path)
    assert not is_solver(tmp_path / "solver.prototxt")
