"""Checking files: what counts as a mistake, told once, and what is only a remark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netc.checking import check
from netc.report.problems import FileReport
from tests.support.furnished import furnish


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


def spoil(path: str, right: str, wrong: str, count: int = 1) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert right in text
    Path(path).write_text(text.replace(right, wrong, count), encoding="utf-8")


def told(reports: list[FileReport]) -> list[str]:
    return [problem.headline() for report in reports for problem in report.problems]


def test_what_a_file_holds(folder: Path) -> None:
    reports = check(["net.prototxt", "deploy.prototxt", "solver.prototxt"])
    assert [report.summary for report in reports] == [
        "net 'tiny', TRAIN 5 layers, TEST 6 layers",
        "net 'tiny_deploy', 5 layers",
        "SGD solver, net 'tiny', TRAIN 5 layers, TEST 6 layers",
    ]
    assert not told(reports)


def test_as_many_layers_in_both_phases(folder: Path) -> None:
    spoil("net.prototxt", 'top: "accuracy"\n  include { phase: TEST }', 'top: "accuracy"')
    (report,) = check(["net.prototxt"])
    assert report.summary == "net 'tiny', 6 layers, TRAIN and TEST"


@pytest.mark.parametrize("name", ["solver.prototxt", "anything.txt"])
def test_a_solver_is_known_by_its_fields(name: str, folder: Path) -> None:
    Path("solver.prototxt").rename(name)
    (report,) = check([name])
    assert report.summary.startswith("SGD solver")


def test_mistakes_of_both_phases_and_of_all_layers(folder: Path) -> None:
    spoil("net.prototxt", "kernel_size: 3", "kernel_size: 30")
    spoil(
        "net.prototxt", 'bottom: "label"\n  top: "accuracy"', 'bottom: "lable"\n  top: "accuracy"'
    )
    spoil("net.prototxt", "batch_size: 4", "batch_size: 0")
    assert told(check(["net.prototxt"])) == [
        "net.prototxt:9:55: layer 'images' (Data): batch_size is missing",
        "net.prototxt:25:50: layer 'conv1' (Convolution): the kernel is larger than the bottom",
        "net.prototxt:39:11: layer 'accuracy' (Accuracy): unknown bottom blob 'lable'",
    ]


def test_a_shared_mistake_with_two_batch_sizes_is_one(folder: Path) -> None:
    spoil("net.prototxt", "kernel_size: 3", "kernel_size: 30")
    assert len(told(check(["net.prototxt"]))) == 1


def test_one_file_under_two_names_is_one(folder: Path) -> None:
    spoil("net.prototxt", "kernel_size: 3", "kernel_size: 30")
    reports = check(["net.prototxt", "../" + folder.name + "/net.prototxt", "solver.prototxt"])
    assert [len(report.problems) for report in reports] == [1, 0, 0]
    assert [bool(report.elsewhere) for report in reports] == [False, True, True]
    assert not any(report.summary for report in reports)


def test_the_settings_and_the_nets_of_a_solver_are_checked_in_one_go(folder: Path) -> None:
    spoil("solver.prototxt", 'lr_policy: "fixed"', 'lr_policy: "step"')
    spoil("solver.prototxt", "max_iter: 6", 'weights: "none.caffemodel"')
    spoil("net.prototxt", 'type: "ReLU"', 'type: "Relu"')
    found = told(check(["solver.prototxt"]))
    assert len(found) == 4
    for part in (
        "needs gamma",
        "needs stepsize",
        "'none.caffemodel' does not exist",
        "unknown layer type 'Relu'",
    ):
        assert any(part in line for line in found), part


def test_what_a_solver_says_of_layers_is_checked(folder: Path) -> None:
    Path("names").write_text("one two three")
    spoil(
        "solver.prototxt",
        "max_iter: 6",
        'max_iter: 6 freeze: "cnov1" layer_rate { layer: "relu1" lr_mult: 2 } rename_file: "names"',
    )
    (report,) = check(["solver.prototxt"])
    whats = [problem.what for problem in report.problems]
    assert whats == [
        "this line is no rename",
        "no layer of the net has a name that matches 'cnov1'",
        "the layers that 'relu1' matches have no rate",
    ]


def test_both_nets_of_a_solver_are_read(folder: Path) -> None:
    spoil(
        "solver.prototxt", 'net: "net.prototxt"', 'train_net: "a.prototxt" test_net: "b.prototxt"'
    )
    spoil("solver.prototxt", "test_iter: 2", "test_iter: 2 test_iter: 3")
    found = told(check(["solver.prototxt"]))
    assert [re.sub(r"^[^ ]+ ", "", line) for line in found] == [
        "'a.prototxt' does not exist",
        "'b.prototxt' does not exist",
        "the numbers of test nets and of test_iter differ",
    ]


def test_a_gradient_that_cannot_flow(folder: Path) -> None:
    spoil(
        "net.prototxt",
        'type: "ReLU" bottom: "conv1" top: "conv1"',
        'type: "Threshold" bottom: "conv1" top: "over"',
    )
    spoil(
        "net.prototxt",
        'type: "InnerProduct"\n  bottom: "conv1"',
        'type: "InnerProduct"\n  bottom: "over"',
    )
    (line,) = told(check(["net.prototxt"]))
    assert "layer 'relu1' (Threshold)" in line
    assert "gradient" in line


def test_layers_that_no_state_includes_are_named(folder: Path) -> None:
    spoil(
        "net.prototxt",
        'loss" }\n',
        'loss" }\nlayer { name: "s" type: "Slience" bottom: "ip" include { stage: "quiet" } }\n',
    )
    (report,) = check(["net.prototxt"])
    assert not report.problems
    assert report.notes == (
        "net.prototxt:44:1: layer 's' (Slience) was not checked: its rules exclude it "
        "(-stage or -level may bring it in)",
    )
    (report,) = check(["net.prototxt"], stages=["quiet"])
    assert "unknown layer type 'Slience'" in told([report])[0]
    assert not report.notes


def test_old_forms_are_noted_even_where_there_are_mistakes(folder: Path) -> None:
    spoil("deploy.prototxt", "kernel_size: 3", "kernel_size: 30")
    (report,) = check(["deploy.prototxt"])
    assert len(report.problems) == 1
    assert report.notes == ("deploy.prototxt: input 'data' rewritten as a layer of type Input",)


def test_shapes_for_absent_data(folder: Path) -> None:
    spoil("net.prototxt", 'source: "db"', 'source: "away"', count=2)
    (report,) = check(["net.prototxt"])
    assert not report.problems
    assert all("-shape data=... tells them" in note for note in report.notes)
    # What does not depend on shapes is checked all the same.
    spoil("net.prototxt", "kernel_size", "kernle_size")
    (report,) = check(["net.prototxt"])
    assert "did you mean 'kernel_size'?" in report.problems[0].hint
    spoil("net.prototxt", "kernle_size", "kernel_size")
    (report,) = check(["net.prototxt"], shapes={"data": (7, 3, 8, 8)})
    assert not report.problems
    assert len(report.notes) == 2


def test_a_shape_that_no_net_asks_for(folder: Path) -> None:
    reports = check(["net.prototxt", "deploy.prototxt"], shapes={"dta": (1, 1)})
    (problem,) = reports[-1].problems
    assert "a shape is given for blob 'dta'" in problem.what
    assert problem.hint == "did you mean 'data'?"
    # Where a net could not be read, nobody knows its blobs.
    spoil("deploy.prototxt", "layer {", "laier {")
    assert len(check(["net.prototxt", "deploy.prototxt"], shapes={"dta": (1, 1)})) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this file is empty"),
        (b"\x89PNG\r\n\x1a\n", "this is a PNG image, not text"),
        (b"\x00\x01", "this is a binary file, not text"),
        (b"layer {", "'{'"),
    ],
)
def test_files_that_are_something_else(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    (report,) = check([str(file)])
    assert message in told([report])[0]


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    reports = check([str(tmp_path), str(tmp_path / "nope")])
    assert told(reports) == [
        f"{tmp_path}: this is a folder, not a file",
        f"{tmp_path / 'nope'}: no such file",
    ]


def test_a_phase_without_data_is_not_checked(folder: Path) -> None:
    """Many published nets are for training alone, and keep the rules of both phases."""
    text = Path("net.prototxt").read_text(encoding="utf-8")
    first, _, rest = text.partition("layer {")
    data, _, others = rest.partition("layer {")
    test_data, _, others = others.partition("layer {")
    assert "TRAIN" in data
    assert "TEST" in test_data
    Path("net.prototxt").write_text(f"{first}layer {{{data}layer {{{others}", encoding="utf-8")
    (report,) = check(["net.prototxt"])
    assert not report.problems
    assert report.summary == "net 'tiny', 5 layers"
    assert report.notes[0] == (
        "net.prototxt: not checked for TEST, where its rules exclude every layer that data could "
        "come from (-stage or -level may bring one in)"
    )
    # The solver that tests it all the same hears of it, and which rule is in the way.
    (report,) = check(["solver.prototxt"])
    (first_problem, *_) = report.problems
    assert first_problem.what == "unknown bottom blob 'data'"
    assert first_problem.hint == (
        "layer 'images' gives it, but its rules exclude it here (phase TEST): the net may be meant "
        "for another phase or stage"
    )


def test_a_net_without_any_data_is_checked_in_both_phases(folder: Path) -> None:
    Path("bare.prototxt").write_text(
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" include { phase: TEST } }',
        encoding="utf-8",
    )
    (report,) = check(["bare.prototxt"])
    assert [problem.what for problem in report.problems] == ["unknown bottom blob 'x'"]


def test_a_net_for_use_is_checked_in_the_phase_that_it_speaks_of(tmp_path: Path) -> None:
    net = """
        input: "x" input_shape { dim: 2 dim: 3 }
        layer { name: "r" type: "ReLU" bottom: "x" top: "r" include { phase: TEST } }
        layer { name: "s" type: "Softmax" bottom: "r" top: "s" }
        """
    loss = """
        layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
        layer { name: "l" type: "SoftmaxWithLoss" bottom: "r" bottom: "label" top: "l" }
        """
    for text, problems in (net, set()), (net + loss, {"unknown bottom blob 'r'"}):
        path = tmp_path / "net.prototxt"
        path.write_text(text, encoding="utf-8")
        (report,) = check([str(path)])
        assert {problem.what for problem in report.problems} == problems
