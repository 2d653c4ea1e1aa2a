"""Connectionist temporal classification: labels in order, but not in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from netc.layers.accuracy import Measure
from netc.layers.losses import SCALAR, Loss
from netc.layers.registry import layer
from netc.layers.softmax import Softmax
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

# The log of a probability of zero in ONNX, where infinities would meet in a subtraction.
NEVER = -1e30


@dataclass(frozen=True, slots=True)
class _Task:
    """What a batch asks for.

    `states` are the labels of each item with a blank before, between and behind them (N, S), `ends`
    the numbers of labels and `steps` those of time steps (N,). `stay` and `skip` tell which states
    may follow themselves, and which the last but one (N, S).
    """

    states: Array
    ends: Array
    steps: Array
    stay: Array
    skip: Array


@layer("CTCLoss", "ctc_loss_param", aliases=("CtcLoss", "WarpCTCLoss"))
@dataclass(frozen=True)
class CTCLoss(Loss):
    """The mean of -log of the probability of each item's sequence of labels.

    At each time step the softmax of the scores says a class, one of them the blank. A sequence of
    these stands for labels: runs of one class count once (unless `ctc_merge_repeated` is false),
    and blanks do not count. The probability of labels is the sum over all sequences that stand for
    them, computed forwards and backwards through time in logarithms of 64 bits. With
    `preprocess_collapse_repeated`, runs of one label count once in the given labels too.

    Shapes: scores (T, N, C), and the labels in one of three ways -> loss ():

    - (N, L): blanks and negative numbers among the labels are left out. The blank is `blank_label`,
      0 unless set. All T steps count.
    - indicators (T, N), which are 0 where a new sequence begins, and labels (L, N) that end before
      the first negative number. The blank is `blank_index`, -1 for the last class, unless set.
    - numbers of steps (N,), numbers of labels (N,), and labels (L, N). The blank likewise.

    Raises `Refusal` for labels that are no classes, and for more labels than the steps can say.
    Source: Graves et al., ICML 2006; the first form is that of the forks around warp-ctc, the
    others that of the layer proposed for BVLC Caffe. Not merging follows TensorFlow 1.
    """

    blank_index: int | None = None
    ctc_merge_repeated: bool = True
    preprocess_collapse_repeated: bool = False
    blank_label: int | None = None
    alphabet_size: int | None = None
    time_step: int | None = None

    bottoms: ClassVar[Arity] = between(2, 4)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes < 3 or x.span(3) != 1 or 0 in x.shape[::2]:
            raise Refusal(
                "the scores are not those of sequences",
                expected="bottom 0 of shape (T, N, C): time steps, items, classes",
                got=f"bottom 0 of shape {x}",
                setting="bottom",
            )
        steps, n, classes = x.shape[:3]
        for setting, value, size in (
            ("time_step", self.time_step, steps),
            ("alphabet_size", self.alphabet_size, classes),
        ):
            if value is not None and value != size:
                raise Refusal(
                    f"{setting} does not match the scores",
                    expected=f"{setting} {size}, for scores of shape {x}",
                    got=f"{setting} {value}",
                    setting=setting,
                )
        self._blank(len(bottoms), classes)
        labels, wanted = bottoms[-1], BlobType((n,))
        batch_first = len(bottoms) == 2
        fits = labels.axes > 0 and (labels.shape[0] == n if batch_first else labels.span(1) == n)
        if not fits:
            raise Refusal(
                "the labels do not match the scores",
                expected=f"labels of shape ({n}, L)" if batch_first else f"labels (L, {n})",
                got=f"labels of shape {labels}, scores of shape {x}",
                setting="bottom",
            )
        counts = {2: (), 3: (BlobType((steps, n)),), 4: (wanted, wanted)}[len(bottoms)]
        for index, (other, want) in enumerate(zip(bottoms[1:], counts, strict=False), start=1):
            if other.count != want.count:
                raise Refusal(
                    f"bottom {index} does not match the scores",
                    expected=f"shape {want}",
                    got=f"shape {other}, scores of shape {x}",
                    setting="bottom",
                )
        return Signature((SCALAR,))

    def _blank(self, n_bottoms: int, classes: int) -> int:
        """Return the class that says nothing."""
        if self.blank_label is not None and self.blank_index is not None:
            raise Refusal(
                "the blank is given twice",
                expected="blank_label or blank_index, which mean the same",
                got=f"blank_label {self.blank_label}, blank_index {self.blank_index}",
                setting="blank_label",
            )
        if self.blank_label is None and self.blank_index is None:
            return 0 if n_bottoms == 2 else classes - 1
        setting = "blank_index" if self.blank_label is None else "blank_label"
        blank = int(getattr(self, setting))
        least = -1 if setting == "blank_index" else 0
        if not least <= blank < classes:
            raise Refusal(
                f"{setting} is no class",
                expected=f"{least} to {classes - 1}",
                got=f"{setting} {blank}",
                setting=setting,
            )
        return blank % classes

    # -- what is asked for -------------------------------------------------------------------------

    def _task(self, call: ForwardCall | BackwardCall) -> _Task:
        xp, bottoms = call.xp, call.bottoms
        total, n, classes = bottoms[0].shape[:3]
        blank = self._blank(len(bottoms), classes)
        labels, valid, steps = self._given(xp, bottoms, blank)
        if bool((valid & ((labels < 0) | (labels >= classes) | (labels == blank))).any()):
            wrong = labels[valid & ((labels < 0) | (labels >= classes) | (labels == blank))]
            raise Refusal(
                f"label {int(wrong[0])} is not one of the classes",
                expected=f"0 to {classes - 1} without the blank {blank}",
                got=f"label {int(wrong[0])}, and {len(wrong) - 1} more",
                hint="blank_label or blank_index says which class is the blank",
                setting="bottom",
            )
        labels, valid = _compacted(xp, labels, valid)
        if self.preprocess_collapse_repeated:
            valid[:, 1:] &= labels[:, 1:] != labels[:, :-1]
            labels, valid = _compacted(xp, labels, valid)
        ends = valid.sum(axis=1)
        states = xp.full((n, 2 * labels.shape[1] + 1), blank, "int64")
        states[:, 1::2] = xp.where(valid, labels, blank)
        is_label = xp.arange(states.shape[1]) % 2 == 1
        skip = xp.zeros(states.shape, bool)
        skip[:, 2:] = is_label[2:]
        stay = xp.ones(states.shape, bool)
        needed = ends
        if self.ctc_merge_repeated:
            skip[:, 2:] &= states[:, 2:] != states[:, :-2]
            needed = ends + (valid[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(axis=1)
        else:
            stay &= ~is_label
        short = (needed > steps) | (steps < 1) | (steps > total)
        if bool(short.any()):
            item = int(xp.argmax(short))
            raise Refusal(
                "an item has more labels than its time steps can say",
                expected=f"{max(int(needed[item]), 1)} to {total} steps for item {item}: one for "
                "each label, and a blank between equal ones",
                got=f"{int(steps[item])} steps, {int(ends[item])} labels",
                setting="bottom",
            )
        return _Task(states, ends, steps, stay, skip)

    def _given(
        self, xp: ArrayNamespace, bottoms: tuple[Array, ...], blank: int
    ) -> tuple[Array, Array, Array]:
        """Return labels (N, L), which of them count, and the numbers of steps (N,)."""
        total, n = bottoms[0].shape[:2]
        last = bottoms[-1]
        if len(bottoms) == 2:
            labels = _whole(xp, last.reshape(n, last.size // max(n, 1)))
            return labels, (labels >= 0) & (labels != blank), xp.full(n, total)
        labels = _whole(xp, last.reshape(last.shape[0], n).T)
        if len(bottoms) == 3:
            begins = bottoms[1].reshape(total, n)[1:] == 0
            steps = 1 + (xp.cumsum(begins, axis=0) == 0).sum(axis=0)
            return labels, xp.cumsum(labels < 0, axis=1) == 0, steps
        steps, ends = (_whole(xp, b.reshape(n)) for b in bottoms[1:3])
        if bool(((ends < 0) | (ends > labels.shape[1])).any()):
            raise Refusal(
                "a number of labels is out of range",
                expected=f"0 to {labels.shape[1]}",
                got=f"{int(ends.min())} to {int(ends.max())}",
                setting="bottom",
            )
        return labels, xp.arange(labels.shape[1]) < ends[:, None], steps

    # -- probabilities -----------------------------------------------------------------------------

    @staticmethod
    def _log_softmax(xp: ArrayNamespace, x: Array) -> Array:
        """Return the logarithms of the probabilities (T, N, C), in float64."""
        scores = x.reshape(x.shape[:3]).astype("float64")
        scores -= scores.max(axis=2, keepdims=True)
        scores -= xp.log(xp.exp(scores).sum(axis=2, keepdims=True))
        return scores

    @staticmethod
    def _forwards(xp: ArrayNamespace, task: _Task, said: Array) -> Array:
        """Return the log of the probability to say the first steps and be in a state, (T, N, S).

        `said` is what the states' classes have at each step. Behind its last step an item keeps its
        state.
        """
        alpha = xp.full(said.shape, -xp.inf)
        alpha[0, :, :2] = said[0, :, :2]
        for t in range(1, len(said)):
            before = alpha[t - 1]
            now = xp.where(task.stay, before, -xp.inf)
            now[:, 1:] = xp.logaddexp(now[:, 1:], before[:, :-1])
            skipped = xp.where(task.skip[:, 2:], before[:, :-2], -xp.inf)
            now[:, 2:] = xp.logaddexp(now[:, 2:], skipped)
            now += said[t]
            alpha[t] = xp.where((t < task.steps)[:, None], now, before)
        return alpha

    @staticmethod
    def _backwards(xp: ArrayNamespace, task: _Task, said: Array) -> Array:
        """Return the log of the probability to say the steps behind, from each state, (T, N, S)."""
        beta = xp.full(said.shape, -xp.inf)
        number = xp.arange(said.shape[2])
        last = 2 * task.ends[:, None]
        end = xp.where((number == last) | (number == last - 1), 0.0, -xp.inf)
        for t in reversed(range(len(said))):
            if t + 1 < len(said):
                behind = beta[t + 1] + said[t + 1]
                now = xp.where(task.stay, behind, -xp.inf)
                now[:, :-1] = xp.logaddexp(now[:, :-1], behind[:, 1:])
                skipped = xp.where(task.skip[:, 2:], behind[:, 2:], -xp.inf)
                now[:, :-2] = xp.logaddexp(now[:, :-2], skipped)
                beta[t] = xp.where((t + 1 < task.steps)[:, None], now, -xp.inf)
            beta[t] = xp.where((t + 1 == task.steps)[:, None], end, beta[t])
        return beta

    @staticmethod
    def _total(xp: ArrayNamespace, task: _Task, alpha: Array) -> Array:
        """Return the log of the probability of each item's labels, (N,)."""
        item, last = xp.arange(len(task.ends)), 2 * task.ends
        before = xp.where(task.ends > 0, alpha[-1, item, xp.maximum(last - 1, 0)], -xp.inf)
        return xp.logaddexp(alpha[-1, item, last], before)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        task = self._task(call)
        logs = self._log_softmax(xp, x)
        said = xp.take_along_axis(logs, task.states[None], axis=2)
        total = self._total(xp, task, self._forwards(xp, task, said))
        return ((-total.sum() / max(x.shape[1], 1)).astype(call.out[0].dtype),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x = call.xp, call.bottoms[0]
        task = self._task(call)
        logs = self._log_softmax(xp, x)
        said = xp.take_along_axis(logs, task.states[None], axis=2)
        alpha, beta = self._forwards(xp, task, said), self._backwards(xp, task, said)
        share = xp.exp(alpha + beta - self._total(xp, task, alpha)[:, None])
        # What the states of a class have together, by a product with their classes.
        classes = (task.states[:, :, None] == xp.arange(x.shape[2])).astype("float64")
        dx = xp.exp(logs) - xp.matmul(share.swapaxes(0, 1), classes).swapaxes(0, 1)
        dx *= (xp.arange(len(x))[:, None] < task.steps)[:, :, None]
        dx *= call.top_diffs[0] / max(x.shape[1], 1)
        dx = dx.astype(call.top_diffs[0].dtype).reshape(x.shape)
        return Gradients((dx, *(None,) * (len(call.bottoms) - 1)))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        steps, n = bottoms[0].shape[:2]
        return bottoms[0].count + 3 * steps * (2 * bottoms[-1].count + n)

    def deployed(self) -> Layer | None:
        return Softmax(axis=2)

    # -- ONNX --------------------------------------------------------------------------------------

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # As many operators as steps: each looks at the one before.
        total, n, classes = bottoms[0].shape[:3]
        never = g.constant(NEVER)
        labels, valid, steps = self._lower_given(g, bottoms)
        blank = g.constant(self._blank(len(bottoms), classes), "int64")
        labels, valid = _lower_compacted(g, labels, valid)
        length = labels.shape[1]
        if self.preprocess_collapse_repeated and length > 1:
            first = g.constant([[True]] * n, "bool")
            fresh = g.op("Not", g.op("Equal", *_neighbours(g, labels, 1)))
            valid = g.op("And", valid, g.op("Concat", first, fresh, axis=1))
            labels, valid = _lower_compacted(g, labels, valid)
        column = g.reshape(g.op("Where", valid, labels, blank), (n, length, 1))
        blanks = g.constant([[[self._blank(len(bottoms), classes)]] * length] * n, "int64")
        pairs = g.reshape(g.op("Concat", column, blanks, axis=2), (n, 2 * length))
        one = g.constant([[self._blank(len(bottoms), classes)]] * n, "int64")
        states = g.op("Concat", one, pairs, axis=1)
        size = 2 * length + 1
        odd = [i % 2 == 1 for i in range(size)]
        skip = g.constant([odd[2:]] * n, "bool")
        if self.ctc_merge_repeated:
            skip = g.op("And", skip, g.op("Not", g.op("Equal", *_neighbours(g, states, 2))))
        stay = g.constant([not label or self.ctc_merge_repeated for label in odd], "bool")

        logs = g.op("LogSoftmax", g.reshape(bottoms[0], (total, n, classes)), axis=2)
        wide = g.op(
            "Expand", g.reshape(states, (1, n, size)), g.constant([total, n, size], "int64")
        )
        said = g.op("GatherElements", logs, wide, axis=2)
        at = g.op("Split", said, outputs=total, axis=0, **_count(g, total)) if total > 1 else [said]
        alpha = g.op(
            "Where",
            g.constant([i < 2 for i in range(size)], "bool"),
            g.reshape(at[0], (n, size)),
            never,
        )
        for t in range(1, total):
            ways = [
                g.op("Where", stay, alpha, never),
                _shifted(g, alpha, 1),
                _shifted(g, g.op("Where", skip, _first(g, alpha, size - 2), never), 2),
            ]
            stacked = g.op("Concat", *(g.reshape(way, (n, size, 1)) for way in ways), axis=2)
            now = g.op("Add", _log_sum_exp(g, stacked, 2), g.reshape(at[t], (n, size)))
            going = g.op("Less", g.constant(t, "int64"), g.reshape(steps, (n, 1)))
            alpha = g.op("Where", going, now, alpha)
        last = g.op("Mul", _count_true(g, valid), g.constant(2, "int64"))
        before = g.op("Max", g.op("Sub", last, g.constant(1, "int64")), g.constant(0, "int64"))
        some = g.op("Less", g.constant(0, "int64"), last)
        ends = [
            g.op("GatherElements", alpha, last, axis=1),
            g.op("Where", some, g.op("GatherElements", alpha, before, axis=1), never),
        ]
        sums = _log_sum_exp(g, g.op("Concat", *ends, axis=1), 1)
        return (g.op("Neg", g.op("ReduceMean", sums, keepdims=0)),)

    def _lower_given(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...]
    ) -> tuple[Value, Value, Value]:
        """Return labels (N, L), which of them count, and the numbers of steps (N,)."""
        total, n, classes = bottoms[0].shape[:3]
        last, zero = bottoms[-1], g.constant(0, "int64")
        count = BlobType(last.shape).count // n
        labels: Any
        if len(bottoms) == 2:
            labels = g.cast(g.reshape(last, (n, count)), "int64")
            blank = g.constant(self._blank(2, classes), "int64")
            aside = g.op("Or", g.op("Less", labels, zero), g.op("Equal", labels, blank))
            return labels, g.op("Not", aside), g.constant([total] * n, "int64")
        turned = g.op("Transpose", g.reshape(last, (count, n)), perm=[1, 0])
        labels = g.cast(turned, "int64")
        if len(bottoms) == 3:
            valid = _until(g, g.op("Less", labels, zero), 1)
            if total == 1:
                return labels, valid, g.constant([1] * n, "int64")
            behind = g.op(
                "Slice",
                g.reshape(bottoms[1], (total, n)),
                *(g.constant([value], "int64") for value in (1, total, 0)),
            )
            same = _until(g, g.op("Equal", behind, g.constant(0.0)), 0)
            rows = g.op("Transpose", same, perm=[1, 0])
            steps = g.op("Add", _count_true(g, rows), g.constant(1, "int64"))
            return labels, valid, steps
        steps, ends = (g.cast(g.reshape(b, (n, 1)), "int64") for b in bottoms[1:3])
        numbers = g.constant([list(range(count))], "int64")
        return labels, g.op("Less", numbers, ends), steps


