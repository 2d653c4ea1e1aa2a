"""One call that checks a layer type through its rules, and the golden vectors.

    check_layer(ReLU(negative_slope=0.1), [distinct(2, 3, 4)])
    check_vector("relu__slope")

Inputs must lie away from kinks and ties, because gradients are compared with central differences:
`distinct` gives such values, `smooth` gives normal ones for types without kinks.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.layers import registry
from netc.layers.types import (
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    Part,
    Reads,
    Refusal,
    Signature,
)
from netc.schema import netc_pb2
from netc.schema.convert import bind_fields
from tests.support.audit import note

VECTORS = Path(__file__).parents[1] / "conformance" / "layers"

# float32 against another order of summation, as the vectors' README says: atol grows with the
# largest magnitude.
VECTOR_RTOL, VECTOR_ATOL = 1e-4, 1e-5
# The central difference in float64 with a step of 1e-5 is wrong by about step^2 and 1e-16 / step:
# both 1e-10 times the derivatives at hand.
STEP, GRADIENT_TOLERANCE = 1e-5, 1e-6
# Random directions per blob. Each sees every element, so that one would nearly do.
DIRECTIONS = 2


# -- values ----------------------------------------------------------------------------------------


def distinct(*shape: int, seed: int = 0) -> np.ndarray:
    """Return values in -1..1, no two alike and none near 0: no kink within reach of a step."""
    count = int(np.prod(shape))
    order = np.random.default_rng(seed).permutation(count)
    return ((order + 0.5) / max(count, 1) * 2 - 1 + 0.1 / max(count, 1)).reshape(shape)


def smooth(*shape: int, seed: int = 0) -> np.ndarray:
    """Return standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape)


def strided(array: np.ndarray) -> np.ndarray:
    """Return the same values in memory that is not contiguous on any axis."""
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = wide[(..., *(slice(None, None, 2) for _ in array.shape))]
    view[...] = array
    return view


