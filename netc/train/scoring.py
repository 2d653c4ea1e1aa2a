"""The outputs of a net as scores: of one pass, averaged over several, and logged as Caffe does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from netc.errors import fail
from netc.runtime import Executor
from netc.train.log import logger

# (blob name, values, loss weight)
Output = tuple[str, tuple[float, ...], float]

# Beyond that many values a blob is no score (a batch of features), and its log would drown the
# others.
_MOST_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Scores:
    """The outputs of one net, averaged over several passes: (blob name, values, loss weight)."""

    net: int
    outputs: tuple[Output, ...]
    loss: float

    def as_dict(self) -> dict[str, object]:
        """Return the same for `-format json`; an output of one value is a number."""
        return {"loss": self.loss, "outputs": by_name(self.outputs)}


def by_name(outputs: Sequence[Output], *, scores_only: bool = False) -> dict[str, object]:
    """Return outputs by name; one of one value is a number.

    With `scores_only` those of very many values, which are no scores, are left out.
    """
    return {
        name: values[0] if len(values) == 1 else list(values)
        for name, values, _ in outputs
        if not scores_only or len(values) <= _MOST_VALUES
    }


def outputs_of(net: Executor) -> list[Output]:
    """Return every output blob after a forward pass, by name: so Caffe numbers them in its logs."""
    graph = net.plan.graph
    return [
        (
            graph.blobs[key].name,
            tuple(map(float, net.backend.to_host(net.data(key)).ravel())),
            graph.blobs[key].loss_weight,
        )
        for key in sorted(graph.outputs, key=lambda key: graph.blobs[key].name)
    ]


def average_outputs(
    net: Executor,
    passes: int,
    after_pass: Callable[[int, Sequence[Output]], None] = lambda index, outputs: None,
) -> Scores:
    """Run forward passes and return every output averaged over them.

    An output whose number of values changes with the data (detections, scores of images of many
    sizes) has no average: it is left out, and the log says so. `after_pass` gets the number of each
    pass, from 0, and its outputs.
    """
    totals: dict[str, tuple[np.ndarray, float]] = {}
    changing: dict[str, None] = {}
    loss = 0.0
    for i in range(passes):
        net.forward()
        loss += net.loss()
        outputs = outputs_of(net)
        for name, values, weight in outputs:
            total, _ = totals.setdefault(name, (np.zeros(len(values)), weight))
            if len(total) == len(values):
                total += values
            else:
                changing[name] = None
        after_pass(i, outputs)
    for name in changing:
        del totals[name]
        logger.info("%s: its number of values changes with the data, so it has no average", name)
    return Scores(
        0,
        tuple(
            (name, tuple(map(float, total / passes)), weight)
            for name, (total, weight) in totals.items()
        ),
        loss / passes,
    )


def score(net: Executor, passes: int) -> Scores:
    """Run forward passes and log their outputs and the averages, in the wording of `caffe test`.

    Raises NetcError for a net that nothing feeds, or that has no outputs.
    """
    _check(net)
    logger.info("Running for %d iterations.", passes)
    scores = average_outputs(net, passes, _log_batch)
    logger.info("Loss: %g", scores.loss)
    for name, values, weight in scores.outputs:
        for value in _shown(name, values):
            logger.info("%s = %g%s", name, value, weighted(weight, value))
    return scores


def weighted(weight: float, value: float) -> str:
    """Return what Caffe appends to an output that is in the objective, "" for others."""
    return f" (* {weight:g} = {weight * value:g} loss)" if weight else ""


def _log_batch(index: int, outputs: Sequence[Output]) -> None:
    for name, values, _ in outputs:
        for value in _shown(f"Batch {index}, {name}", values):
            logger.info("Batch %d, %s = %g", index, name, value)


def _shown(label: str, values: Sequence[float]) -> Sequence[float]:
    if len(values) <= _MOST_VALUES:
        return values
    logger.info("%s: %d values, from %g to %g", label, len(values), min(values), max(values))
    return ()


def _check(net: Executor) -> None:
    graph = net.plan.graph
    if graph.inputs:
        node = graph.nodes[graph.blobs[graph.inputs[0]].node]
        raise fail(
            "nothing feeds this net: its inputs are set by a program",
            span=node.span,
            layer=node.label,
            expected="data layers, as in the text that trains the net",
            got=f"Input '{graph.blobs[graph.inputs[0]].name}'",
            hint="to score a net, give the train_test text with its TEST data",
        )
    if not graph.outputs:
        raise fail(
            f"net '{graph.name}' has no outputs to score",
            expected="a top that no layer reads, such as that of an Accuracy layer",
            got=f"{len(graph.nodes)} layers of phase {graph.phase.name}",
        )