@layer("LabelsequenceAccuracy", "labelsequence_accuracy_param")
@dataclass(frozen=True)
class LabelsequenceAccuracy(Measure):
    """The share of the items whose labels are read without a mistake.

    At each time step the best class counts, of equal ones the first. What they read is what they
    stand for: runs of one class count once, and the blank, `blank_label`, does not count. It is
    compared with the given labels, in their order, of which those that are the blank are left out.

    Shapes: scores (N, T, C), items first, labels (N, ...) -> top (), 0 to 1.
    Source: crnn.caffe, and the Caffe of DeepDetect.
    """

    blank_label: int = 0

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        if x.axes != 3 or 0 in x.shape:
            raise Refusal(
                "the scores are not those of sequences",
                expected="bottom 0 of shape (N, T, C): items, time steps, classes",
                got=f"bottom 0 of shape {x}",
                hint="CTC losses want (T, N, C): a Permute layer with order 1, 0, 2 is between",
                setting="bottom",
            )
        if labels.axes < 2 or labels.shape[0] != x.shape[0] or 0 in labels.shape:
            raise Refusal(
                "the labels do not match the scores",
                expected=f"labels of shape ({x.shape[0]}, L)",
                got=f"labels of shape {labels}, scores of shape {x}",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, labels) = call.xp, call.bottoms
        best = x.argmax(axis=2)
        counts = best != self.blank_label
        counts[:, 1:] &= best[:, 1:] != best[:, :-1]
        given = _whole(xp, labels.reshape(len(x), -1))
        width = max(best.shape[1], given.shape[1])
        # With blanks behind what counts, rows of one width are equal where the sequences are.
        rows = xp.full((2, len(x), width), self.blank_label)
        for row, (said, valid) in zip(
            rows, ((best, counts), (given, given != self.blank_label)), strict=True
        ):
            said, valid = _compacted(xp, said, valid)
            row[:, : said.shape[1]][valid] = said[valid]
        hits = (rows[0] == rows[1]).all(axis=1)
        return (hits.mean().astype(x.dtype),)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        n, steps, _ = x.shape
        length = BlobType(labels.shape).span(1)
        blank = g.constant(self.blank_label, "int64")
        best = g.op("ArgMax", x, axis=2, keepdims=0)
        counts = g.op("Not", g.op("Equal", best, blank))
        if steps > 1:
            first = g.constant([[True]] * n, "bool")
            fresh = g.op("Not", g.op("Equal", *_neighbours(g, best, 1)))
            counts = g.op("And", counts, g.op("Concat", first, fresh, axis=1))
        given = g.cast(g.reshape(labels, (n, length)), "int64")
        rows = []
        for said, valid in ((best, counts), (given, g.op("Not", g.op("Equal", given, blank)))):
            said, valid = _lower_compacted(g, said, valid)
            said = g.op("Where", valid, said, blank)
            if missing := max(steps, length) - said.shape[1]:
                pads = g.constant([0, 0, 0, missing], "int64")
                said = g.op("Pad", said, pads, blank)
            rows.append(said)
        mistakes = _count_true(g, g.op("Not", g.op("Equal", *rows)))
        hits = g.cast(g.op("Equal", mistakes, g.constant(0, "int64")), "float32")
        return (g.op("ReduceMean", hits, keepdims=0),)


