"""Update rules against float64 forms of their papers, bounds and noise, in pieces and in layouts.

Caffe's own rules are compared with Caffe in `test_trajectories`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.graph.types import Param
from netc.layers.fillers import Filler
from netc.layers.types import Neurons
from netc.train import pieces
from netc.train.constraint import shorten
from netc.train.policy import rates_at
from netc.train.settings import SolverSettings
from netc.train.update import RULES, UpdateRule

SHAPES = ((4, 3), (5,))
STEPS = 12
# Rounding of float32 in a few operations of each of the steps.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}

# (settings, iteration, params, gradients, state) -> what the params become; all float64. The
# gradients are the mean ones.
Paper = Callable[[SolverSettings, int, list[np.ndarray], list[np.ndarray], dict], list[np.ndarray]]


class Plain:
    """Params in C order."""

    def to_plain(self, index: int, raw: np.ndarray) -> np.ndarray:
        return raw

    def from_plain(self, index: int, values: np.ndarray, raw: np.ndarray) -> None:
        raw.reshape(values.shape)[...] = values


def params_of(shapes: Sequence[tuple[int, ...]] = SHAPES, **options: object) -> list[Param]:
    one = Param(0, 0, (), Filler(), 1.0, 1.0)
    return [
        dataclasses.replace(one, index=i, shape=shape, **options)  # type: ignore[arg-type]
        for i, shape in enumerate(shapes)
    ]


def rule_of(
    settings: SolverSettings, params: Sequence[Param], layouts: Plain | None = None, seed: int = 0
) -> UpdateRule:
    return RULES[settings.type](
        settings,
        params,
        [param.shape for param in params],
        layouts or Plain(),
        lambda index, iteration: np.random.default_rng([seed, index, iteration]),
    )


def settings_of(**options: object) -> SolverSettings:
    return SolverSettings(**({"base_lr": 0.1, "lr_policy": "fixed"} | options))  # type: ignore[arg-type]


def gradients(shapes: Sequence[tuple[int, ...]] = SHAPES) -> Iterator[list[np.ndarray]]:
    rng = np.random.default_rng(1)
    while True:
        yield [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def start(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def adamw(s: SolverSettings, t: int, w: list, g: list, state: dict) -> list[np.ndarray]:
    """Loshchilov and Hutter 2019, algorithm 2, lines 6 to 12; eta is 1, alpha the rate."""
    found = []
    for i, (x, dx) in enumerate(zip(w, g, strict=True)):
        m, v = state.get(i, (0.0, 0.0))
        m = s.momentum * m + (1 - s.momentum) * dx
        v = s.momentum2 * v + (1 - s.momentum2) * dx**2
        state[i] = m, v
        m_hat, v_hat = m / (1 - s.momentum ** (t + 1)), v / (1 - s.momentum2 ** (t + 1))
        step = m_hat / (np.sqrt(v_hat) + s.delta) + s.weight_decay * x
        found.append(x - s.base_lr * step)
    return found


def lars(s: SolverSettings, t: int, w: list, g: list, state: dict) -> list[np.ndarray]:
    """You, Gitman and Ginsburg 2017, algorithm 1, for each param."""
    found = []
    for i, (x, dx) in enumerate(zip(w, g, strict=True)):
        norm, slope = np.linalg.norm(x), np.linalg.norm(dx)
        local = s.local_gw_ratio * norm / (slope + s.weight_decay * norm)
        state[i] = s.momentum * state.get(i, 0.0) + s.base_lr * local * (dx + s.weight_decay * x)
        found.append(x - state[i])
    return found


def larc(s: SolverSettings, t: int, w: list, g: list, state: dict) -> list[np.ndarray]:
    """NVCaffe's: the trust ratio scales the rate, or is the most it may be."""
    found = []
    for i, (x, dx) in enumerate(zip(w, g, strict=True)):
        trust = (1 - s.momentum) * s.larc_eta * np.linalg.norm(x) / np.linalg.norm(dx)
        rate = min(s.base_lr, trust) if s.larc_policy == "clip" else s.base_lr * trust
        state[i] = s.momentum * state.get(i, 0.0) + rate * (dx + s.weight_decay * x)
        found.append(x - state[i])
    return found


