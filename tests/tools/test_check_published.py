from __future__ import annotations

import sys
from pathlib import Path

import check_published
import fork_schema
import pytest
from check_published import Forks, Kind

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
    "odd/images.txt": "gone.png 0\n",
    "odd/images.prototxt": 'layer { name: "d" type: "ImageData" top: "d" '
    'image_data_param { source: "images.txt" } }',
    "odd/typo.prototxt": NET.replace("num_output", "num_outputs"),
    "odd/also.prototxt": NET.replace("InnerProduct", "Innerproduct")
    + 'layer { name: "r" type: "ReLU" bottom: "x7" top: "r" }',
}
SOLVER = 'base_lr: 1 lr_policy: "fixed" max_iter: 1 '
RELU = 'layer { name: "r" type: "ReLU" bottom: "ip" top: "r" relu_param { negative_slope: 1 } }'
# The schema of a fork knows inner products and no more, and has a field of its own.
SCHEMA = """\
syntax = "proto2";
package caffe;
message Shape { repeated int64 dim = 1; }
message Input { repeated Shape shape = 1; }
message Product { optional uint32 num_output = 1; }
message LayerParameter {
  optional string name = 1; optional string type = 2;
  repeated string bottom = 3; repeated string top = 4;
  optional Input input_param = 5; optional Product inner_product_param = 6;
  optional string its_own = 7;
}
message NetParameter { optional string name = 1; repeated LayerParameter layer = 2; }
message Model { required string path = 1; }
message SolverParameter {
  optional string net = 1; repeated string test_net = 2; optional Model model = 3;
  optional float base_lr = 4; optional string lr_policy = 5; optional int32 max_iter = 6;
}
"""
FORK = {
    "src/caffe/proto/caffe.proto": SCHEMA,
    "a/good.prototxt": NET,
    "a/marked.prototxt": "\ufeff" + NET.replace('"x"', '"in"'),
    "a/own.prototxt": NET + 'layer { name: "o" its_own: "?" }',
    "a/leaky.prototxt": NET + RELU,
    "a/odd.prototxt": NET + RELU.replace("ReLU", "Relu"),
    "a/labels.prototxt": 'item { name: "cat" label: 1 }',
    "a/required.prototxt": SOLVER + 'net: "a/good.prototxt" model { }',
    "good.solver.prototxt": SOLVER + 'net: "a/good.prototxt"',
    "a/leaky.solver.prototxt": SOLVER + 'net: "leaky.prototxt"',
    "odd.solver.prototxt": SOLVER + 'net: "a/good.prototxt" test_net: "a/odd.prototxt"',
    "refused.solver.prototxt": SOLVER + 'net: "refused.prototxt"',
    "refused.prototxt": NET.replace("2", "3"),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        write(tmp_path / name, text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_equal_texts_count_once_and_empty_ones_not(roots: Path) -> None:
    found = check_published.texts_of([Path("good"), Path("odd")])
    names = [f"{Path(folder).name}/{file}" for ((folder, file), *_) in found]
    assert names == [
        "good/again.prototxt",
        "good/solver.prototxt",
        "odd/also.prototxt",
        "odd/images.prototxt",
        "odd/labels.prototxt",
        "odd/shell.prototxt",
        "odd/solver.prototxt",
        "odd/template.prototxt",
        "odd/typo.prototxt",
    ]


def kinds_of(*folders: Path, forks: Forks | None = None) -> dict[str, Kind]:
    forks = forks or Forks({}, {})
    judged = [check_published.verdict(forks, h) for h in check_published.texts_of(folders)]
    return {v.file: v.kind for v in judged}


def test_what_files_are(roots: Path) -> None:
    assert kinds_of(roots / "odd") == {
        "also.prototxt": Kind.REFUSED,
        "copy.prototxt": Kind.ACCEPTED,
        "images.prototxt": Kind.INCOMPLETE,
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
    assert words["good"] == ["2", "0", "0", "0", "0", "0", "0", "100.0", "%"]
    assert words["odd"] == ["0", "2", "1", "2", "2", "0", "0", "0.0", "%"]
    assert words["all"] == ["2", "2", "1", "2", "2", "0", "0", "50.0", "%"]
    reasons = "\n".join(lines)
    assert "1  unknown layer type 'Innerproduct'\n       odd/also.prototxt" in reasons
    assert "unknown bottom blob ...\n" in reasons
    assert "unknown field 'num_outputs'" in reasons


def test_a_folder_that_is_not_there(roots: Path) -> None:
    with pytest.raises(NetcError, match="no such folder"):
        check_published.texts_of([Path("nowhere")])


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("grpc_tools")
    for name, text in FORK.items():
        write(tmp_path / "own+fork" / name, text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own+fork"


def test_what_a_fork_does_not_take_counts_apart(fork: Path) -> None:
    refused = Forks({}, {(str(fork), "refused.prototxt"): "it is odd (somewhere)"})
    assert kinds_of(fork, forks=refused) == {
        "a/good.prototxt": Kind.ACCEPTED,
        "a/marked.prototxt": Kind.ACCEPTED,
        "a/own.prototxt": Kind.REFUSED,  # by netc alone
        "a/leaky.prototxt": Kind.UNREADABLE,  # netc would read it
        "a/odd.prototxt": Kind.UNREADABLE,
        "a/labels.prototxt": Kind.NO_NET,
        "a/required.prototxt": Kind.UNREADABLE,
        "good.solver.prototxt": Kind.ACCEPTED,
        "a/leaky.solver.prototxt": Kind.UNREADABLE,
        "odd.solver.prototxt": Kind.UNREADABLE,
        "refused.solver.prototxt": Kind.FORK_REFUSES,
        "refused.prototxt": Kind.FORK_REFUSES,
    }


def test_a_text_counts_for_the_first_whose_fork_takes_it(fork: Path) -> None:
    other = fork.parent / "other"
    write(other / "a/leaky.prototxt", FORK["a/leaky.prototxt"])
    verdicts = {
        v.file: v
        for h in check_published.texts_of([fork, other])
        for v in [check_published.verdict(Forks({}, {}), h)]
    }
    assert verdicts["a/leaky.prototxt"].folder == str(other)
    assert verdicts["a/leaky.prototxt"].kind is Kind.ACCEPTED


def test_which_schema_a_file_belongs_to(tmp_path: Path) -> None:
    def own(file: str) -> list[Path]:
        return fork_schema.own_schemas(tmp_path, Path(file))

    first, second = (tmp_path / name / fork_schema.SCHEMA for name in ("v1", "v2"))
    write(first, SCHEMA)
    assert own("net.prototxt") == own("models/net.prototxt") == own("v1/net.prototxt") == [first]
    fork_schema._schemas_below.cache_clear()
    write(second, SCHEMA)
    assert own("v2/models/net.prototxt") == [second]
    assert own("models/net.prototxt") == []


def test_forks_told_by_the_tables_and_the_command_line(
    fork: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nets = fork.parent / "own+nets"
    write(nets / "leaky.prototxt", FORK["a/leaky.prototxt"])
    write(nets / "refused.prototxt", FORK["refused.prototxt"])
    rows = {
        "published_forks.tsv": [["own/nets", "own/fork", "README"]],
        "published_refusals.tsv": [["own/nets", "refused.prototxt", "here", "it is odd"]],
    }
    monkeypatch.setattr(check_published, "_rows", rows.__getitem__)
    schema = str(fork / fork_schema.SCHEMA)
    for told in (["-forks", "."], ["-schema", f"own+nets={schema}"]):
        monkeypatch.setattr(sys, "argv", ["check_published.py", "own+nets", "-jobs", "1", *told])
        check_published.main()
        out = capsys.readouterr().out
        assert "own+nets         0        0" in out
        assert "Not taken by their own forks: 2, of which netc accepts 2" in out
        assert (
            '1  Message type "caffe.LayerParameter" has no field named "relu_param".'
            " (netc accepts 1)\n       own+nets/leaky.prototxt" in out
        )
        assert "1  it is odd (here) (netc accepts 1)\n" in out

    with pytest.raises(NetcError, match="the fork own/fork, which own/nets is for, is in no"):
        check_published.forks_of([nets], [nets], [])
    with pytest.raises(NetcError, match="-schema takes a folder and a schema"):
        check_published.forks_of([nets], [], ["own+nets"])
    (nets / "refused.prototxt").unlink()
    with pytest.raises(NetcError, match="a file that own/nets lacks"):
        check_published.forks_of([nets], [], [])


def test_the_tables_are_whole() -> None:
    widths = {"published_forks.tsv": 3, "published_refusals.tsv": 4}
    for name, width in widths.items():
        rows = list(check_published._rows(name))
        assert all(len(row) == width and all(row) for row in rows)
        assert rows == sorted(rows)
