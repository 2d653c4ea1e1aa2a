from __future__ import annotations

import sys
from pathlib import Path

import check_published
import pytest
from check_published import Kind

from netc.errors import NetcError

NET = """\
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 2 } }
"""
FILES = {
    "good/net.prototxt": NET,
    "good/again.prototxt": NET,
    "good/solver.prototxt": 'net: "net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1',
    "good/empty.prototxt": "",
    "odd/copy.prototxt": NET,
    "odd/labels.prototxt": 'item { name: "cat" label: 1 }',
    "odd/template.prototxt": NET.replace("num_output: 2", "num_output: classes"),
    "odd/shell.prototxt": NET.replace('"ip"', '"${NAME}"') + "layer { nme: 1 }",
    "odd/solver.prototxt": 'net: "gone.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1',
    "odd/typo.prototxt": NET.replace("num_output", "num_outputs"),
    "odd/also.prototxt": NET.replace("InnerProduct", "Innerproduct")
    + 'layer { name: "r" type: "ReLU" bottom: "x7" top: "r" }',
}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_equal_texts_count_once_and_empty_ones_not(roots: Path) -> None:
    found = check_published.texts_of([Path("good"), Path("odd")])
    names = [f"{Path(folder).name}/{file}" for folder, file in found]
    assert names == [
        "good/again.prototxt",
        "good/solver.prototxt",
        "odd/also.prototxt",
        "odd/labels.prototxt",
        "odd/shell.prototxt",
        "odd/solver.prototxt",
        "odd/template.prototxt",
        "odd/typo.prototxt",
    ]


def test_what_files_are(roots: Path) -> None:
    kinds = {
        file: check_published.verdict(folder, file).kind
        for folder, file in check_published.texts_of([roots / "odd"])
    }
    assert kinds == {
        "also.prototxt": Kind.REFUSED,
        "copy.prototxt": Kind.ACCEPTED,
        "labels.prototxt": Kind.NO_NET,
        "shell.prototxt": Kind.TEMPLATE,
        "solver.prototxt": Kind.INCOMPLETE,
        "template.prototxt": Kind.TEMPLATE,
        "typo.prototxt": Kind.REFUSED,
    }


def test_the_tables(
    roots: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check_published.py", "good", "odd", "-jobs", "1"])
    check_published.main()
    lines = capsys.readouterr().out.splitlines()
    words = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert words["good"] == ["2", "0", "0", "0", "0", "100.0", "%"]
    assert words["odd"] == ["0", "2", "1", "2", "1", "0.0", "%"]
    assert words["all"] == ["2", "2", "1", "2", "1", "50.0", "%"]
    reasons = "\n".join(lines)
    assert "1  unknown layer type 'Innerproduct'\n       odd/also.prototxt" in reasons
    assert "unknown bottom blob ...\n" in reasons
    assert "unknown field 'num_outputs'" in reasons


def test_a_folder_that_is_not_there(roots: Path) -> None:
    with pytest.raises(NetcError, match="no such folder"):
        check_published.texts_of([Path("nowhere")])