def growing(s: SolverSettings, t: int, w: list, g: list, state: dict) -> list[np.ndarray]:
    """SGD whose momentum and decay follow NVCaffe's polynomials."""
    part = t / s.max_iter
    momentum = s.momentum + (0.9 - s.momentum) * part**2
    decay = s.weight_decay + (s.max_weight_decay - s.weight_decay) * part**0.5
    for i, (x, dx) in enumerate(zip(w, g, strict=True)):
        state[i] = momentum * state.get(i, 0.0) + s.base_lr * (dx + decay * x)
    return [x - state[i] for i, x in enumerate(w)]


PAPERS: dict[str, tuple[Paper, dict[str, object]]] = {
    "AdamW": (adamw, {"type": "AdamW", "momentum": 0.9, "weight_decay": 0.1, "delta": 1e-3}),
    "LARS": (
        lars,
        {"local_lr_auto": True, "local_gw_ratio": 0.3, "momentum": 0.9, "weight_decay": 0.1},
    ),
    "LARC, scaling": (larc, {"larc": True, "larc_eta": 0.5, "momentum": 0.5, "weight_decay": 0.1}),
    "LARC, clipping": (
        larc,
        {"larc": True, "larc_policy": "clip", "larc_eta": 0.12, "momentum": 0.5},
    ),
    "policies": (
        growing,
        {
            "momentum": 0.5,
            "momentum_policy": "poly",
            "max_momentum": 0.9,
            "momentum_power": 2.0,
            "weight_decay": 0.01,
            "weight_decay_policy": "poly",
            "max_weight_decay": 0.1,
            "weight_decay_power": 0.5,
            "max_iter": 20,
        },
    ),
}


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("iter_size", [1, 3])
def test_a_rule_is_that_of_its_paper(name: str, iter_size: int) -> None:
    paper, options = PAPERS[name]
    settings = settings_of(**options, iter_size=iter_size)
    rule, data, state = rule_of(settings, params_of()), start(), {}
    wanted = [values.astype(np.float64) for values in data]
    for t, mean in zip(range(STEPS), gradients(), strict=False):
        wanted = paper(settings, t, wanted, [g.astype(np.float64) for g in mean], state)
        rule.apply(rates_at(settings, t), data, [g * np.float32(iter_size) for g in mean])
        for ours, theirs in zip(data, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_lars_measures_with_the_solvers_decay_and_asks_lr_mult_for_0_only() -> None:
    """As IntelCaffe computes it."""
    settings = settings_of(local_lr_auto=True, local_gw_ratio=0.3, weight_decay=0.1)
    (w,), (g, *_) = start(SHAPES[:1]), next(gradients())
    before = w.astype(np.float64)
    norm, slope = np.linalg.norm(before), np.linalg.norm(g.astype(np.float64))
    wanted = before - 0.1 * 0.3 * norm / (slope + 0.1 * norm) * g
    rule_of(settings, params_of(SHAPES[:1], lr_mult=2.0, decay_mult=0.0)).apply(
        rates_at(settings, 0), [w], [g.copy()]
    )
    np.testing.assert_allclose(w, wanted, **CLOSE)
    zero = np.zeros(SHAPES[0], np.float32)
    rule_of(settings, params_of(SHAPES[:1])).apply(rates_at(settings, 0), [zero], [g.copy()])
    np.testing.assert_allclose(zero, -0.1 * g, rtol=1e-6)


def test_both_ways_to_clip_with_larc_matter() -> None:
    """Else the comparison with the paper would have seen one branch only."""
    _, options = PAPERS["LARC, clipping"]
    settings = settings_of(**options)
    trusts = [
        0.5 * settings.larc_eta * np.linalg.norm(w) / np.linalg.norm(g)
        for w, g in zip(start(), next(gradients()), strict=True)
    ]
    assert min(trusts) < settings.base_lr < max(trusts)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("extra", ["", "L1", "values"])
def test_pieces_and_threads_change_no_bit(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    momentum = 0.0 if kind in ("AdaGrad", "RMSProp") else 0.9
    options: dict[str, object] = {"type": kind, "momentum": momentum, "weight_decay": 0.1}
    options |= {"regularization_type": "L1"} if extra == "L1" else {}
    options |= {"clip_gradient_values": 0.5} if extra == "values" else {}
    settings = settings_of(**options)
    shapes = ((40, 30),)
    whole, data = rule_of(settings, params_of(shapes)), start(shapes)
    cut, same = rule_of(settings, params_of(shapes)), start(shapes)
    by_hand, third = rule_of(settings, params_of(shapes)), start(shapes)
    for t, (g,) in zip(range(3), gradients(shapes), strict=False):
        rates = rates_at(settings, t)
        whole.apply(rates, data, [g.copy()])
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "PIECE", 37)
            patch.setattr(pieces, "PIECES_WORTH_THREADS", 2)
            cut.apply(rates, same, [g.copy()])
        for first in range(0, g.size, 500):
            part = slice(first, first + 500)
            by_hand.apply_to(
                0, rates, third[0].reshape(-1)[part], g.reshape(-1)[part].copy(), first
            )
    for other, rule in ((same, cut), (third, by_hand)):
        np.testing.assert_array_equal(data[0], other[0])
        for ours, theirs in zip(whole.history, rule.history, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 300_000])
