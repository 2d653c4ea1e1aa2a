from __future__ import annotations

import numpy as np
import pytest

from netc.export import Session, lower_layer
from netc.layers.dynamic import Filter
from netc.layers.types import BackwardCall, BlobType, ForwardCall, Refusal
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    forward,
    load_vector,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering


def select(layer: Filter, *bottoms: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Run forward as a caller does that follows the data; return the tops and what is kept."""
    kept = np.zeros(len(bottoms[-1]), bool)
    call = ForwardCall(np, bottoms, (), (kept,), (), np.random.default_rng)
    return layer.forward(call), kept


def spread(
    layer: Filter, bottoms: tuple[np.ndarray, ...], kept: np.ndarray, *top_diffs: np.ndarray
) -> tuple[np.ndarray | None, ...]:
    wants = layer.gradient_bottoms(len(bottoms))
    unread = tuple(np.full(b.shape, np.nan) for b in bottoms)
    call = BackwardCall(np, unread, (), (), (kept,), top_diffs, wants, ())
    return layer.backward(call).bottoms


@pytest.mark.parametrize("name", vector_names("filter"))
def test_golden_vectors(name: str) -> None:
    # The selected items go through half the sum of their squares, whose gradient is y.
    vector = load_vector(name)
    bottoms = vector["param:parameter:0"], vector["input:s"]
    layer = Filter(("y",))
    (y,), kept = select(layer, *bottoms)
    assert_close(y, vector["blob:y"])
    dx, nothing = spread(layer, bottoms, kept, y)
    assert_close(dx, vector["grad_param:parameter:0"])
    assert nothing is None


@pytest.mark.parametrize("selector", [[0, 0, 0, 0], [0, -1, 0, 0.5], [1, 1, 0, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("extra", [(), (1, 1)])
def test_definition(selector: list[float], extra: tuple[int, ...]) -> None:
    a, b = smooth(4, 3), smooth(4, seed=1)
    s = np.array(selector).reshape(4, *extra)
    layer = Filter(("ya", "yb"))
    assert [t.shape for t in layer.infer(*(BlobType(x.shape) for x in (a, b, s))).tops] == [
        (4, 3),
        (4,),
    ]
    (ya, yb), kept = select(layer, a, b, s)
    chosen = [i for i in range(4) if selector[i] != 0]
    assert ya.tolist() == [a[i].tolist() for i in chosen]
    assert yb.tolist() == [b[i] for i in chosen]
    da, db, ds = spread(layer, (a, b, s), kept, ya, yb)
    for i in range(4):
        assert da[i].tolist() == (a[i].tolist() if i in chosen else [0, 0, 0])
        assert db[i] == (b[i] if i in chosen else 0)
    assert ds is None


def test_everything_selected_is_an_ordinary_layer() -> None:
    check_layer(Filter(("a", "b")), [smooth(3, 2), smooth(3, 1, 2), np.array([1.0, -1, 0.1])])


def test_buffers_of_the_largest_shape_cannot_hold_fewer_items() -> None:
    # One item would be spread over all places of the buffer without a word.
    with pytest.raises(Refusal, match="leaves items out") as caught:
        forward(Filter(("y",)), [smooth(3, 2), np.array([0.0, 1, 0])])
    assert caught.value.got == "1 of 3 items selected"


@pytest.mark.parametrize(
    ("tops", "shapes", "what"),
    [
        (("y", "z"), [(5, 2), (5,)], "number of tops"),
        (("y",), [(5, 2), (5, 2), (5,)], "number of tops"),
        (("y",), [(5, 2), (5, 2)], "more than one value"),
        (("y",), [(5, 2), ()], "more than one value"),
        (("y",), [(4, 2), (5,)], "not as many items"),
        (("y", "z"), [(5, 2), (), (5,)], "not as many items"),
    ],
)
def test_refusals(tops: tuple[str, ...], shapes: list[tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refusal, match=what) as caught:
        Filter(tops).infer(*map(BlobType, shapes))
    assert caught.value.expected and caught.value.got


def test_onnx_leaves_items_out() -> None:
    a, s = smooth(4, 3).astype(np.float32), np.array([0, 2, 0, -1], np.float32)
    layer = Filter(("y",))
    model = lower_layer(layer, [BlobType((4, 3)), BlobType((4,))], batch="dynamic")
    got = Session(model, threads=1).run({"bottom0": a, "bottom1": s})
    np.testing.assert_array_equal(got["top0"], a[[1, 3]])


def test_onnx() -> None:
    a, b, s = smooth(4, 3), smooth(4, 2), np.ones((4, 1))
    got = check_lowering(Filter(("y", "z")), [a, b, s], other_batch=[a[:2], b[:2], s[:2]])
    assert got == ["Reshape", "Cast", "Compress", "Compress"]
