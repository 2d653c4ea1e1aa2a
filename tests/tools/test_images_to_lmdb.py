from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import images_to_lmdb
import lmdb
import numpy as np
import pytest

from netc.errors import NetcError
from netc.schema import netc_pb2

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four images, of which each tool call may read a list."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (4, 6)), ("b c.png", (4, 6)), ("d.jpg", (8, 8))):
        assert cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    assert cv2.imwrite(str(folder / "gray.png"), rng.integers(0, 256, (4, 6), np.uint8))
    return folder


def convert(
    monkeypatch: pytest.MonkeyPatch, photos: Path, lines: str, *options: str
) -> list[tuple[str, netc_pb2.Datum]]:
    listed, output = photos / "list.txt", photos / "db"
    listed.write_text(lines, encoding="utf-8")
    command = ["images_to_lmdb.py", str(photos), str(listed), str(output), "-overwrite", *options]
    monkeypatch.setattr(sys, "argv", command)
    images_to_lmdb.main()
    with lmdb.open(str(output), readonly=True, lock=False) as env, env.begin() as transaction:
        return [
            (key.decode(), netc_pb2.Datum.FromString(value)) for key, value in transaction.cursor()
        ]


def planes(datum: netc_pb2.Datum) -> np.ndarray:
    shape = (datum.channels, datum.height, datum.width)
    return np.frombuffer(datum.data, np.uint8).reshape(shape)


def test_pixels_are_stored_as_bgr_planes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, a), (second, b), (_, gray) = convert(
        monkeypatch, photos, "a.png 3\nb c.png -1\n\ngray.png 0\n"
    )
    assert (first, a.label) == ("00000000_a.png", 3)
    assert (second, b.label) == ("00000001_b c.png", -1)
    expected = cv2.imread(str(photos / "a.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(planes(a), expected)
    assert gray.channels == 3  # a grey file counts as a colour image, unless -gray


def test_gray_and_resize(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datums = convert(monkeypatch, photos, "a.png 0\nd.jpg 1\n", "-gray", "-resize", "5x7")
    assert [planes(d).shape for _, d in datums] == [(1, 5, 7), (1, 5, 7)]
    image = cv2.imread(str(photos / "d.jpg"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(planes(datums[1][1])[0], cv2.resize(image, (7, 5)))


def test_files_go_in_unchanged_where_they_can(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, a), (_, d) = convert(monkeypatch, photos, "a.png 0\nd.jpg 1\n", "-encoded", "png")
    assert a.encoded and a.data == (photos / "a.png").read_bytes()
    assert d.encoded and d.data.startswith(b"\x89PNG")
    again = cv2.imdecode(np.frombuffer(d.data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(again, cv2.imread(str(photos / "d.jpg")))


def test_shuffling_repeats_and_depends_on_the_seed(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"a.png {i}\n" for i in range(20))

    def labels(*options: str) -> list[int]:
        return [d.label for _, d in convert(monkeypatch, photos, lines, *options)]

    assert labels() == list(range(20))
    shuffled = labels("-shuffle")
    assert shuffled != list(range(20)) and sorted(shuffled) == list(range(20))
    assert labels("-shuffle") == shuffled
    assert labels("-shuffle", "-seed", "1") != shuffled


def test_every_bad_line_and_image_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetcError) as caught:
        convert(monkeypatch, photos, "a.png 0\na.png\nb c.png\na.png 1.5\n")
    text = str(caught.value)
    assert [n for n in range(1, 5) if f"list.txt:{n}:1" in text] == [2, 3, 4]
    assert "got       b c.png" in text

    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (photos / "empty.jpg").touch()
    with pytest.raises(NetcError) as caught:
        convert(monkeypatch, photos, "broken.jpg 0\na.png 0\nempty.jpg 0\nabsent.jpg 0\n")
    text = str(caught.value)
    for line, name in ((1, "broken.jpg"), (3, "empty.jpg"), (4, "absent.jpg")):
        assert f"list.txt:{line}:1: image {photos / name}: " in text
    assert "No such file" in text
    assert not (photos / "db").exists()

    with pytest.raises(NetcError, match="the list is empty"):
        convert(monkeypatch, photos, "\n")
    with pytest.raises(NetcError, match=r"has the shape \(3, 8, 8\), the first image \(3, 4, 6\)"):
        convert(monkeypatch, photos, "a.png 0\nd.jpg 0\n", "-check_size")


def test_a_mistake_is_one_message_and_exit_status_1(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "tools" / "images_to_lmdb.py", tmp_path, tmp_path / "x", "db"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "the list cannot be read" in ended.stderr and "Traceback" not in ended.stderr