def assert_close(
    got: np.ndarray,
    want: np.ndarray,
    what: str = "",
    *,
    rtol: float = VECTOR_RTOL,
    atol: float = VECTOR_ATOL,
) -> None:
    """Compare shapes exactly, values within rtol and atol (times the largest magnitude above 1)."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    scale = max(1.0, float(np.abs(want).max())) if want.size else 1.0
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol * scale, err_msg=what)


# -- one layer -------------------------------------------------------------------------------------


@dataclass
class Run:
    """A forward pass that has been made: what went in, what came out, and what the layer kept."""

    layer: Layer
    signature: Signature
    bottoms: tuple[np.ndarray, ...]
    params: tuple[np.ndarray, ...]
    kept: tuple[np.ndarray, ...]
    tops: tuple[np.ndarray, ...]

    def backward(
        self,
        top_diffs: Sequence[np.ndarray],
        wants_bottoms: Sequence[bool] | None = None,
        wants_params: Sequence[bool] | None = None,
    ) -> Gradients:
        """Run the backward rule. Where `backward_reads` is silent it sees NaNs, well shaped."""
        reads = self.layer.backward_reads()
        if wants_bottoms is None:
            wants_bottoms = self.layer.gradient_bottoms(len(self.bottoms))
        if wants_params is None:
            wants_params = [not p.frozen for p in self.signature.params]
        return self.layer.backward(
            BackwardCall(
                xp=np,
                bottoms=self.bottoms if Reads.BOTTOM in reads else _unreadable(self.bottoms),
                tops=self.tops if Reads.TOP in reads else _unreadable(self.tops),
                params=self.params,
                kept=self.kept,
                top_diffs=tuple(top_diffs),
                wants_bottoms=tuple(wants_bottoms),
                wants_params=tuple(wants_params),
            )
        )


def _unreadable(arrays: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(np.broadcast_to(np.array(np.nan, a.dtype), a.shape) for a in arrays)


def infer(layer: Layer, bottoms: Sequence[np.ndarray]) -> Signature:
    """Return the signature for bottoms of these shapes."""
    return layer.infer(*(BlobType(np.shape(b)) for b in bottoms))


def forward(
    layer: Layer,
    bottoms: Sequence[np.ndarray],
    params: Sequence[np.ndarray] = (),
    *,
    kept: Sequence[np.ndarray] | None = None,
    seed: int = 0,
    in_place: bool = False,
) -> Run:
    """Run the forward rule in the dtype of the first array; `kept` starts at zero unless given.

    `call.out` starts as NaN. Its arrays are used as the tops, what the rule returns is copied into
    them: as the runtime does it. With `in_place` the first top lies in (a copy of) the first
    bottom. Params and `kept` that the rule writes are copies too, found in the result.
    """
    signature = infer(layer, bottoms)
    dtype = np.result_type(*(a.dtype for a in (*bottoms, *params)[:1]), np.float32)
    bottoms, params = (
        tuple(bottoms),
        tuple(np.copy(p) if t.frozen else p for p, t in zip(params, signature.params, strict=True)),
    )
    if kept is None:
        kept = [np.zeros(k.shape) for k in signature.kept]
    kept = tuple(
        np.array(k, dtype if t.dtype == "float32" else t.dtype)
        for k, t in zip(kept, signature.kept, strict=True)
    )
    out = tuple(np.full(t.shape, np.nan, dtype) for t in signature.tops)
    given = bottoms
    if in_place:
        out[0][...] = bottoms[0]
        given = (out[0], *bottoms[1:])
    tops = layer.forward(
        ForwardCall(np, given, params, kept, out, lambda: np.random.default_rng(seed))
    )
    assert len(tops) == len(out), f"{len(tops)} tops returned, {len(out)} inferred"
    for index, (top, buffer) in enumerate(zip(tops, out, strict=True)):
        _check_array(top, buffer.shape, dtype, f"top {index}")
        if top is not buffer:
            buffer[...] = top
    return Run(layer, signature, bottoms, params, kept, out)


def _check_array(array: Any, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    got = np.shape(array)
    assert got == shape, f"{what}: computed shape {got}, inferred {shape}"
    if np.size(array) > 1 and dtype == np.float32:
        assert array.dtype != np.float64, (
            f"{what}: float32 in, float64 out (twice the memory traffic)"
        )


def check_layer(
    layer: Layer,
    bottoms: Sequence[np.ndarray],
    params: Sequence[np.ndarray] | None = None,
    *,
    kept: Sequence[np.ndarray] | None = None,
    gradient: bool = True,
    tolerance: float = GRADIENT_TOLERANCE,
    rounding: float = VECTOR_RTOL,
    seed: int = 0,
) -> Run:
    """Check what holds for every layer type; return the float64 run, to look at the values.

    - The shapes inferred are the shapes computed, of tops and of gradients.
    - Nothing given is modified (frozen params, statistics, may be), also where it is not
      contiguous, and the results are then the same; float32 gives the float64 result within
      `rounding`; in place too, if allowed.
    - Each gradient matches the central difference of sum(tops * random weights) along random
      directions.
    - A gradient does not depend on which others are wanted; what `backward_reads` does not name is
      not read.

    `params` are drawn at random unless given. `kept` gives blobs that persist from pass to pass
    their start. Bottoms whose `gradient_bottoms` is False (labels, indices) are left at their
    values. `gradient=False` skips the backward rule.
    """
    bottoms = [np.asarray(b, np.float64) for b in bottoms]
    signature = infer(layer, bottoms)
    if params is None:
        params = [smooth(*p.shape, seed=seed + i + 1) for i, p in enumerate(signature.params)]
    params = [np.asarray(p, np.float64) for p in params]
    assert len(params) == len(signature.params), "params given and inferred differ in number"
    for p, t in zip(params, signature.params, strict=True):
        assert p.shape == t.shape, f"param of shape {p.shape} given, {t.shape} inferred"
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(t.shape) for t in signature.tops]

    def again(bs: Sequence[np.ndarray], ps: Sequence[np.ndarray], **options: bool) -> Run:
        with _unmodified("forward", *bs, *ps):
            return forward(layer, bs, ps, kept=kept, seed=seed, **options)

    run = again(bottoms, params)
    for top, repeated in zip(run.tops, again(bottoms, params).tops, strict=True):
        np.testing.assert_array_equal(top, repeated, "a second forward pass differs from the first")
    scattered = again([strided(b) for b in bottoms], [strided(p) for p in params])
    for top, other in zip(run.tops, scattered.tops, strict=True):
        assert_close(other, top, "top, from inputs that are not contiguous", rtol=1e-9, atol=1e-9)
    single = again([b.astype(np.float32) for b in bottoms], [p.astype(np.float32) for p in params])
    for top, other in zip(run.tops, single.tops, strict=True):
        assert_close(other, top, "top, in float32", rtol=rounding, atol=rounding)
    if layer.in_place:
        for top, other in zip(run.tops, again(bottoms, params, in_place=True).tops, strict=True):
            np.testing.assert_array_equal(other, top, "the top differs when computed in place")
    if not gradient:
        return run

    allowed = layer.gradient_bottoms(len(bottoms))
    learnt = [not p.frozen for p in signature.params]
    full = _checked_backward(run, weights, allowed, learnt)
    _check_wants(run, weights, allowed, learnt, full)
    diffs = [strided(w) for w in weights]
    _compare(_checked_backward(scattered, diffs, allowed, learnt), full, 1e-9, "not contiguous")
    diffs = [w.astype(np.float32) for w in weights]
    _compare(_checked_backward(single, diffs, allowed, learnt), full, rounding, "in float32")

    def objective(bs: Sequence[np.ndarray], ps: Sequence[np.ndarray]) -> float:
        tops = forward(layer, bs, ps, kept=kept, seed=seed).tops
        return sum(float(np.sum(w * t)) for w, t in zip(weights, tops, strict=True))

    for index, wanted in enumerate(allowed):
        if wanted:
            _check_slope(
                lambda x, i=index: objective([*bottoms[:i], x, *bottoms[i + 1 :]], params),
                bottoms[index], full.bottoms[index], rng, tolerance, f"gradient of bottom {index}",
            )  # fmt: skip
            note("gradient", layer.type)
    for index, wanted in enumerate(learnt):
        if wanted:
            _check_slope(
                lambda x, i=index: objective(bottoms, [*params[:i], x, *params[i + 1 :]]),
                params[index], full.params[index], rng, tolerance, f"gradient of param {index}",
            )  # fmt: skip
            note("gradient", layer.type)
    return run


@contextlib.contextmanager
def _unmodified(what: str, *arrays: np.ndarray) -> Iterator[None]:
    """Check at the end of the block that the arrays are what they were at its start."""
    copies = [np.copy(a) for a in arrays]
    yield
    for before, after in zip(copies, arrays, strict=True):
        np.testing.assert_array_equal(after, before, f"{what} modified what it was given")


def _checked_backward(
    run: Run,
    diffs: Sequence[np.ndarray],
    wants_bottoms: Sequence[bool],
    wants_params: Sequence[bool],
) -> Gradients:
    """Run backward; check that it modifies nothing and returns what is wanted, well shaped."""
    with _unmodified("backward", *run.bottoms, *run.params, *run.tops, *run.kept, *diffs):
        found = run.backward(diffs, wants_bottoms, wants_params)
    for kind, wants, arrays, gradients in (
        ("bottom", wants_bottoms, run.bottoms, found.bottoms),
        ("param", wants_params, run.params, found.params),
    ):
        assert len(gradients) == len(wants), f"{len(gradients)} {kind} gradients, not {len(wants)}"
        for index, (wanted, like, got) in enumerate(zip(wants, arrays, gradients, strict=True)):
            what = f"gradient of {kind} {index}"
            assert got is not None or not wanted, f"{what} is wanted, but None"
            if wanted:
                _check_array(got, like.shape, diffs[0].dtype if diffs else like.dtype, what)
    return found


def _check_wants(
    run: Run,
    diffs: Sequence[np.ndarray],
    allowed: Sequence[bool],
    learnt: Sequence[bool],
    full: Gradients,
) -> None:
    """Ask for each gradient alone, and for all but each: none may depend on the others."""
    flags = [*allowed, *learnt]
    n = len(allowed)
    for index in (i for i, flag in enumerate(flags) if flag):
        for wants in (
            [i == index for i in range(len(flags))],
            [flag and i != index for i, flag in enumerate(flags)],
        ):
            if any(wants):
                part = _checked_backward(run, diffs, wants[:n], wants[n:])
                wanted = Gradients(
                    tuple(g if w else None for g, w in zip(part.bottoms, wants[:n], strict=True)),
                    tuple(g if w else None for g, w in zip(part.params, wants[n:], strict=True)),
                )
                _compare(wanted, full, 1e-9, f"wanted: {wants}")


def _compare(got: Gradients, want: Gradients, tolerance: float, what: str) -> None:
    pairs = zip((*got.bottoms, *got.params), (*want.bottoms, *want.params), strict=True)
    for index, (a, b) in enumerate(pairs):
        if a is not None and b is not None:
            assert_close(a, b, f"gradient {index}, {what}", rtol=tolerance, atol=tolerance)


def _check_slope(
    f: Callable[[np.ndarray], float],
    x: np.ndarray,
    gradient: np.ndarray,
    rng: np.random.Generator,
    tolerance: float,
    what: str,
) -> None:
    """Compare the gradient of f at x with central differences along random directions.

    Where the two one-sided slopes differ there is a kink nearby, and the test's input is to blame.
    """
    for _ in range(DIRECTIONS):
        direction = rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape)
        here, above, below = f(x), f(x + STEP * direction), f(x - STEP * direction)
        slope = (above - below) / (2 * STEP)
        scale = max(1.0, float(np.sum(np.abs(gradient * direction))))
        bend = abs(above - 2 * here + below) / STEP / scale
        assert bend < 1e-2, f"{what}: the input lies on a kink, choose another ({bend:.3g})"
        got = float(np.sum(gradient * direction))
        assert abs(got - slope) <= tolerance * scale, f"{what}: {got!r}, by differences {slope!r}"


# -- small nets: golden vectors, types that expand -------------------------------------------------


@dataclass
class Step:
    """A layer between named blobs."""

    name: str
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[np.ndarray, ...] = ()
    run: Run | None = None


def expanded(step: Step, types: Mapping[str, BlobType]) -> list[Step]:
    """Return the steps that stand for this one, itself if it has rules; `types` has its bottoms."""
    parts = step.layer.expand(*(types[b] for b in step.bottoms))
    if parts is None:
        return [step]
    outside = {f"$b{i}": b for i, b in enumerate(step.bottoms)}
    outside |= {f"$t{i}": t for i, t in enumerate(step.tops)}

    def inner(part: Part, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(outside.get(n, f"{step.name}{n}" if n.startswith(".") else n) for n in names)

    params = iter(step.params)
    known, steps = dict(types), []
    for part in parts:
        one = Step(
            f"{step.name}/{part.name}",
            part.layer,
            inner(part, part.bottoms),
            inner(part, part.tops),
        )
        for small in expanded(one, known):
            found = small.layer.infer(*(known[b] for b in small.bottoms))
            small.params = tuple(itertools.islice(params, len(found.params)))
            known |= dict(zip(small.tops, found.tops, strict=True))
            steps.append(small)
    return steps


def run_steps(
    steps: Sequence[Step], inputs: Mapping[str, np.ndarray], diffs: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run the steps in order, then back: the plainest executor there can be.

    Returns the blobs, and the diffs of inputs and blobs, the latter empty without `diffs` (of the
    outputs). The gradients of params are found under "step:index". A name that is written again
    means its new content.
    """
    blobs, version = dict(inputs), dict.fromkeys(inputs, 0)
    read, written = [], []
    for step in steps:
        read.append([(b, version[b]) for b in step.bottoms])
        step.run = forward(step.layer, [blobs[b] for b in step.bottoms], step.params)
        for top, value in zip(step.tops, step.run.tops, strict=True):
            blobs[top] = value
            version[top] = version.get(top, -1) + 1
        written.append([(t, version[t]) for t in step.tops])
    if diffs is None:
        return blobs, {}
    flowing: dict[tuple[str, int], np.ndarray] = {(b, version[b]): d for b, d in diffs.items()}
    gradients: dict[str, np.ndarray] = {}
    for step, bottoms, tops in reversed(list(zip(steps, read, written, strict=True))):
        run = step.run
        assert run is not None
        if not any(t in flowing for t in tops):
            continue
        found = run.backward(
            [flowing.get(t, np.zeros_like(v)) for t, v in zip(tops, run.tops, strict=True)]
        )
        allowed = run.layer.gradient_bottoms(len(bottoms))
        for key, gradient, flows in zip(bottoms, found.bottoms, allowed, strict=True):
            if flows and gradient is not None:
                flowing[key] = flowing[key] + gradient if key in flowing else gradient
        for index, gradient in enumerate(found.params):
            if gradient is not None and not run.signature.params[index].frozen:
                gradients[f"{step.name}:{index}"] = gradient
    gradients |= {name: value for (name, v), value in flowing.items() if v == 0}
    return blobs, gradients


