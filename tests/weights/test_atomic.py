"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.weights import atomic
from netc.weights.atomic import Staged, atomic_write, check_writable, remove_temporaries
from netc.weights.caffemodel import write_weights
from netc.weights.state import SolverState, read_state, write_snapshot, write_state
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.support.disks import small_disk

ROOT = Path(__file__).resolve().parents[2]


def weights_of(value: float, n_values: int = 1000) -> Weights:
    values = frozen(np.full(n_values, value, np.float32))
    return Weights((SavedLayer("ip", (SavedBlob(values),), "InnerProduct"),), "net")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `n_bytes`, as a full disk or a quota would."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture
def a_small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with small_disk(tmp_path / "disk", 256) as disk:
        yield disk


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_an_exception_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    (tmp_path / "b.bin").write_bytes(b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.bin", "b.bin")]
    assert modes[0] == modes[1]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.bin"
    link.symlink_to(tmp_path / "real" / "a.bin")
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"new"


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as file:
        file.write(b"new")
    assert os.read(reading, 10) == b"new"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_long_name_still_finds_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)  # 254 bytes, of 255 that are allowed
    with atomic_write(path) as file:
        file.write(b"x")
    assert names(tmp_path) == [path.name]


def test_staged_files_are_discarded_unless_committed(tmp_path: Path) -> None:
    with Staged(tmp_path / "a") as first, Staged(tmp_path / "b") as second:
        first.file.write(b"a")
        second.file.write(b"b")
        first.finish()
        second.finish()
        assert not (tmp_path / "a").exists()
        first.commit()
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".model_iter_7.caffemodel.0123abcd.netc.tmp"
    left.write_bytes(b"half")
    other = tmp_path / ".model.caffemodel.tmp"
    other.write_bytes(b"somebody else's")
    with Staged(tmp_path / "a"):
        # The one under way is locked by this process, which has it open another time here.
        assert remove_temporaries(tmp_path) == []
        assert len(names(tmp_path)) == 2
    assert names(tmp_path) == [other.name]


def test_without_locks_nothing_is_taken_for_a_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    with Staged(tmp_path / "a") as first, Staged(tmp_path / "b") as second:
        first.commit()
        second.commit()
    assert names(tmp_path) == ["a", "b"]


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "model_iter_0.caffemodel")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/a.bin", "there is no such directory"),
        ("file/a.bin", "there is no such directory"),
        ("folder", "there is a directory of that name"),
        ("x" * 300, "its name is too long"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NetcError, match=message):
        check_writable(tmp_path / path)
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_missing_permissions(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.touch(0o444)
    with pytest.raises(NetcError, match="read-only"):
        check_writable(file)
    tmp_path.chmod(0o555)
    with pytest.raises(NetcError, match="no permission"):
        check_writable(tmp_path / "b.bin")


def test_a_read_only_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everything: so that this is tested as root too, the system's answer is given.
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "access", lambda path, mode: False)
    with pytest.raises(NetcError, match="read-only"):
        check_writable(file)


@pytest.mark.parametrize("name", ["net.caffemodel", "net.caffemodel.h5"])
@pytest.mark.parametrize("limit", [0, 5000, 100_000])
def test_a_file_that_may_not_grow(tmp_path: Path, name: str, limit: int) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with (
        file_size_limit(limit),
        pytest.raises(NetcError, match="larger than the file system or a limit") as error,
    ):
        write_weights(path, weights_of(1, 50_000))
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [name]
    write_weights(path, weights_of(1, 50_000))  # with room again, nothing stands in the way


@pytest.mark.parametrize("end", ["", ".h5"])
def test_a_full_disk(a_small_disk: Path, end: str) -> None:
    def snapshot(iteration: int, n_values: int) -> None:
        history = (SavedBlob(frozen(np.zeros(n_values, np.float32))),)
        prefix = f"{a_small_disk}/net_iter_{iteration}"
        write_snapshot(
            f"{prefix}.caffemodel{end}",
            weights_of(iteration, n_values),
            f"{prefix}.solverstate{end}",
            SolverState(iteration, history=history),
        )

    snapshot(1, 10_000)  # 40 KB twice
    before = {path.name: path.read_bytes() for path in a_small_disk.iterdir()}
    with pytest.raises(NetcError, match="disk full") as error:
        snapshot(2, 30_000)  # 120 KB twice: the weights fit, the solver state does not
    text = str(error.value)
    assert "net_iter_2.solverstate" in text
    assert "bytes free in" in text
    if not end:
        assert "120," in text.partition("expected")[2].partition("got")[0]
    assert {path.name: path.read_bytes() for path in a_small_disk.iterdir()} == before
    assert read_state(a_small_disk / f"net_iter_1.solverstate{end}").iter == 1


def test_a_device_that_is_always_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(NetcError, match="disk full"), atomic_write("/dev/full") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk full, the file was not written"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(NetcError, match=message), atomic_write(path, size=3) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


WRITER = """
import sys
import numpy as np
from netc.weights import *
from netc.weights.types import frozen

folder, end = sys.argv[1:]
for iteration in range(1, 10_000):
    values = frozen(np.full(500_000, iteration, np.float32))
    write_snapshot(
        f"{folder}/net.caffemodel{end}",
        Weights((SavedLayer("ip", (SavedBlob(values),)),)),
        f"{folder}/net.solverstate{end}",
        SolverState(iteration, history=(SavedBlob(values),)),
    )
    print(iteration, flush=True)
"""


@pytest.mark.parametrize("end", ["", ".h5"])
def test_a_process_killed_while_it_writes(tmp_path: Path, end: str) -> None:
    """Whatever a SIGKILL leaves: files are whole, and a state goes with its own weights."""
    from netc.weights.caffemodel import read_weights

    rng = np.random.default_rng(7)
    model, state_file = tmp_path / f"net.caffemodel{end}", tmp_path / f"net.solverstate{end}"
    n_left = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), end],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        assert process.stdout.readline() == "1\n"  # the first pair is there
        time.sleep(rng.uniform(0, 0.1))  # some way into a later one
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

        ((_, (values,)),) = read_weights(model)
        assert values is not None
        assert values.shape == (500_000,)
        assert values.min() == values.max() >= 1
        if state_file.exists():
            state = read_state(state_file)
            assert state.weights_path() == model
            assert state.iter == values[0]
            assert np.array_equal(state.history[0].data, values)
        left = set(names(tmp_path)) - {model.name, state_file.name}
        assert all(atomic.TEMPORARY.fullmatch(name) for name in left)
        n_left += bool(left)
    assert n_left, "no kill fell into the writing: this test has tested nothing"
    write_state(state_file, SolverState(1))
    assert names(tmp_path) == [model.name, state_file.name]
