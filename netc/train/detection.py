"""Mean average precision: what tests of a detector come to, as SSD's solver finds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from netc.errors import fail
from netc.graph.types import Blob, Graph
from netc.runtime import Executor
from netc.train.log import logger
from netc.train.scoring import Output, Scores
from netc.train.settings import SolverSettings

# A row of DetectionEvaluate's top: image, class, score, right, wrong; of image -1: its class's
# number of objects in the third place.
ROW = 5


def check_detection(settings: SolverSettings, graph: Graph) -> None:
    """Refuse a test net of which the solver's eval_type asks for what it does not give."""
    for blob in _outputs(graph) if settings.eval_type == "detection" else ():
        rows = blob.type.count // ROW
        if blob.shape not in ((1, 1, rows, ROW), (rows, ROW, 1, 1)):
            node = graph.nodes[blob.node]
            raise fail(
                f"eval_type detection cannot judge the test net's output '{blob.name}'",
                span=node.span,
                layer=node.label,
                expected=f"the top of a DetectionEvaluate layer, of shape (1, 1, rows, {ROW}), or "
                f"(rows, {ROW}, 1, 1)",
                got=f"shape {blob.type}",
                hint="let a Silence layer read the other outputs of the test net",
            )


def mean_average_precision(net: Executor, passes: int, settings: SolverSettings) -> Scores:
    """Run forward passes and return the mean average precision of every output.

    It is the mean over the classes that the output counts objects of; one without a detection
    counts as 0, as one without an object does.
    """
    blobs = _outputs(net.plan.graph)
    rows: list[list[NDArray[np.float32]]] = [[] for _ in blobs]
    loss = 0.0
    for _ in range(passes):
        net.forward()
        loss += net.loss()
        for found, blob in zip(rows, blobs, strict=True):
            # The next pass writes to the same memory.
            found.append(np.array(net.backend.to_host(net.data(blob.key))).reshape(-1, ROW))
    outputs: list[Output] = []
    for found, blob in zip(rows, blobs, strict=True):
        precisions = _by_class(np.concatenate(found), settings.ap_version)
        if settings.show_per_class_result:
            for label, precision in precisions.items():
                logger.info("class AP %d: %g", label, precision)
        mean = sum(precisions.values()) / len(precisions) if precisions else 0.0
        outputs.append((blob.name, (mean,), blob.loss_weight))
    return Scores(0, tuple(outputs), loss / passes)


def average_precision(
    scores: NDArray[np.float32], right: NDArray[np.bool_], objects: int, version: str
) -> float:
    """Return the area under the curve of precision over recall of one class's detections.

    `right` tells which of them are; `objects` is how many there are to be found. `version` names
    the rule: "Integral" (as it is), "MaxIntegral" (of the best precision at this recall or more;
    Pascal VOC 2010), "11point" (the mean of that at the recalls 0, 0.1, ... 1; Pascal VOC 2007) or
    "101point" (at 0, 0.01, ... 1; COCO).
    """
    if not objects or not scores.size:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    # In float32, as SSD compares it with the eleven recalls.
    recall = (hits.astype(np.float32) / np.float32(objects)).astype(np.float32)
    return _RULES[version](precision, recall)


def _integral(precision: NDArray[np.float64], recall: NDArray[np.float32]) -> float:
    return float((precision * np.diff(recall, prepend=np.float32(0))).sum())


def _max_integral(precision: NDArray[np.float64], recall: NDArray[np.float32]) -> float:
    return _integral(_best_from_here(precision), recall)


def _at_points(steps: float, precision: NDArray[np.float64], recall: NDArray[np.float32]) -> float:
    best = np.append(_best_from_here(precision), 0.0)
    points = [j / steps for j in range(int(steps) + 1)]
    return float(best[np.searchsorted(recall.astype(np.float64), points)].mean())


def _best_from_here(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the greatest precision at each place or behind it."""
    return np.maximum.accumulate(precision[::-1])[::-1]


_RULES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float32]], float]] = {
    "Integral": _integral,
    "MaxIntegral": _max_integral,
    "11point": partial(_at_points, 10.0),
    "101point": partial(_at_points, 100.0),
}


def _by_class(rows: NDArray[np.float32], version: str) -> dict[int, float]:
    """Return the average precision of each class that objects are counted of."""
    counts = rows[:, 0] == -1
    labels = rows[:, 1].astype(np.int64)
    # Difficult objects make a detection neither right nor wrong.
    judged = ~counts & ((rows[:, 3] != 0) | (rows[:, 4] != 0))
    found = {}
    for label in np.unique(labels[counts & (labels != -1)]).tolist():
        of_class = labels == label
        objects = int(rows[counts & of_class, 2].sum())
        own = rows[judged & of_class]
        if not len(own):
            logger.warning("class %d: no detection", label)
        found[label] = average_precision(own[:, 2], own[:, 3] != 0, objects, version)
    return found


def _outputs(graph: Graph) -> list[Blob]:
    return sorted((graph.blobs[key] for key in graph.outputs), key=lambda blob: blob.name)