def vector_names(*prefixes: str) -> list[str]:
    """Return the names of the golden vectors TYPE__CASE of these types, never an empty list."""
    found = sorted(
        p.stem for p in VECTORS.glob("*.npz") if any(p.stem.startswith(f"{x}__") for x in prefixes)
    )
    assert found, f"no golden vectors for {prefixes}"
    return found


def load_vector(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a golden vector by the keys of the conformance README."""
    path = VECTORS / f"{name}.npz"
    if not path.exists():
        pytest.fail(f"golden vector {name} is missing")
    with np.load(path) as arrays:
        return dict(arrays)


def vector_layers(name: str) -> dict[str, Layer]:
    """Return the layers of a golden vector's text by their names, without the Input ones."""
    vector = load_vector(name)
    net = _parse(str(vector["prototxt"]))
    return {m.name: _layer(m, str(vector["phase"])) for m in net.layer if m.type != "Input"}


def check_refused(name: str, setting: str) -> Refusal:
    """Check that a layer of a net that Caffe refuses is refused, pointing at `setting`.

    The name is that in refused_nets.json. Returns the refusal, to look at its words.
    """
    nets = json.loads((VECTORS.parent / "refused_nets.json").read_text())
    [found] = [net for net in nets if net["name"] == name]
    types: dict[str, BlobType] = {}
    for message in _parse(found["prototxt"]).layer:
        layer = _layer(message, found["phase"])
        with contextlib.suppress(Refusal):
            tops = layer.infer(*(types[b] for b in message.bottom)).tops
            types |= dict(zip(message.top, tops, strict=True))
            continue
        with pytest.raises(Refusal) as caught:
            layer.infer(*(types[b] for b in message.bottom))
        refusal = caught.value
        assert refusal.setting == setting, f"points at {refusal.setting}: {refusal}"
        assert refusal.expected and refusal.got, f"{refusal}: says too little"
        return refusal
    pytest.fail(f"{name} was accepted")


def _parse(text: str) -> Any:
    return text_format.Parse(text, netc_pb2.NetParameter())


def _layer(message: Any, phase: str) -> Layer:
    kind = registry.find(message.type)
    message.phase = netc_pb2.Phase.Value(phase)
    params = [getattr(message, param) for param in kind.params]
    return bind_fields(kind.cls, params, outer=message)[0]


def check_vector(name: str, /, **layers: Layer) -> None:
    """Compare what Caffe computed with the layers of the vector's text.

    Layers given by name take the place of those of the text.
    """
    layers = vector_layers(name) | layers
    vector = load_vector(name)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in vector.items() if k.startswith(prefix)}

    inputs, values = under("input:"), under("param:")
    types = {n: BlobType(a.shape) for n, a in inputs.items()}
    steps: list[Step] = []
    for text in re.split(r"^layer", str(vector["prototxt"]), flags=re.MULTILINE)[1:]:
        if 'type: "Input"' in text:
            continue
        title = re.findall(r'\bname: "(.*?)"', text)[0]
        bottoms = tuple(re.findall(r'\bbottom: "(.*?)"', text))
        tops = tuple(re.findall(r'\btop: "(.*?)"', text))
        for step in expanded(
            Step(title, layers.pop(title), bottoms, tops, _numbered(values, title)), types
        ):
            found = step.layer.infer(*(types[b] for b in step.bottoms))
            types |= dict(zip(step.tops, found.tops, strict=True))
            steps.append(step)
    assert not layers, f"no such layers in {name}: {sorted(layers)}"
    diffs = under("top_diff:")
    blobs, gradients = run_steps(steps, inputs, diffs or None)
    outputs = under("output:")
    assert outputs, f"{name} holds no outputs"
    for blob, want in (outputs | under("blob:")).items():
        assert_close(blobs[blob], want, blob)
    for key, want in (under("grad_input:") | under("grad_param:")).items():
        assert_close(gradients[key], want, f"gradient of {key}")
    after = {f"{s.name}:{i}": p for s in steps if s.run for i, p in enumerate(s.run.params)}
    for key, want in under("param_after:").items():
        assert_close(after[key], want, f"{key} after the pass")


def _numbered(values: Mapping[str, np.ndarray], title: str) -> tuple[np.ndarray, ...]:
    """Return values["title:0"], values["title:1"], ... as far as they go."""
    keys = itertools.takewhile(values.__contains__, (f"{title}:{i}" for i in itertools.count()))
    return tuple(values[key] for key in keys)