@dataclass(frozen=True)
class _Greedy(Layer):
    """Base of the types that take the best class of each step: the settings of decoding."""

    blank_index: int | None = None
    ctc_merge_repeated: bool = True

    stops_gradients: ClassVar[bool] = True

    def _check_scores(self, x: BlobType) -> None:
        if x.axes < 3 or x.span(3) != 1 or 0 in x.shape[::2]:
            raise Refusal(
                "the scores are not those of sequences",
                expected="bottom 0 of shape (T, N, C): time steps, items, classes",
                got=f"bottom 0 of shape {x}",
                setting="bottom",
            )
        if not (self.blank_index or 0) < x.shape[2]:
            raise Refusal(
                "the blank is no class",
                expected=f"blank_index < {x.shape[2]}, or negative for the last class",
                got=f"blank_index {self.blank_index}",
                setting="blank_index",
            )

    def _blank(self, classes: int, usual: int = 0) -> int:
        blank = usual if self.blank_index is None else self.blank_index
        return blank if blank >= 0 else classes - 1

    def _read(self, xp: ArrayNamespace, x: Array, blank: int) -> tuple[Array, Array]:
        """Return the best class of each step, and which of them count, both (N, T)."""
        best = x.reshape(x.shape[:3]).argmax(axis=2).T
        counts = best != blank
        if self.ctc_merge_repeated:
            counts[:, 1:] &= best[:, 1:] != best[:, :-1]
        return best, counts

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING


