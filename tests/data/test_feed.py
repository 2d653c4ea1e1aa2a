"""Feeds: Caffe's passes, resuming, reading ahead, and what happens when something goes wrong."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.data import Cursor, open_feed, probe, write_datums
from netc.data.feed import Feed
from netc.data.source import Batch, arrays_for
from netc.errors import NetcError, Span, fail
from netc.graph.build import build, net_state
from netc.layers.data import Data, Database, HDF5Data, ImageData, Reader
from netc.layers.input import Input
from netc.layers.transform import ImageTransform
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import read_net
from tests.data.samples import FILES, OpenLayer, batches, encoded, pixels, raw

GOLDEN = sorted(FILES.glob("data_layer_*.npz"))


def test_the_golden_passes_are_there() -> None:
    assert len(GOLDEN) == 7


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_three_passes_are_caffes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FILES)  # their paths are relative to it
    with np.load(path) as golden:
        (tmp_path / "net.prototxt").write_text(str(golden["prototxt"]))
        source = read_net(tmp_path / "net.prototxt")
        state = net_state(source.message, Phase[str(golden["phase"])])
        graph = build(source, state, probe=probe)
        (node,) = graph.nodes
        shapes = [graph.blobs[key].shape for key in node.tops]
        outs = [np.full(shape, np.nan, np.float32) for shape in shapes]
        compared = 0
        with open_feed(
            node.layer, node.name, shapes, phase=graph.phase, seed=1, span=node.span
        ) as feed:
            for k in range(3):
                feed.fill(outs)
                for top, out in zip(node.tops, outs, strict=True):
                    # Exact: the arithmetic is two roundings of float32, in Caffe's order.
                    np.testing.assert_array_equal(out, golden[f"forward{k}:{top}"])
                    compared += 1
        assert compared == sum(key.startswith("forward") for key in golden)


# -- going on where a run was interrupted ----------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """Return a layer of each type, with everything random in it that the type has."""
    folder = tmp_path_factory.mktemp("sources")
    images = [pixels(6, 5, 3, seed=i) for i in range(11)]
    planes = [image.transpose(2, 0, 1) for image in images]
    write_datums(folder / "raw", (raw(image, i) for i, image in enumerate(planes)))
    write_datums(folder / "png", (encoded(image, i) for i, image in enumerate(images)))
    lines = []
    for i, image in enumerate(images):
        (folder / f"{i}.png").write_bytes(encoded(image).data)
        lines.append(f"{i}.png {i}\n")
    (folder / "images").write_text("".join(lines))
    for i, rows in enumerate((4, 1, 6)):
        with h5py.File(folder / f"{i}.h5", "w") as h5:
            h5["data"] = np.random.default_rng(i).normal(size=(rows, 3))
            h5["label"] = np.arange(rows)
    (folder / "rows").write_text("0.h5 1.h5 2.h5")
    param = ImageTransform(crop_size=4, mirror=True, mean_value=(9.0,), scale=0.5)
    tops = ("data", "label")
    lmdb = Database.LMDB
    return {
        "raw": Data(str(folder / "raw"), 4, tops, 5, param, lmdb),
        "png": Data(str(folder / "png"), 4, tops, 5, param, lmdb, prefetch=1),
        "images": ImageData(str(folder / "images"), 4, tops, 5, param, shuffle=True),
        "rows": HDF5Data(str(folder / "rows"), 4, tops, shuffle=True),
    }


@pytest.mark.parametrize("kind", ["raw", "png", "images", "rows"])
@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_a_restored_feed_goes_on_bit_for_bit(
    sources: dict[str, Reader], open_layer: OpenLayer, kind: str, done: int
) -> None:
    layer = sources[kind]
    through = open_layer(layer, Phase.TRAIN, 7)
    before = through.state()
    batches(through, done)
    cursor = through.state()
    assert cursor == Cursor(before.position + 4 * done, 11)
    expected = batches(through, 5)

    other_process = open_layer(layer, Phase.TRAIN, 7)
    batches(other_process, 2)  # wherever it stands
    other_process.restore(cursor)
    assert other_process.state() == cursor
    for one, other in zip(batches(other_process, 5), expected, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", ["raw", "png", "images", "rows"])
def test_the_seed_decides(sources: dict[str, Reader], open_layer: OpenLayer, kind: str) -> None:
    runs = [
        np.concatenate(
            [x.ravel() for x, _ in batches(open_layer(sources[kind], Phase.TRAIN, seed), 3)]
        )
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


# -- reading ahead ---------------------------------------------------------------------------------


class Counting:
    """A source of the numbers 0, 1, ... that remembers what it was asked for."""

    size, start = 1000, 0

    def __init__(self, fail_at: int = 10**9, error: BaseException | None = None) -> None:
        self.loaded: list[int] = []
        self.arrays: set[int] = set()
        self.closed = 0
        self.fail_at, self.error = fail_at, error

    def item(self) -> tuple[BlobType, ...]:
        return (BlobType(()),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        assert not self.closed, "read after it was closed"
        if position >= self.fail_at:
            raise self.error or fail("bad item", got=position)
        self.loaded.append(position)
        batch = arrays_for(((count,),), reuse)
        self.arrays.add(batch[0].ctypes.data)
        batch[0][:] = np.arange(position, position + count)
        return batch

    def close(self) -> None:
        self.closed += 1


Counted = Callable[..., Feed]


@pytest.fixture
def counted() -> Iterator[Counted]:
    """Return a function that makes a feed of a counting source; closes it in the end."""
    feeds: list[Feed] = []

    def make(source: Counting, depth: int = 3, count: int = 5) -> Feed:
        feeds.append(Feed(source, count, Cursor(0, 1000), depth, Span("net", 1, 1), "'x' (Data)"))
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; give up after ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the other thread did not get there"
        time.sleep(0.001)


def readers() -> int:
    return sum(thread.name == "netc-feed" for thread in threading.enumerate())


def test_as_many_batches_are_read_ahead_as_allowed(counted: Counted) -> None:
    source = Counting()
    feed = counted(source, depth=3)
    time.sleep(0.02)
    assert source.loaded == []  # nobody has asked for anything
    out = np.empty(5, np.float32)
    feed.fill([out])
    wait_until(lambda: len(source.loaded) == 4)
    time.sleep(0.02)
    assert source.loaded == [0, 5, 10, 15]  # one is used, three wait
    assert feed.state() == Cursor(5, 1000)
    for k in range(1, 50):
        feed.fill([out])
        assert out.tolist() == list(range(5 * k, 5 * k + 5))
    assert len(source.arrays) <= 3  # the same arrays over and over


def test_next_shapes_takes_nothing(counted: Counted) -> None:
    feed = counted(Counting())
    assert feed.next_shapes() == feed.next_shapes() == ((5,),)
    assert feed.state().position == 0
    out = np.empty(5, np.float32)
    feed.fill([out])
    assert out[0] == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=8), st.integers(1, 4))
def test_restoring_at_any_time(moves: list[tuple[bool, int]], depth: int) -> None:
    out = np.empty(5, np.float32)
    with Feed(Counting(), 5, Cursor(0, 1000), depth) as feed:
        position = 0
        for restore, number in moves:
            if restore:
                feed.restore(Cursor(number, 1000))
                position = number
            for _ in range(number % 4):
                feed.fill([out])
                assert out.tolist() == list(range(position, position + 5))
                position += 5
            assert feed.state() == Cursor(position, 1000)


def test_outs_of_any_layout(counted: Counted) -> None:
    out = np.zeros((5, 2))[:, 1]
    counted(Counting()).fill([out])
    assert out.tolist() == [0, 1, 2, 3, 4]


def test_an_error_while_reading_ahead_is_raised_in_its_turn(counted: Counted) -> None:
    feed = counted(Counting(fail_at=10))
    out = np.empty(5, np.float32)
    feed.fill([out])
    feed.fill([out])
    for _ in range(2):
        with pytest.raises(NetcError) as told:
            feed.fill([out])
        assert told.value.problems[0].layer == "'x' (Data)"
        assert told.value.problems[0].span == Span("net", 1, 1)
        assert told.value.problems[0].what == "bad item"
        assert feed.state().position == 10
    feed.restore(Cursor(0, 1000))
    feed.fill([out])
    assert out[4] == 4


def test_a_bug_while_reading_ahead_keeps_its_traceback(counted: Counted) -> None:
    feed = counted(Counting(fail_at=0, error=ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug") as bug:
        feed.fill([np.empty(5, np.float32)])
    assert "load" in [entry.name for entry in bug.traceback]


def test_another_shape_than_the_nets(counted: Counted) -> None:
    feed = counted(Counting())
    with pytest.raises(NetcError) as told:
        feed.fill([np.empty((4, 1), np.float32)])
    assert "expected  (4, 1), which the net was built for" in str(told.value)
    assert "got       (5,) for items 0 to 4" in str(told.value)
    out = np.empty(5, np.float32)
    feed.fill([out])  # nothing was lost
    assert out[0] == 0


def test_closing_ends_the_thread(counted: Counted) -> None:
    before = readers()
    source = Counting()
    feed = counted(source)
    feed.fill([np.empty(5, np.float32)])
    assert readers() == before + 1
    feed.close()
    feed.close()
    assert readers() == before
    assert source.closed == 1
    with pytest.raises(RuntimeError, match=re.escape("the feed of layer 'x' (Data) is closed")):
        feed.fill([np.empty(5, np.float32)])


def test_a_forgotten_feed_ends_its_thread() -> None:
    gc.collect()  # what earlier tests have forgotten
    before = readers()
    source = Counting()
    feed = Feed(source, 5, Cursor(0, 1000), 2)
    feed.fill([np.empty(5, np.float32)])
    assert readers() == before + 1
    del feed
    gc.collect()
    assert readers() == before
    assert source.closed == 1


def test_a_feed_nobody_closes_does_not_keep_python_alive(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_datums(tmp_path / "db", [raw(pixels(1, 2, 2))] * 3)
    program = (
        "import numpy as np\n"
        "from netc.data import open_feed\n"
        "from netc.layers.data import Data, Database\n"
        "from netc.layers.types import Phase\n"
        f"layer = Data(source={str(tmp_path / 'db')!r}, backend=Database.LMDB, batch_size=2,"
        " top=('data',))\n"
        "feed = open_feed(layer, 'd', [(2, 1, 2, 2)], phase=Phase.TRAIN, seed=1)\n"
        "feed.fill([np.empty((2, 1, 2, 2), np.float32)])\n"
        "print('done')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


# -- opening ---------------------------------------------------------------------------------------


def test_a_layer_that_reads_nothing() -> None:
    with pytest.raises(NetcError, match="there is no reader for layer type Input"):
        probe(Input())


def test_settings_are_checked_before_the_data_is_looked_for() -> None:
    with pytest.raises(Refusal, match="batch_size is missing"):
        probe(Data(source="absent", top=("data",)))
    with pytest.raises(Refusal, match="names no source"):
        probe(ImageData(top=("data",)), assume=True)
