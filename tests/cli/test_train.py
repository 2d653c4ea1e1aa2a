"""`netc train`: runs that end well, are stopped, go on, and fail in words."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from netc.weights import read_weights
from tests.cli.conftest import Netc

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds that a process may take on a machine that is busy with other things


def solver(**settings: object) -> str:
    """Write solver.prototxt with some settings replaced or, by None, left out; return its name."""
    lines = Path("solver.prototxt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.split(":")[0] not in settings]
    kept += [f"{name}: {value}" for name, value in settings.items() if value is not None]
    Path("solver.prototxt").write_text("\n".join(kept), encoding="utf-8")
    return "solver.prototxt"


# -- runs that end well ----------------------------------------------------------------------------


def test_a_run_says_where_its_snapshot_lies(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", "solver.prototxt")
    assert told.code == 0
    assert told.out == (
        "trained to iteration 6\n"
        "  weights  run_iter_6.caffemodel\n"
        "  go on    netc train -solver solver.prototxt -snapshot run_iter_6.solverstate\n"
        "  export   netc export -model net.prototxt -weights run_iter_6.caffemodel "
        "-output run_iter_6.onnx\n"
    )
    for line in (
        "Solving tiny",
        "Learning Rate Policy: fixed",
        "Iteration 0, Testing net (#0)",
        "Snapshotting to binary proto file run_iter_6.caffemodel",
        "Optimization Done.",
    ):
        assert re.search(
            rf"^I\d{{4}} [\d:.]+ +\d+ \w+\.py:\d+\] {re.escape(line)}$", told.err, re.M
        )


def test_without_a_terminal_there_is_no_progress_row(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", "solver.prototxt")
    assert "images/s" not in told.err
    assert "\x1b" not in told.err


def test_fine_tuning_by_flags_and_going_on_with_it(folder: Path, netc: Netc) -> None:
    flags = ["-freeze", "conv1", "-layer_rate", "ip=2", "-rename", "c*=c*"]
    told = netc("train", "-solver", "solver.prototxt", "-weights", "run_iter_6.caffemodel", *flags)
    assert told.code == 0
    assert "Not trained: conv1" in told.err
    assert "Trained at 2 times the rate: ip" in told.err
    assert re.search(r"    conv1  0 +not trained", told.err)
    # What only the flags said is in the snapshot.
    told = netc(
        *("train", "-solver", "solver.prototxt", "-max_iter", "8"),
        *("-snapshot", "run_iter_6.solverstate"),
    )
    assert told.code == 0
    assert "Not trained: conv1" in told.err
    assert re.search(r"    conv1  0 +not trained", told.err)


def test_flags_of_fine_tuning_that_mean_nothing(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", "solver.prototxt", "-freeze", "cnov")
    assert told.code == 1
    assert "did you mean 'conv1'" in told.err
    told = netc(
        *("train", "-solver", "solver.prototxt", "-snapshot", "run_iter_6.solverstate"),
        *("-partial_copy", "ip"),
    )
    assert told.code == 1
    assert "a resumed run copies no other weights" in told.err


def test_a_run_without_snapshot_says_so(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", solver(snapshot_after_train="false"))
    assert told.out.splitlines() == [
        "trained to iteration 6",
        "no snapshot was written (see snapshot and snapshot_after_train)",
    ]


def test_settings_of_the_command_line_count_and_are_in_the_log(folder: Path, netc: Netc) -> None:
    told = netc(
        *("train", "-solver", "solver.prototxt", "-max_iter", "4", "base_lr=0.02"),
        *("score=accuracy", "keep_best=true", "keep_last=1", "snapshot=2"),
    )
    assert told.code == 0
    first, _, best, go_on, _ = told.out.splitlines()
    assert first == "trained to iteration 4"
    assert best.startswith("  best     accuracy = ")
    assert go_on.endswith(
        "-snapshot run_iter_4.solverstate max_iter=4 base_lr=0.02 score=accuracy keep_best=true "
        "keep_last=1 snapshot=2"
    )
    assert "Override: max_iter = 4 (before: 6)" in told.err
    assert "Iteration 0, lr = 0.02" in told.err
    states = sorted(path.name for path in folder.glob("*.solverstate"))
    assert states == ["run_best.solverstate", "run_iter_4.solverstate", "run_iter_6.solverstate"]


def test_trials_leave_nothing_behind(folder: Path, netc: Netc) -> None:
    before = sorted(folder.iterdir())
    told = netc("train", "-solver", "solver.prototxt", "-dry_run")
    assert told.code == 0
    assert told.out.startswith("dry run: everything is there and fits together")
    told = netc("train", "-solver", "solver.prototxt", "-overfit_batch", "2")
    assert told.code == 1
    assert "did not learn one batch by heart in 2 iterations" in told.err
    assert sorted(folder.iterdir()) == before
    told = netc("train", "-solver", "solver.prototxt", "-dry_run", "-overfit_batch", "2")
    assert told.code == 2
    assert "are two things" in told.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-max_iter", "5", "max_iter=6"], 1, "two values for 'max_iter'"),
        (["-momentum", "0.5"], 2, "a setting of the solver goes without a dash: momentum=0.5"),
        (["-weights", "a", "weights=b"], 2, "two values for weights"),
        (["base_lr=fast"], 1, "command line:1:9: the field 'base_lr' takes a number"),
        (["5"], 2, "'5' belongs to no flag"),
        (["momentum", "0.5"], 2, "a setting of the solver takes its value so: momentum=0.5"),
    ],
)
def test_settings_that_cannot_be(
    folder: Path, netc: Netc, words: list[str], code: int, says: str
) -> None:
    told = netc("train", "-solver", "solver.prototxt", *words)
    assert told.code == code
    assert says in told.err


def test_fine_tuning_prints_what_comes_from_where(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('name: "ip"', 'name: "ip_new"'))
    told = netc("train", "-solver", "solver.prototxt", "-weights", "run_iter_6.caffemodel")
    assert told.code == 0
    lines = [line.partition("] ")[2] for line in told.err.splitlines()]
    assert any(re.match(r"copied +conv1 .* from run_iter_6\.caffemodel", line) for line in lines)
    assert any(re.match(r"fresh +ip_new .* filled by its filler", line) for line in lines)
    assert any(re.match(r"unused +ip ", line) for line in lines)
    assert "1 layer copied, 1 freshly filled, 1 in the weights but unused" in lines


def test_of_several_weights_the_last_wins(folder: Path, netc: Netc) -> None:
    netc("train", "-solver", solver(snapshot_prefix='"other"', max_iter=0, random_seed=9))
    solver(snapshot_prefix='"third"', max_iter=0)
    files = "other_iter_0.caffemodel,run_iter_6.caffemodel"
    assert netc("train", "-solver", "solver.prototxt", "-weights", files).code == 0
    other, last, found = (
        read_weights(f"{stem}.caffemodel").layers[-2].blobs[0]
        for stem in ("other_iter_0", "run_iter_6", "third_iter_0")
    )
    assert other and last and found
    assert not np.array_equal(other.data, last.data)
    np.testing.assert_array_equal(found.data, last.data)


def test_a_run_goes_on_where_it_stopped(folder: Path, netc: Netc) -> None:
    netc("train", "-solver", solver(max_iter=12, snapshot_prefix='"whole"'))
    solver(snapshot_prefix='"half"')
    told = netc("train", "-solver", "solver.prototxt", "-snapshot", "run_iter_6.solverstate")
    assert told.code == 0
    assert "Restoring previous solver status from run_iter_6.solverstate" in told.err
    whole, half = (dict(read_weights(f"{s}_iter_12.caffemodel")) for s in ("whole", "half"))
    for name, blobs in whole.items():
        for one, other in zip(blobs, half[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_gpu_that_is_asked_for_is_not_used_in_silence(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", "solver.prototxt", "-gpu", "0")
    assert told.code == 0
    assert "-gpu 0: this version of netc has no GPU backend; running on the CPU" in told.err


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-solver nope.prototxt", "nope.prototxt: no such file"),
        ("-solver .", ".: this is a folder, not a file"),
        ("-solver net.prototxt", "net.prototxt: this is a net, not a solver"),
        ("-solver run_iter_6.caffemodel", "this is a file of weights"),
        ("-solver solver.prototxt -weights nope.caffemodel", "nope.caffemodel: there is no such"),
        ("-solver solver.prototxt -weights solver.prototxt", "solver.prototxt: not a caffemodel"),
        ("-solver solver.prototxt -snapshot run_iter_6.caffemodel", "run_iter_6.caffemodel: not a"),
        ("-solver solver.prototxt -snapshot s -weights w", "cannot both resume and fine-tune"),
        ("-solver solver.prototxt -backend cudnn", "unknown backend 'cudnn'"),
    ],
)
def test_mistakes_are_told_in_words(flags: str, told: str, folder: Path, netc: Netc) -> None:
    answer = netc("train", *flags.split())
    assert answer.code == 1
    assert told in answer.err
    assert not answer.out


def test_a_solver_with_two_mistakes_tells_both(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", solver(base_lr=None, lr_policy='"fxied"'))
    assert told.code == 1
    assert "base_lr is missing" in told.err
    assert "hint      did you mean 'fixed'?" in told.err


def test_a_net_that_is_not_there(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", solver(net='"nte.prototxt"'))
    assert told.code == 1
    assert "solver.prototxt:10:6: 'nte.prototxt' does not exist" in told.err
    assert "did you mean 'net.prototxt'?" in told.err


def test_weights_whose_shapes_clash(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace("num_output: 5", "num_output: 6"))
    told = netc("train", "-solver", "solver.prototxt", "-weights", "run_iter_6.caffemodel")
    assert told.code == 1
    assert "expected  shape (6, 144), (6,) as in the net" in told.err
    assert "got       shape (5, 144), (5,) in run_iter_6.caffemodel" in told.err
    assert 'rename the layer to learn it afresh, e.g. name: "ip_new"' in told.err


def test_a_diverging_run_names_the_layer(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", solver(base_lr="1e30"))
    assert told.code == 1
    assert "this layer is the first to produce it" in told.err
    assert "hint      lower base_lr" in told.err


# -- signals ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run netc beside this process; it is killed when it takes too long, and in the end."""
    run = subprocess.Popen(
        # Nets as small as these are run fastest without threads.
        [sys.executable, "-m", "netc", "train", "-backend", "reference", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = threading.Timer(PATIENCE, run.kill)
    watch.start()
    try:
        yield run
    finally:
        watch.cancel()
        run.kill()
        run.communicate()


def started(run: subprocess.Popen[str]) -> str:
    """Wait until a run iterates; return what it has said."""
    assert run.stderr
    said = ""
    for line in run.stderr:
        said += line
        if "Iteration 2 " in line:
            break
    return said


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_snapshot(sent: signal.Signals, folder: Path) -> None:
    with process("-solver", solver(max_iter=10**9, test_interval=10**6)) as run:
        started(run)
        run.send_signal(sent)
        out, err = run.communicate()
        assert run.returncode == 0
        assert f"netc: {sent.name}: stopping after this iteration" in err
        assert "Optimization stopped early." in err
        match = re.match(r"stopped at iteration (\d+) of 1000000000: asked to\n", out)
        assert match
        assert (folder / f"run_iter_{match[1]}.solverstate").exists()
        assert f"-snapshot run_iter_{match[1]}.solverstate" in out


def test_hanging_up_leaves_a_snapshot_and_goes_on(folder: Path) -> None:
    with process(
        "-solver", solver(max_iter=10**9, test_interval=10**6), "-sighup_effect=snapshot"
    ) as run:
        started(run)
        run.send_signal(signal.SIGHUP)
        assert run.stderr
        for line in run.stderr:
            if "Snapshotting solver state" in line:
                break
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate()
        assert run.returncode == 0, err


def test_an_effect_of_none_ignores_the_signal(folder: Path) -> None:
    flags = ("-sigint_effect", "none", "-sighup_effect", "none")
    with process("-solver", solver(max_iter=10**9, test_interval=10**6), *flags) as run:
        started(run)
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGHUP)
        assert run.stderr
        assert all(run.stderr.readline() for _ in range(50)), "it goes on"
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.communicate()
        assert run.returncode == 0


# -- the progress row ------------------------------------------------------------------------------


def on_a_terminal(*arguments: str) -> tuple[str, int]:
    """Run netc with a terminal for its input and output; return what was written and the code."""
    main, side = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "netc", "train", "-backend", "reference", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    said, until = b"", time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ready, _, _ = select.select([main], [], [], 0.1)
        try:
            piece = os.read(main, 1 << 16) if ready else b""
        except OSError:  # Linux's way to say that nobody is left at the other side
            break
        if not piece and run.poll() is not None:
            break
        said += piece
    os.close(main)
    return said.decode(), run.wait(timeout=PATIENCE)


def test_a_terminal_shows_a_row_below_the_log(folder: Path) -> None:
    said, code = on_a_terminal("-solver", solver(max_iter=300, display=100))
    assert code == 0
    assert re.search(r"\d+/300 \(\d+%\)  loss [\d.e-]+  lr 0\.05  [\d,?]+ images/s  ", said)
    for line in ("Iteration 200 (", "Optimization Done.", "trained to iteration 300"):
        assert line in said
    # The cursor is given back, and the row is gone in the end.
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1
    assert "images/s" not in said[said.rindex("\x1b[?25h") :]


def test_quiet_leaves_the_row_out(folder: Path) -> None:
    said, code = on_a_terminal("-solver", "solver.prototxt", "-quiet")
    assert code == 0
    assert "images/s" not in said
    assert "\x1b" not in said
