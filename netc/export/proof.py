"""The proof: ONNX Runtime and netc's own forward, on the same input, output by output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from netc.export.session import Session
from netc.layers.types import BlobType

Array = np.ndarray[Any, np.dtype[Any]]
Forward = Callable[[dict[str, Array]], Mapping[str, Array]]

# float32 sums in another order: the error of an element grows with its own size and with that of
# the values around it, which the largest of the output stands for. An output of small values (a
# thousand probabilities) is not let off: there is no absolute bound.
_RTOL, _ATOL = 1e-4, 1e-5

# A net may amplify rounding beyond that (a softmax of logits in the thousands). How much is
# measured by moving the input by one unit in its last place, a few times over; every operator
# rounds, not just the input, so that a multiple of what is seen is allowed.
_NUDGES, _NOISE = 3, 10.0

# Of whole numbers that are chosen by comparing others, this share may differ besides: of many
# pixels, some are nearer to two classes than a few nudges show.
_CHOSEN = 1e-4


@dataclass(frozen=True, slots=True)
class Draw:
    """How an input is drawn: uniform in low..high; with `whole` integers, `high` left out."""

    low: float
    high: float
    whole: bool = False

    def __call__(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """Return a float32 array."""
        values = rng.uniform(self.low, self.high, tuple(shape))
        return (np.floor(values) if self.whole else values).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True)
class Regions:
    """How regions are drawn: rows (0, x1, y1, x2, y2) somewhere in an image of some size."""

    height: float
    width: float

    #: Rounding moves their corners by whole positions: they stay when inputs are nudged.
    whole: ClassVar[bool] = True

    def __call__(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """Return a float32 array of as many regions as a shape (R, 5, ...) has."""
        corners = np.sort(rng.uniform(0, 1, (shape[0], 2, 2)), axis=1) * (self.width, self.height)
        images = np.zeros((shape[0], 1))
        rows = np.concatenate([images, corners.reshape(-1, 4)], axis=1)
        return rows.reshape(tuple(shape)).astype(np.float32)

    def __str__(self) -> str:
        return f"regions of {self.height:g} x {self.width:g} pixels"


#: One for each seed in turn: values as between layers, scaled images, and images less their mean.
DRAWS = (Draw(-1, 1), Draw(0, 1), Draw(-128, 128))


@dataclass(frozen=True, slots=True)
class OutputParity:
    """What comparing one output gave, over all runs; the numbers are those of the worst one.

    `shape` is as the model declares it, "N" for an open batch size.
    `max_rel` is the error relative to the largest magnitude in the output, `allowed` the tolerance
    at the worst element, `used` the error as a share of it. `case` names the run, `reason` says why
    so much is allowed, or what is wrong.
    """

    name: str
    shape: tuple[int | str, ...]
    max_abs: float
    max_rel: float
    allowed: float
    used: float
    compared: int
    case: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether the output agrees, in at least one element that is a number."""
        return self.used <= 1 and self.compared > 0


@dataclass(frozen=True, slots=True)
class Parity:
    """The outcome for each output. `cases` are the runs that were made."""

    outputs: tuple[OutputParity, ...]
    cases: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every output agrees in every run."""
        return bool(self.outputs) and all(output.ok for output in self.outputs)

    def table(self) -> str:
        """Return the table to print."""
        head = ("output", "shape", "max abs", "max rel", "allowed", "")
        rows = [head] + [
            (
                o.name,
                "x".join(map(str, o.shape)) or "1",
                f"{o.max_abs:.2e}",
                f"{o.max_rel:.2e}",
                f"{o.allowed:.2e}",
                "ok" if o.ok else "MISMATCH",
            )
            for o in self.outputs
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i in (0, 1, 5) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines += [f"{o.name}: {o.reason} (worst at {o.case})" for o in self.outputs if o.reason]
        lines += [
            f"allowed: {_RTOL:g} of the element and {_ATOL:g} of the output's largest magnitude, "
            "as float32 sums",
            "         depend on their order",
            f"ONNX Runtime against netc's forward, {len(self.cases)} runs:",
        ]
        lines += [f"  {case}" for case in self.cases]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the same for `-format json`."""
        fields = ("name", "shape", "max_abs", "max_rel", "allowed", "case", "reason", "ok")
        return {
            "ok": self.ok,
            "cases": list(self.cases),
            "outputs": [{name: getattr(o, name) for name in fields} for o in self.outputs],
        }


