"""Any legal shape and setting of any type goes through all of its rules.

The shapes that they compute are those inferred, and ONNX Runtime agrees.

What suits a type is in `tests.support.legal`; from there, each setting may become another one that
its annotation allows. A layer that refuses those has its own again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.export import Session, lower_layer
from netc.layers import registry
from netc.layers.types import BlobType, Layer, Phase, Refusal
from netc.schema.annotations import Wanted, wanted_fields
from tests.support.layer_harness import Step, assert_close, expanded, run_steps
from tests.support.legal import LEGAL, Suits, below, normal

#: Types without rules to try: they read or write files, are fed, are not run, or are the user's.
WITHOUT = {"Python", "TRT"}
TYPES = sorted(
    kind.name
    for kind in set(registry.layer_types().values())
    if kind.cls.__module__.startswith("netc.")
    and not (kind.cls.reads_data or kind.cls.writes_data or kind.cls.fed)
    and kind.name not in WITHOUT
)
EXAMPLES = 8 if settings().max_examples < 1000 else 100

_NUMBERS: dict[type, Any] = {
    bool: st.booleans(),
    int: st.sampled_from([0, 1, 1, 2, 2, 3, -1, 5]),
    float: st.sampled_from([0.5, 1.0, 2.0, 0.25, 0.0, -0.5, 3.0, 0.9]),
    str: st.just(""),
}


def setting(wanted: Wanted) -> st.SearchStrategy[Any]:
    """Return values that a setting can take, by its annotation."""
    one: st.SearchStrategy[Any]
    if issubclass(wanted.type, enum.Enum):
        one = st.sampled_from(list(wanted.type))
    elif wanted.type in _NUMBERS:
        one = _NUMBERS[wanted.type]
    else:
        one = st.builds(wanted.type)
    if wanted.many:
        return st.lists(one, max_size=2).map(tuple)
    return st.one_of(st.none(), one) if wanted.optional else one


@st.composite
def layers(draw: st.DrawFn, name: str) -> tuple[Layer, list[np.ndarray], int]:
    """Draw a layer, its bottoms, and how many tops it has."""
    cls = registry.find(name).cls
    suits = draw(st.sampled_from(LEGAL.get(name, (Suits(),))))
    sizes: dict[str, int] = {}
    shapes = [tuple(size(draw, sizes, part) for part in b.split()) for b in suits.bottoms]
    n_tops = draw(st.sampled_from(suits.tops))
    chosen: dict[str, Any] = dict(suits.settings)
    for wanted in wanted_fields(cls):
        if wanted.name == "phase":
            chosen["phase"] = draw(st.sampled_from(Phase))
        elif wanted.name == "top":
            chosen["top"] = tuple(f"t{i}" for i in range(n_tops))
    layer = cls(**chosen)
    for wanted in wanted_fields(cls):
        if wanted.name in ("phase", "top", *suits.fixed) or draw(st.integers(0, 2)):
            continue
        other = dataclasses.replace(layer, **{wanted.attribute: draw(setting(wanted))})
        if accepts(other, shapes, n_tops):
            layer = other
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    whole = layer.whole_bottoms(len(shapes))
    bottoms = [
        suits.values.get(i, below(2) if whole[i] else normal)(shape, rng).astype(np.float32)
        for i, shape in enumerate(shapes)
    ]
    return layer, bottoms, n_tops


def size(draw: st.DrawFn, sizes: dict[str, int], part: str) -> int:
    """Return what a part of a shape means, a letter's size being drawn once."""
    if part.isdigit():
        return int(part)
    if part not in sizes:
        sizes[part] = draw(st.integers(0 if part == "N" else 1, 3))
    return sizes[part]


def steps_of(layer: Layer, shapes: list[tuple[int, ...]], n_tops: int) -> list[Step]:
    """Return the steps of the layer, with inferred shapes and random params; or raise Refusal."""
    names = tuple(f"b{i}" for i in range(len(shapes)))
    types = dict(zip(names, map(BlobType, shapes), strict=True))
    steps = expanded(Step("l", layer, names, tuple(f"t{i}" for i in range(n_tops))), types)
    rng = np.random.default_rng(0)
    for step in steps:
        found = step.layer.infer(*(types[b] for b in step.bottoms))
        if len(found.tops) < len(step.tops):
            raise Refusal("too many tops")
        # Tops that the text does not name are left out by the graph; here all have names.
        more = range(len(step.tops), len(found.tops))
        step.tops += tuple(f"{step.name} top {i}" for i in more)
        types |= dict(zip(step.tops, found.tops, strict=True))
        step.params = tuple(
            (rng.uniform(0.5, 1.5, p.shape) if p.frozen else rng.standard_normal(p.shape)).astype(
                np.float32
            )
            for p in found.params
        )
    return steps


def accepts(layer: Layer, shapes: list[tuple[int, ...]], n_tops: int) -> bool:
    try:
        steps_of(layer, shapes, n_tops)
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("name", TYPES)
def test_what_a_type_accepts_goes_through_all_its_rules(name: str) -> None:
    through: set[str] = set()
    assert name in LEGAL or registry.find(name).cls.bottoms.allows(1), "add what suits the type"

    @settings(max_examples=EXAMPLES)
    @given(layers(name))
    def check(drawn: tuple[Layer, list[np.ndarray], int]) -> None:
        # What depends on values may still be refused, in words.
        with contextlib.suppress(Refusal), np.errstate(all="ignore"):
            go_through(*drawn, through.add)

    check()
    assert "all" in through


def go_through(
    layer: Layer, bottoms: list[np.ndarray], n_tops: int, done: Callable[[str], None]
) -> None:
    """Run the rules forward and backward, and compare with the ONNX form where there is one."""
    steps = steps_of(layer, [b.shape for b in bottoms], n_tops)
    inputs = {f"b{i}": b for i, b in enumerate(bottoms)}
    # The harness compares the shapes of the tops with those inferred.
    blobs, _ = run_steps(steps, inputs, None)
    for step in steps:
        run = step.run
        assert run is not None
        if type(run.layer).backward is Layer.backward:
            continue
        found = run.backward([np.ones_like(top) for top in run.tops])
        for gradient, like in zip(
            (*found.bottoms, *found.params), (*run.bottoms, *run.params), strict=True
        ):
            assert gradient is None or gradient.shape == like.shape
    done("all")
    if getattr(layer, "phase", Phase.TEST) is Phase.TEST:
        in_onnx(layer, steps, bottoms, [blobs[f"t{i}"] for i in range(n_tops)])


def in_onnx(
    layer: Layer, steps: list[Step], bottoms: list[np.ndarray], tops: list[np.ndarray]
) -> None:
    if not tops or not all(b.size for b in (*bottoms, *tops)):
        return  # an ONNX model has outputs, and every blob of it elements
    params = [p for step in steps for p in step.params]
    try:
        model = lower_layer(layer, [BlobType(b.shape) for b in bottoms], params)
    except NetcError as error:
        assert "ONNX" in str(error) or "opset" in str(error)
        return
    names = [value.name for value in model.graph.input]
    given_ = {f"bottom{i}": b for i, b in enumerate(bottoms)}
    got = Session(model, threads=1).run({name: given_[name] for name in names})
    for i, top in enumerate(tops):
        assert_close(got[f"top{i}"], top, f"top {i} of {layer}", rtol=1e-3, atol=1e-4)