def test_norms(size: int) -> None:
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    found = pieces.norm(values, np.full(4, 2, np.float32))
    assert found == pytest.approx(np.sqrt((values.astype(np.float64) ** 2).sum() + 16), rel=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "computing", lambda: 5)
        patch.setattr(pieces, "PIECES_WORTH_THREADS", 1)
        patch.setattr(pieces, "ROWS", 7)
        assert pieces.norm(values, np.full(4, 2, np.float32)) == found


def test_each_param_can_have_its_own_penalty() -> None:
    settings = settings_of(weight_decay=0.1, base_lr=1.0)
    (a,), (b,) = params_of(SHAPES[:1]), params_of(SHAPES[:1], regularization_type="L1")
    data = [*start(SHAPES[:1]), *start(SHAPES[:1])]
    before = data[0].copy()
    rule_of(settings, [a, b]).apply(rates_at(settings, 0), data, [None, None])
    np.testing.assert_allclose(data[0], before - 0.1 * before, rtol=1e-6)
    np.testing.assert_allclose(data[1], before - np.float32(0.1) * np.sign(before), rtol=1e-6)


@pytest.mark.parametrize("kind", RULES)
def test_a_frozen_param_stays(kind: str) -> None:
    settings = settings_of(type=kind, weight_decay=0.1, max_norm=0.01, clamp_weights_upper=0.0)
    params = params_of(lr_mult=0.0, neurons=Neurons.rows(SHAPES[0]))
    data, diffs = start(), [*next(gradients())]
    rule_of(settings, params).apply(rates_at(settings, 0), data, diffs)
    for ours, before in zip(data, start(), strict=True):
        np.testing.assert_array_equal(ours, before)


def test_values_are_clipped_before_the_norm() -> None:
    settings = settings_of(base_lr=1.0, clip_gradient_values=1.0, clip_gradients=2.0)
    gradient = np.array([3.0, -4.0, 0.5, 1.0, 1.0, 1.0, 1.0], np.float32)
    clipped = np.clip(gradient, -1, 1)
    wanted = clipped * 2 / np.linalg.norm(clipped)
    assert np.linalg.norm(clipped) > 2
    data = [np.zeros(7, np.float32)]
    rule_of(settings, params_of([(7,)])).apply(rates_at(settings, 0), data, [gradient])
    np.testing.assert_allclose(data[0], -wanted, rtol=1e-6)