def parity(
    model: onnx.ModelProto,
    forward: Forward,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    draws: Mapping[str, Draw | Regions] | None = None,
    batches: Sequence[int] = (1, 3),
    threads: int = 0,
) -> Parity:
    """Run the model in ONNX Runtime on the CPU and `forward` on the same inputs, and compare.

    `forward` maps arrays by input name to arrays by output name (others are ignored). Seed after
    seed, the inputs are drawn as `DRAWS` says, those named in `draws` as said there: indices and
    labels need it. With an open batch size the seeds run at the first of `batches`, and the first
    seed at the others too. `threads` is that of `Session`.

    Raises NetcError where ONNX Runtime does not run the model.
    """
    session = Session(model, threads)
    rows: dict[str, list[OutputParity]] = {output.name: [] for output in model.graph.output}
    wants: dict[str, list[Array]] = {name: [] for name in rows}
    cases = []
    for seed, batch in _plan(model, seeds, batches):
        case, inputs = _draw(model, seed, batch, draws or {})
        cases.append(case)
        got = session.run(inputs)
        # A copy: forward may use the same memory again.
        want = {name: np.array(array) for name, array in forward(dict(inputs)).items()}
        if missing := rows.keys() - want.keys():
            raise ValueError(f"forward gives {sorted(want)}, not {sorted(missing)}")
        for name, found in rows.items():
            row = _compare(name, got[name], want[name], case)
            if row.used > 1 and got[name].shape == want[name].shape:
                fixed = {name for name, draw in (draws or {}).items() if draw.whole}
                nudged = _nudged(forward, inputs, fixed, name, seed)
                if _whole(got[name]) and _whole(want[name]):
                    row = _compare_chosen(row, got[name], want[name], nudged)
                else:
                    noise = _noise(nudged, want[name])
                    row = _compare(name, got[name], want[name], case, noise)
            found.append(row)
            wants[name].append(want[name])
    shapes = {
        output.name: tuple(d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim)
        for output in model.graph.output
    }
    return Parity(
        tuple(_summed(rows[name], wants[name], shapes[name]) for name in rows), tuple(cases)
    )


def _plan(
    model: onnx.ModelProto, seeds: Sequence[int], batches: Sequence[int]
) -> list[tuple[int, int | None]]:
    """Return the runs as (seed, size of the open axis)."""
    dims = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    if not any(dim.dim_param for dim in dims):
        return [(seed, None) for seed in seeds]
    first, *others = batches
    return [*((seed, first) for seed in seeds), *((seeds[0], batch) for batch in others)]


def _draw(
    model: onnx.ModelProto, seed: int, batch: int | None, draws: Mapping[str, Draw | Regions]
) -> tuple[str, dict[str, Array]]:
    """Return the inputs of one run, and its description."""
    rng = np.random.default_rng(seed)
    usual = DRAWS[seed % len(DRAWS)]
    inputs, said = {}, []
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [batch if dim.dim_param and batch is not None else dim.dim_value for dim in dims]
        draw = draws.get(value.name, usual)
        inputs[value.name] = draw(rng, shape)
        said.append(f"{value.name} {BlobType(tuple(shape))} in {draw}")
    return f"seed {seed}: " + ", ".join(said), inputs


