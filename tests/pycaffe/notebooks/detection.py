"""Windows of an image, from a table; the best of them, and those that do not overlap it."""

import csv

import caffe
import numpy as np

with open("windows.csv", newline="") as f:
    rows = list(csv.DictReader(f))
windows: dict[str, np.ndarray] = {}
for name in {row["filename"] for row in rows}:
    boxes = [[int(r[k]) for k in ("ymin", "xmin", "ymax", "xmax")] for r in rows]
    windows[name] = np.array(boxes)

mean = np.load("mean.npy").mean(1).mean(1)
detector = caffe.Detector(
    "deploy_rgb.prototxt", "red.caffemodel", mean=np.repeat(mean, 3), raw_scale=255,
    input_scale=0.01, channel_swap=(2, 1, 0), context_pad=1,
)  # fmt: skip
detections = detector.detect_windows(windows.items())
scores = np.array([d["prediction"] for d in detections])
boxes = np.array([d["window"] for d in detections])
assert scores.shape == (len(rows), 3)


def nms(boxes: np.ndarray, scores: np.ndarray, overlap: float = 0.3) -> list[int]:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    pick: list[int] = []
    for i in scores.argsort()[::-1]:
        top = np.maximum(boxes[i, :2], boxes[pick, :2])
        bottom = np.minimum(boxes[i, 2:], boxes[pick, 2:])
        shared = np.clip(bottom - top, 0, None).prod(1)
        if not (shared / area[i] > overlap).any():
            pick.append(i)
    return pick


red = 2
kept = nms(boxes, scores[:, red])
print(boxes[kept], scores[kept, red])
assert boxes[kept[0]].tolist() == [8, 12, 20, 26], "the window that is the red spot"
assert scores[kept[0], red] > 1.2 * scores[kept[1:], red].max()