def test_noise_has_the_variance_of_its_paper_and_follows_from_seed_and_iteration() -> None:
    settings = settings_of(base_lr=1.0, gradient_noise=0.3, gradient_noise_decay=0.55, iter_size=2)
    params = params_of([(50_000,)])

    def step(iteration: int, seed: int = 0) -> np.ndarray:
        data = [np.zeros(50_000, np.float32)]
        diffs = [np.full(50_000, 4.0, np.float32)]
        rule_of(settings, params, seed=seed).apply(rates_at(settings, iteration), data, diffs)
        return data[0]

    for iteration in (0, 9):
        moved = step(iteration)
        wanted = np.sqrt(0.3 / (1 + iteration) ** 0.55)
        # Standard errors of mean and deviation of 50,000 values are 0.0045 and 0.0032 of this.
        assert -moved.mean() == pytest.approx(2.0, abs=5 * 0.0045 * wanted)
        assert moved.std() == pytest.approx(wanted, rel=5 * 0.0032)
        np.testing.assert_array_equal(moved, step(iteration))
        assert not np.array_equal(moved, step(iteration, seed=1))


@pytest.mark.parametrize("kind", RULES)
def test_what_is_infinite_becomes_so_without_a_warning(kind: str) -> None:
    """The suite turns warnings into errors; whoever trains is told by the guards."""
    settings = settings_of(type=kind, clip_gradients=1.0, weight_decay=1e38)
    data = [np.full(3, 1e38, np.float32)]
    rule = rule_of(settings, params_of([(3,)]))
    for diff in (np.full(3, np.inf, np.float32), np.full(3, 3e38, np.float32)):
        rule.apply(rates_at(settings, 0), data, [diff])
    assert not np.isfinite(data[0]).all()


@given(
    shape=st.tuples(*[st.integers(0, 4)] * 3),
    axes=st.sets(st.integers(0, 2), min_size=1, max_size=3),
    limit=st.floats(0.1, 3),
    piece=st.integers(1, 20),
)
def test_max_norm_shortens_each_neuron_that_is_too_long(
    shape: tuple[int, int, int], axes: set[int], limit: float, piece: int
) -> None:
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = weights.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netc.train.constraint.PIECE", piece)
        changed = shorten(weights, Neurons(shape, tuple(sorted(axes))), limit)
    others = [axis for axis in range(3) if axis not in axes]
    longer = 0
    for place in np.ndindex(*(shape[axis] for axis in others)):
        neuron = tuple(
            place[others.index(axis)] if axis in others else slice(None) for axis in range(3)
        )
        length = np.linalg.norm(before[neuron].astype(np.float64))
        longer += length > limit * (1 + 1e-6)
        wanted = before[neuron] * limit / max(length, limit)
        np.testing.assert_allclose(weights[neuron], wanted, rtol=1e-5)
    assert changed or not longer


def test_weights_are_bounded_after_the_update() -> None:
    """All together first, then each: CaffeWindows' order."""
    settings = settings_of(base_lr=1.0, clip_weights=2.0, clamp_weights_lower=-0.5)
    values = np.array([3.0, -4.0], np.float32)
    data = [values, np.array([1.0], np.float32), np.array([9.0], np.float32)]
    params = [*params_of([(2,), (1,)]), *params_of([(1,)], lr_mult=0.0)]
    wanted = np.array([3.0, -4.0, 1.0]) * 2 / np.sqrt(26)
    rule_of(settings, params).apply(rates_at(settings, 0), data, [None] * 3)
    np.testing.assert_allclose(np.concatenate(data[:2]), np.maximum(wanted, -0.5), rtol=1e-6)
    assert data[2] == 9, "a frozen param counts neither for the norm nor is it touched"
    clamped = settings_of(clamp_weights_lower=-1.0, clamp_weights_upper=1.0)
    single = [np.array([3.0, -4.0, 0.5], np.float32)]
    rule_of(clamped, params_of([(3,)])).apply_to(0, rates_at(clamped, 0), single[0], None)
    np.testing.assert_array_equal(single[0], [1, -1, 0.5])