def _compare(name: str, got: Array, want: Array, case: str, noise: float = 0.0) -> OutputParity:
    """Compare one output of one run; `noise` is what rounding alone does to it."""
    if got.shape != want.shape:
        reason = f"ONNX gives shape {BlobType(got.shape)}, netc {BlobType(want.shape)}"
        return OutputParity(name, want.shape, math.inf, math.inf, 0, math.inf, 0, case, reason)
    finite = np.isfinite(want)
    exact, seen = want.astype(np.float64), got.astype(np.float64)
    # Where netc has NaN or an infinity, so must ONNX; such elements prove little and do not count.
    alike = np.isfinite(seen) & finite | (seen == exact) | np.isnan(seen) & np.isnan(exact)
    largest = float(np.abs(exact[finite]).max(initial=0.0))
    errors = np.zeros(exact.shape)
    np.subtract(seen, exact, out=errors, where=finite & alike)
    errors = np.where(alike, np.abs(errors), math.inf)
    allowed = _RTOL * np.where(finite, np.abs(exact), 0.0) + _ATOL * largest
    # Never 0: what is below float32's normal numbers may be flushed to zero.
    allowed = allowed + _NOISE * noise + float(np.finfo(np.float32).tiny)
    at = np.unravel_index(int(np.argmax(errors / allowed)), errors.shape) if errors.size else None
    compared = int(np.count_nonzero(finite & alike))
    reason = ""
    if noise:
        reason = (
            f"moving the input by one unit in the last place moves this output by {noise:.1e}; "
            f"{_NOISE:g} times that is allowed too"
        )
    if not alike.all():
        reason = "NaN or infinite in one of the two only"
    return OutputParity(
        name,
        want.shape,
        max_abs=float(errors.max(initial=0.0)),
        max_rel=float(errors.max(initial=0.0)) / (largest or 1.0),
        allowed=float(allowed[at]) if at is not None else 0.0,
        used=float((errors / allowed).max(initial=0.0)),
        compared=compared,
        case=case,
        reason=reason,
    )


def _whole(array: Array) -> bool:
    return bool((array == np.rint(array)).all())


def _compare_chosen(
    row: OutputParity, got: Array, want: Array, nudged: Iterable[Array]
) -> OutputParity:
    """Compare whole numbers, of which rounding makes others: the class of each pixel, say.

    How many differ counts, not by how much: any class may be near any other.
    """
    moved = max(np.count_nonzero(array != want) for array in nudged)
    most = max(_NOISE * moved, _CHOSEN * want.size)
    differ = np.count_nonzero(got != want)
    return dataclasses.replace(
        row,
        used=differ / most if most else math.inf,
        reason=f"{differ} of {want.size} whole numbers differ; moving the input by one unit in the "
        f"last place changes {moved}; {_NOISE:g} times that, and one in {1 / _CHOSEN:g}, may",
    )


def _noise(nudged: Iterable[Array], want: Array) -> float:
    """Return by how much an output moves when the inputs move by a unit in their last place."""
    most = 0.0
    for moved in nudged:
        finite = np.isfinite(moved) & np.isfinite(want)
        most = max(most, float(np.abs(moved[finite] - want[finite]).max(initial=0.0)))
    return most


def _nudged(
    forward: Forward, inputs: Mapping[str, Array], fixed: Collection[str], name: str, seed: int
) -> Iterator[Array]:
    """Yield an output when the inputs move by a unit in their last place, a few times over.

    Inputs named in `fixed` stay: of an index there is no nearby value.
    """
    rng = np.random.default_rng([seed, 1])
    ends = np.array([-np.inf, np.inf], np.float32)
    for _ in range(_NUDGES):
        nudged = {
            key: x if key in fixed else np.nextafter(x, rng.choice(ends, x.shape))
            for key, x in inputs.items()
        }
        yield np.asarray(forward(nudged)[name], np.float64)


def _summed(
    rows: Sequence[OutputParity], wants: Sequence[Array], shape: tuple[int | str, ...]
) -> OutputParity:
    """Return the worst run of one output, with the number of elements of all runs.

    Where netc's own numbers overflow, which boxes are left, say, hangs on the order of operations.
    Such a run does not count beside others in which they do not.
    """
    settled = [
        row for row, want in zip(rows, wants, strict=True) if row.ok or np.isfinite(want).all()
    ]
    counting = settled or rows
    worst = max(counting, key=lambda row: row.used)
    compared = sum(row.compared for row in counting)
    reason = worst.reason
    if len(counting) < len(rows):
        aside = f"{len(rows) - len(counting)} of {len(rows)} runs do not count: netc's own numbers "
        reason = "; ".join(filter(None, (reason, aside + "are not finite there")))
    if not compared:
        reason = reason or "no element is a number: nothing was compared"
    alike = [want for want in wants if want.shape == wants[0].shape]
    if len(alike) > 1 and all(np.array_equal(want, alike[0]) for want in alike):
        reason = reason or "the same in every run: nothing of the input reaches it"
    return dataclasses.replace(worst, shape=shape, compared=compared, reason=reason)