@layer("CTCGreedyDecoder", "ctc_decoder_param")
@dataclass(frozen=True)
class CTCGreedyDecoder(_Greedy):
    """The labels that are read: the best class of each step, without repetitions and blanks.

    Of equal classes the first is the best. Runs of one class count once (unless
    `ctc_merge_repeated` is false), and blanks do not count.

    Shapes: scores (T, N, C) -> labels (N, T, 1, 1), -1 behind the last; the blank is `blank_index`,
    0 unless set, negative for the last class. A second bottom is one of two:

    - indicators (T, N), 0 where a new sequence begins: what comes then does not count. The blank is
      the last class unless set.
    - labels (N, ...), where that is not the shape: the top tells how well they are read, as
      CTCGreedyAccuracy does.

    Source: the layer proposed with CTCLoss for BVLC Caffe, which OpenVINO's nets have; that of
    caffe_ocr has the first and the last form only.
    """

    bottoms: ClassVar[Arity] = between(1, 2)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        if len(bottoms) < 2 or self._indicates(*bottoms):
            return None
        judge = CTCGreedyAccuracy(self.blank_index, self.ctc_merge_repeated)
        return (Part("", judge, ("$b0", "$b1"), ("$t0",)),)

    @staticmethod
    def _indicates(x: BlobType, other: BlobType) -> bool:
        """Say whether bottom 1 holds indicators."""
        return other.shape[:2] == x.shape[:2] and other.span(2) == 1

    def infer(self, *bottoms: BlobType) -> Signature:
        self._check_scores(bottoms[0])
        steps, n = bottoms[0].shape[:2]
        if len(bottoms) > 1 and not self._indicates(*bottoms):
            raise Refusal(
                "the indicators do not match the scores",
                expected=f"bottom 1 of shape ({steps}, {n})",
                got=f"bottom 1 of shape {bottoms[1]}",
                setting="bottom",
            )
        return Signature((BlobType((n, steps, 1, 1)),))

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True)[:n_bottoms]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        best, counts = self._read(xp, x, self._blank(x.shape[2], -len(call.bottoms[1:])))
        if len(call.bottoms) > 1:
            going = call.bottoms[1].reshape(x.shape[:2]).T != 0
            # The first step begins the sequence, whatever is said of it.
            going[:, 0] = True
            counts &= xp.cumprod(going, axis=1).astype(bool)
        best, counts = _compacted(xp, best, counts)
        labels = xp.where(counts, best, -1).astype(x.dtype)
        return (labels.reshape(*labels.shape, 1, 1),)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        steps, n, classes = bottoms[0].shape[:3]
        x = bottoms[0] if len(bottoms[0].shape) == 3 else g.reshape(bottoms[0], (steps, n, classes))
        best = g.op("Transpose", g.op("ArgMax", x, axis=2, keepdims=0), perm=[1, 0])
        blank = g.constant(self._blank(classes, -len(bottoms[1:])), "int64")
        counts = g.op("Not", g.op("Equal", best, blank))
        if self.ctc_merge_repeated and steps > 1:
            first = g.constant([[True]] * n, "bool")
            fresh = g.op("Not", g.op("Equal", *_neighbours(g, best, 1)))
            counts = g.op("And", counts, g.op("Concat", first, fresh, axis=1))
        if len(bottoms) > 1 and steps > 1:
            turned = g.op("Transpose", g.reshape(bottoms[1], (steps, n)), perm=[1, 0])
            behind = _neighbours(g, turned, 1)[0]
            going = _until(g, g.op("Equal", behind, g.constant(0.0)), 1)
            first = g.constant([[True]] * n, "bool")
            counts = g.op("And", counts, g.op("Concat", first, going, axis=1))
        best, counts = _lower_compacted(g, best, counts)
        labels = g.op("Where", counts, best, g.constant(-1, "int64"))
        return (g.reshape(g.cast(labels, "float32"), (n, steps, 1, 1)),)


