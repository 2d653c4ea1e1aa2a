from __future__ import annotations

import json
import math
import tracemalloc
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers import fillers
from netc.layers.fillers import Filler, VarianceNorm
from netc.schema import bind_fields, netc_pb2

CASES = {
    case["name"]: case
    for case in json.loads(
        (Path(__file__).parents[1] / "conformance" / "fillers.json").read_text(encoding="utf-8")
    )
}

# Both Caffe's blob and ours are samples. A difference of six standard errors of the difference
# happens once in 5e8 comparisons; a wrong fan or bound is off by hundreds.
SIGMAS = 6 * math.sqrt(2)
# Values that are not drawn are float32 arithmetic.
EXACT = 1e-6


def filler_of(text: str) -> Filler:
    message = text_format.Parse(text, netc_pb2.FillerParameter())
    filler, unread = bind_fields(Filler, [message])
    assert not unread
    return filler


def draw(filler: Filler, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    values = filler.draw(np, np.random.default_rng(seed), shape)
    assert values.dtype == np.float32
    assert values.shape == shape
    return values


def test_the_cases_are_here() -> None:
    assert len(CASES) >= 18
    assert {filler_of(case["filler"]).type for case in CASES.values()} == {
        "constant", "uniform", "gaussian", "positive_unitball", "xavier", "msra", "bilinear",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_statistics_of_caffe(case: dict[str, Any]) -> None:
    filler, shape = filler_of(case["filler"]), tuple(case["shape"])
    values = draw(filler, shape)
    if "values" in case:
        np.testing.assert_allclose(values.ravel(), case["values"], rtol=EXACT, atol=EXACT)
        return
    n, std, share = values.size, case["std"], case["nonzero_fraction"]
    assert abs(values.mean() - case["mean"]) < SIGMAS * std / math.sqrt(n)
    nonzero = values[values != 0]
    assert abs(nonzero.size / n - share) <= SIGMAS * math.sqrt(share * (1 - share) / n)
    # The variance of a sample's variance is at most that of a normal one for these shapes of
    # distribution; a sparse blob adds the error of its share of zeros.
    spread = 1 / math.sqrt(2 * share * n) + math.sqrt((1 - share) / (share * n)) / 2
    assert abs(values.std() / std - 1) < SIGMAS * spread
    if filler.type in ("uniform", "xavier"):
        # Of 18,000 uniform values or more, the last is within a thousandth of its bound.
        reach = 1e-3 * (case["max"] - case["min"])
        assert abs(values.min() - case["min"]) < reach
        assert abs(values.max() - case["max"]) < reach
    if filler.type == "positive_unitball":
        assert values.min() >= 0
        sums = values.reshape(shape[0], -1).sum(axis=1, dtype=np.float64)
        np.testing.assert_allclose(sums, 1, rtol=1e-5)
        np.testing.assert_allclose(case["sum_per_output"], 1, rtol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_only_random_fillers_draw(case: dict[str, Any]) -> None:
    filler, shape = filler_of(case["filler"]), tuple(case["shape"])
    same = np.array_equal(draw(filler, shape, seed=1), draw(filler, shape, seed=2))
    assert same is not filler.random
    if not filler.random:
        assert np.array_equal(filler.draw(np, None, shape), draw(filler, shape))
    assert np.array_equal(draw(filler, shape, seed=1), draw(filler, shape, seed=1))


@given(
    shape=st.lists(st.integers(1, 6), max_size=5).map(tuple),
    norm=st.sampled_from(VarianceNorm),
)
def test_the_fan(shape: tuple[int, ...], norm: VarianceNorm) -> None:
    # A conv weight (O, I, h, w): a unit has I h w inputs, and each input goes to O h w units.
    inputs = math.prod(shape[1:])
    outputs = math.prod(shape[:1] + shape[2:]) if len(shape) > 1 else math.prod(shape)
    want = {
        VarianceNorm.FAN_IN: inputs,
        VarianceNorm.FAN_OUT: outputs,
        VarianceNorm.AVERAGE: (inputs + outputs) / 2,
    }[norm]
    assert Filler("xavier", variance_norm=norm).fan(shape) == want
    draw(Filler("xavier", variance_norm=norm), shape)
    draw(Filler("msra", variance_norm=norm), shape)


def test_a_sparse_unit_keeps_about_as_many_inputs_as_it_says() -> None:
    values = draw(Filler("gaussian", sparse=3), (50, 1000))
    # 60 of 1000 on average: a fraction of sparse / shape[0], not of the inputs.
    assert 40 < np.count_nonzero(values, axis=1).mean() < 80
    assert abs(np.count_nonzero(draw(Filler("gaussian", sparse=1), (2, 10000))) - 10000) < 500
    assert np.count_nonzero(draw(Filler("gaussian", sparse=0), (50, 20))) == 0
    assert np.count_nonzero(draw(Filler("gaussian", sparse=80), (50, 20))) == 1000


@pytest.mark.parametrize("kind", sorted({filler_of(c["filler"]).type for c in CASES.values()}))
def test_a_blob_without_elements(kind: str) -> None:
    assert draw(Filler(kind), (3, 0, 2, 2)).size == 0


def test_bilinear_weights_interpolate() -> None:
    """Twice as large by a deconvolution with stride 2 and pad 1: a constant stays what it is."""
    kernel = draw(Filler("bilinear"), (1, 1, 4, 4))[0, 0]
    for row in range(2):
        for column in range(2):
            assert kernel[row::2, column::2].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("filler", "shape", "text"),
    [
        (Filler("xaver"), None, "did you mean 'xavier'?"),
        (Filler("uniform", min=1, max=0.5), None, "min 1, max 0.5"),
        (Filler("gaussian", std=-1), None, "std -1"),
        (Filler("gaussian", sparse=-2), None, "sparse -2"),
        (Filler("xavier", sparse=5), None, "with type 'gaussian' only"),
        (Filler("bilinear"), (3, 1, 4, 5), "kernel_h == kernel_w"),
        (Filler("bilinear"), (3, 4), "4 axes"),
        (Filler("gabor"), (64, 1, 7, 7), "(64, 3, 7, 7)"),
        (Filler("gabor", sparse=3), (64, 3, 7, 7), "with type 'gaussian' only"),
    ],
)
def test_what_cannot_be_drawn(filler: Filler, shape: tuple[int, ...] | None, text: str) -> None:
    with pytest.raises(NetcError, match="filler") as error:
        filler.check(shape)
    assert text in str(error.value)
    with pytest.raises(NetcError):
        filler.draw(np, np.random.default_rng(0), shape or (2, 3))


def test_fields_that_a_type_does_not_use_are_ignored() -> None:
    # Published nets give xavier a std, and constant a min and max.
    given = Filler("xavier", std=0.01, value=3, min=5, max=4)
    assert np.array_equal(draw(given, (4, 5)), draw(Filler("xavier"), (4, 5)))


# Shape, filter, and of it: height and width of the wave, radians over half a kernel, phase, angle,
# and the parts of the channels.
GABOR = [
    ((32, 3, 5, 5), 3, 0.5, 0.6, 2 * pi, 0, 3 * pi / 8, (1, 1, 1)),
    ((32, 3, 5, 5), 10, 0.5, 0.6, pi, 0, pi * 5 / 12, (1, 1, 1)),
    ((32, 3, 5, 5), 15, 0.5, 0.75, pi / 4, pi, 0, (1, -1, 1)),
    ((32, 3, 5, 5), 18, 0.5, 0.6, pi / 2, pi / 2, pi * 11 / 8, (1, 1, 1)),
    ((32, 3, 5, 5), 25, 0.5, 0.6, pi / 2, pi / 2, pi * 7 / 8, (-1, 1, 1)),
    ((32, 3, 5, 5), 29, 0.5, 0.6, pi / 2, pi / 2, pi * 5 / 8, (-1, 1, -1)),
    ((32, 3, 5, 5), 30, 0.5, 0.6, pi / 2, pi / 2, pi * 3 / 8, (1, 1, 0)),
    ((64, 3, 7, 7), 11, 8 / 11, 0.475, 3 * pi / 2.5, pi * 44 / 32, pi / 4, (1, 1, 1)),
    ((64, 3, 7, 7), 33, 0.5, 0.45, 3 * pi, pi, pi / 8, (1, 1, 1)),
    ((64, 3, 7, 7), 42, 1 / 2, 1 / 1.5, pi / 4, 13 * pi, 0, (0.25, -1, 1)),
    ((64, 3, 7, 7), 47, 2 / 3, 1, pi / 4, pi / 2, pi * 57 / 8, (1, 0.1, -0.5)),
    ((64, 3, 3, 3), 58, 1, 1, pi / 12, pi / 2, pi * 9 / 8, (0.25, -1, 1)),
    ((96, 3, 11, 11), 9, 8 / 27, 0.525, 5 * pi / 1.5, pi * 44 / 32, pi / 6, (1, 1, 1)),
    ((96, 3, 11, 11), 54, 1 / 6, 1 / 1.5, pi / 4, 13 * pi, 0, (0.25, -1, 1)),
    ((96, 3, 11, 11), 61, 1 / 9, 2, 5 * pi / 8, pi / 2, pi * 5 / 8, (1, -0.5, -0.75)),
    ((96, 3, 11, 11), 91, 1 / 3, 0.6, 5 * pi / 16, pi / 2, pi * 25 / 16, (1, 1, 1)),
    ((96, 3, 11, 11), 94, 1 / 12, 0.75, 5 * pi / 4, pi / 2, pi * 49 / 32, (-1, -1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "index", "height", "width", "rate", "phase", "angle", "color"), GABOR
)
def test_gabor_filters(
    shape: tuple[int, ...],
    index: int,
    height: float,
    width: float,
    rate: float,
    phase: float,
    angle: float,
    color: tuple[float, ...],
) -> None:
    found = draw(Filler("gabor", std=0.01), shape)[index]
    size = shape[3]
    for row in range(size):
        for column in range(size):
            x, y = 2 * column / (size - 1) - 1, 2 * row / (size - 1) - 1
            bell = math.exp(-(x * x + y * y) / (2 * width * width))
            wave = math.cos((x * math.cos(angle) - y * math.sin(angle)) * rate + phase)
            expected = [part * height * bell * wave for part in color]
            assert found[:, row, column] == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3), (5,), ()])
def test_a_gaussian_unitball_has_units_of_length_1(shape: tuple[int, ...]) -> None:
    values = draw(Filler("gaussian_unitball"), shape)
    assert values.shape == shape
    rows = np.asarray(values, np.float64).reshape(shape[0] if shape else 1, -1)
    np.testing.assert_allclose((rows**2).sum(axis=1), 1, rtol=1e-5)
    assert (rows < 0).any() or rows.size < 3


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "xavier", "msra"])
def test_drawing_takes_little_memory_besides_the_values(kind: str) -> None:
    """The numbers are drawn in float64: at once they would be twice what is kept."""
    tracemalloc.start()
    values = draw(Filler(type=kind, std=1), (3000, 4000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * values.nbytes


def test_pieces_are_drawn_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = draw(Filler(type="gaussian", std=1), (7, 11))
    monkeypatch.setattr(fillers, "_PIECE", 5)
    np.testing.assert_array_equal(draw(Filler(type="gaussian", std=1), (7, 11)), at_once)