@layer("CTCGreedyAccuracy", "ctc_decoder_param")
@dataclass(frozen=True)
class CTCGreedyAccuracy(_Greedy, Measure):
    """How well labels are read: what a CTCGreedyDecoder with labels is.

    The labels of an item end before the first negative number; blanks among them do not count. How
    far the labels that are read are from them is the least number of insertions, deletions and
    replacements, divided by the longer length.

    Shapes: scores (T, N, C), labels (N, L, ...) -> top (1, 2, 1, 1): 1 less the mean of that, and
    the share of the items that are read without a mistake. An item without labels of which none is
    read has no mistake in the first, but does not count in the second.

    ONNX: none, it measures what a net outputs; the deployed net ends with the scores.

    Source: caffe_ocr, under the name of CTCGreedyDecoder.
    """

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        self._check_scores(x)
        if labels.axes < 2 or labels.shape[0] != x.shape[1] or labels.span(2) != 1:
            raise Refusal(
                "the labels do not match the scores",
                expected=f"labels of shape ({x.shape[1]}, L)",
                got=f"labels of shape {labels}, scores of shape {x}",
                setting="bottom",
            )
        return Signature((BlobType((1, 2, 1, 1)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, given) = call.xp, call.bottoms
        blank = self._blank(x.shape[2])
        best, counts = self._read(xp, x, blank)
        n = len(best)
        # Rounded half up, and what cannot be any class to one that is none.
        given = xp.floor(xp.nan_to_num(given.reshape(n, given.shape[1]), nan=2.0**31) + 0.5)
        mistakes, right = 0.0, 0
        for said, valid, row in zip(best.tolist(), counts.tolist(), given.tolist(), strict=True):
            read = [label for label, ok in zip(said, valid, strict=True) if ok]
            end = next((i for i, label in enumerate(row) if label < 0), len(row))
            wanted = [label for label in row[:end] if label != blank]
            longest = max(len(read), len(wanted))
            if longest:
                distance = _edits(read, wanted)
                mistakes += distance / longest
                right += not distance
        values = [1 - mistakes / max(n, 1), right / max(n, 1)]
        return (xp.asarray(values, dtype=x.dtype).reshape(1, 2, 1, 1),)


def _edits(a: list[Any], b: list[Any]) -> int:
    """Return the least number of insertions, deletions and replacements that make b of a."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def _whole(xp: ArrayNamespace, values: Array) -> Array:
    """Return floats as integers, truncated as Caffe does; NaN becomes a label that no net has."""
    return xp.where(xp.isnan(values), 2.0**31, xp.trunc(values)).astype("int64")


def _compacted(xp: ArrayNamespace, labels: Array, valid: Array) -> tuple[Array, Array]:
    """Move the labels that count to the front of their rows, in their order."""
    order = xp.argsort(~valid, axis=1, kind="stable")
    return xp.take_along_axis(labels, order, axis=1), xp.take_along_axis(valid, order, axis=1)


def _lower_compacted(g: OnnxBuilder, labels: Any, valid: Any) -> tuple[Any, Any]:
    """Do in ONNX what `_compacted` does: the keys fall from the first that counts to the last."""
    length = labels.shape[1]
    falling = g.constant([list(range(length, 0, -1))])
    keys = g.op("Add", g.op("Mul", g.cast(valid, "float32"), g.constant(float(length))), falling)
    _, order = g.op("TopK", keys, g.constant([length], "int64"), outputs=2, axis=1)
    flags = g.op("GatherElements", g.cast(valid, "int64"), order, axis=1)
    return g.op("GatherElements", labels, order, axis=1), g.cast(flags, "bool")


def _neighbours(g: OnnxBuilder, x: Any, distance: int) -> tuple[Any, Any]:
    """Return the elements of each row from `distance` on, and those as far before them."""
    size = x.shape[1]
    later, earlier = (
        g.op("Slice", x, *(g.constant([value], "int64") for value in (first, last, 1)))
        for first, last in ((distance, size), (0, size - distance))
    )
    return later, earlier


def _first(g: OnnxBuilder, x: Any, size: int) -> Any:
    return g.op("Slice", x, *(g.constant([value], "int64") for value in (0, size, 1)))


def _shifted(g: OnnxBuilder, x: Any, by: int) -> Any:
    """Return rows that begin with impossible states, and lose as many at the end as do not fit."""
    wide = g.op("Pad", x, g.constant([0, by, 0, 0], "int64"), g.constant(NEVER))
    return _first(g, wide, x.shape[1]) if by == 1 else wide


def _until(g: OnnxBuilder, flags: Any, axis: int) -> Any:
    """Return what lies before the first flag along an axis."""
    seen = g.op("CumSum", g.cast(flags, "int64"), g.constant(axis, "int64"))
    return g.op("Equal", seen, g.constant(0, "int64"))


def _count_true(g: OnnxBuilder, flags: Any) -> Any:
    """Return how many flags of each row are set, (N, 1)."""
    return g.op("ReduceSum", g.cast(flags, "int64"), g.constant([1], "int64"), keepdims=1)


def _log_sum_exp(g: OnnxBuilder, x: Any, axis: int) -> Any:
    if g.opset >= 18:
        return g.op("ReduceLogSumExp", x, g.constant([axis], "int64"), keepdims=0)
    return g.op("ReduceLogSumExp", x, axes=[axis], keepdims=0)


def _count(g: OnnxBuilder, n: int) -> dict[str, int]:
    """Return what Split wants to be told of its outputs."""
    return {"num_outputs": n} if g.opset >= 18 else {}
