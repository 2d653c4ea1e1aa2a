"""Compare the speed and memory of netc with PyTorch on this machine's CPU.

Each net is trained (forward, backward, SGD with momentum and weight decay) or run for inference by
netc and by PyTorch, eager, in NCHW and in channels_last: one process for each, which take turns, so
that all of them see the same machine. A turn is one step of a large net and several of a small one.
The peer's net is built from netc's own graph with torch.nn's modules, one for each layer (BatchNorm
with its Scale is one), so that both compute the same; GoogLeNet trains with its two auxiliary
losses. Reported are medians, the ratio of the peer's faster form to netc, and the peak memory of
each process.

    pip install netc[bench]
    python tools/bench.py --net alexnet --net lenet --steps 10
    python tools/bench.py --mode infer --json out.json

PyTorch may live in another environment: --peer-python ENV/bin/python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Net: shape of a batch, and the number of classes of its labels.
NETS: dict[str, tuple[int, ...]] = {
    "lenet": (64, 1, 28, 28),
    "cifar10_quick": (100, 3, 32, 32),
    "alexnet": (32, 3, 227, 227),
    "googlenet": (16, 3, 224, 224),
    "resnet50": (8, 3, 224, 224),
    "vgg16": (4, 3, 224, 224),
}
PEERS = ("nchw", "channels_last")
PAUSE = 0.05  # seconds
#: Seconds that a turn lasts at least. After a pause the threads of a process sleep and the caches
#: hold what others read: the first step of LeNet takes three times as long as the second.
TURN = 0.05
LEARNING_RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


# -- the worker that is netc -----------------------------------------------------------------------


def netc_step(net: str, mode: str, backend_name: str) -> Callable[[], None]:
    """Return the call that makes one step of a net."""
    from netc.assemble import timed_executor
    from netc.backends import find_backend
    from netc.plan import Updates
    from netc.train.policy import rates_at
    from netc.train.settings import SolverSettings
    from netc.train.update import SGD

    train = mode == "train"
    executor, _ = timed_executor(
        net_of(net, mode),
        find_backend(backend_name),
        train=train,
        updates=Updates.PIECES if train else Updates.NONE,
        replaced=("data", "label"),
        prepared=_prepared(mode),
    )
    if not train:
        return executor.forward
    settings = SolverSettings(
        base_lr=LEARNING_RATE, lr_policy="fixed", momentum=MOMENTUM, weight_decay=DECAY
    )
    shapes = [array.shape for array in executor.params]
    rule = SGD(settings, executor.plan.graph.params, shapes, executor)
    rates = rates_at(settings, 0)

    def update(index: int, start: int, gradient: Any) -> None:
        values = executor.params[index].reshape(-1)[start : start + gradient.size]
        rule.apply_to(index, rates, values, gradient, start)

    executor.on_gradient = update

    def step() -> None:
        executor.clear_param_diffs()
        executor.forward()
        executor.loss()
        executor.backward()

    return step


def graph_of(net: str, mode: str) -> Any:
    """Return the graph that is run of a net of the zoo."""
    return _prepared(mode)(net_of(net, mode).graph)


def _prepared(mode: str) -> Callable[[Any], Any]:
    from netc.graph.deploy import deploy

    return deploy if mode != "train" else lambda graph: graph


def net_of(net: str, mode: str) -> Any:
    """Return a net of the zoo at the bench's batch size."""
    from netc.assemble import load_net
    from netc.layers.types import Phase

    shape = NETS[net]
    path = ROOT / "zoo" / net / f"{net}_train_test.prototxt"
    shapes = {"data": shape, "label": shape[:1]}
    phase = Phase.TRAIN if mode == "train" else Phase.TEST
    return load_net(path, phase, shapes=shapes, assume=True)


def described(net: str, mode: str) -> list[dict[str, Any]]:
    """Return what the peer has to know of each layer, in order."""
    graph = graph_of(net, mode)
    found: list[dict[str, Any]] = []
    for node in graph.nodes:
        layer = node.layer
        entry: dict[str, Any] = {
            "type": node.type,
            "bottoms": node.bottoms,
            "tops": node.tops,
            "shape": graph.blobs[node.bottoms[0]].shape if node.bottoms else (),
        }
        if node.type in ("Convolution", "Pooling"):
            from netc.layers.types import BlobType

            slides = layer.slides(BlobType(entry["shape"]))
            entry["slides"] = [
                (s.kernel, s.stride, s.pad, s.dilation, s.end_pad > s.pad) for s in slides
            ]
        for name in ("num_output", "bias_term", "group", "negative_slope", "dropout_ratio"):
            if hasattr(layer, name):
                entry[name] = getattr(layer, name)
        for name in ("local_size", "alpha", "beta", "k", "eps", "axis"):
            if hasattr(layer, name):
                entry[name] = getattr(layer, name)
        if node.type == "Pooling":
            entry["pool"] = layer.pool.name
        if node.type == "SoftmaxWithLoss":
            entry["weight"] = graph.blobs[node.tops[0]].loss_weight
        found.append(entry)
    return found


# -- the worker that is PyTorch --------------------------------------------------------------------


def torch_step(net: str, mode: str, form: str, layers: list[dict[str, Any]]) -> Callable[[], None]:
    """Return the call that makes one step of the same net in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    modules: list[tuple[Any, list[str], list[str], str]] = []
    skip: set[int] = set()
    readers = {
        bottom: j for j, entry in reversed(list(enumerate(layers))) for bottom in entry["bottoms"]
    }
    for i, entry in enumerate(layers):
        if i in skip:
            continue
        kind, tops = entry["type"], entry["tops"]
        module: Any = None
        match kind:
            case "Convolution":
                kernel, stride, pad, dilation, _ = zip(*entry["slides"], strict=True)
                module = nn.Conv2d(
                    entry["shape"][1],
                    entry["num_output"],
                    kernel,
                    stride,
                    pad,
                    dilation,
                    entry["group"],
                    entry["bias_term"],
                )
            case "InnerProduct":
                count = 1
                for size in entry["shape"][1:]:
                    count *= size
                module = nn.Sequential(
                    nn.Flatten(), nn.Linear(count, entry["num_output"], entry["bias_term"])
                )
            case "Pooling":
                kernel, stride, pad, _, over = zip(*entry["slides"], strict=True)
                if entry["pool"] == "MAX":
                    module = nn.MaxPool2d(kernel, stride, pad, ceil_mode=any(over))
                else:
                    module = nn.AvgPool2d(kernel, stride, pad, ceil_mode=any(over))
            case "ReLU":
                module = nn.ReLU(inplace=True)
            case "Dropout":
                module = nn.Dropout(entry["dropout_ratio"])
            case "LRN":
                module = nn.LocalResponseNorm(
                    entry["local_size"], entry["alpha"], entry["beta"], entry["k"]
                )
            case "BatchNorm":
                module = nn.BatchNorm2d(entry["shape"][1], eps=entry["eps"])
                after = readers[tops[0]]
                assert layers[after]["type"] == "Scale"
                skip.add(after)
                tops = layers[after]["tops"]
            case "Softmax":
                module = nn.Softmax(1)
        modules.append((module, entry["bottoms"], tops, kind))
    holder = nn.ModuleList([m for m, _, _, _ in modules if m is not None])
    losses = [entry["weight"] for entry in layers if "weight" in entry]

    def forward(data: Any, label: Any) -> Any:
        blobs: dict[str, Any] = {}
        total: Any = None
        which = iter(losses)
        for module, bottoms, tops, kind in modules:
            if kind in ("Data", "Input"):
                blobs[tops[0]] = data
                continue
            xs = [blobs[key] for key in bottoms if key in blobs]
            if kind == "SoftmaxWithLoss":
                loss = functional.cross_entropy(xs[0], label) * next(which)
                total = loss if total is None else total + loss
                continue
            if kind == "Concat":
                y = torch.cat(xs, 1)
            elif kind == "Eltwise":
                y = xs[0] + xs[1]
            else:
                y = module(xs[0])
            blobs[tops[0]] = y
        return y if total is None else total

    shape = NETS[net]
    memory = torch.channels_last if form == "channels_last" else torch.contiguous_format
    holder.to(memory_format=memory)
    data = torch.randn(shape).to(memory_format=memory)
    label = torch.zeros(shape[0], dtype=torch.long)
    if mode == "infer":
        holder.eval()

        def infer() -> None:
            with torch.inference_mode():
                forward(data, label)

        return infer
    optimizer = torch.optim.SGD(
        holder.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(data, label)
        loss.backward()
        loss.item()
        optimizer.step()

    return step


# -- the processes ---------------------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    """Be a worker: take a turn for each line that comes in, and answer with its milliseconds."""
    if args.work == "netc":
        step = netc_step(args.net[0], args.mode, args.backend)
    else:
        layers = json.loads(sys.stdin.readline())
        step = torch_step(args.net[0], args.mode, args.work, layers)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        print(1000 * turn(step), flush=True)
    print(peak_memory(), flush=True)


def turn(step: Callable[[], None], least: float = TURN) -> float:
    """Make steps for at least some seconds; return the median of their seconds, save the first.

    The first counts where it is the only one.
    """
    times: list[float] = []
    begin = end = time.perf_counter()
    while end - begin < least:
        last = end
        step()
        end = time.perf_counter()
        times.append(end - last)
    return statistics.median(times[1:] or times)


def peak_memory() -> float:
    """Return this process's peak resident memory in MiB.

    Not `getrusage`: its number starts from that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell the peak memory of a process")


class Worker:
    """A process that takes a turn when it is told to."""

    def __init__(self, python: str, what: str, net: str, args: argparse.Namespace) -> None:
        command = [python, __file__, "--work", what, "--net", net, "--mode", args.mode]
        command += ["--backend", args.backend]
        environment = dict(os.environ)
        if what == "netc":
            paths = [str(ROOT), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.times: list[float] = []

    def say(self, line: str) -> None:
        """Send a line."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> float:
        """Return the number that comes back."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early: its message is above")
        return float(line)

    def turn(self, counts: bool) -> None:
        """Take a turn."""
        self.say("turn")
        milliseconds = self.hear()
        if counts:
            self.times.append(milliseconds)

    def end(self) -> float:
        """End the process; return its peak memory in MiB."""
        self.say("end")
        peak = self.hear()
        with self.process:  # closes the pipes and waits
            return peak


def compare(net: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the result for one net."""
    workers = {"netc": Worker(sys.executable, "netc", net, args)}
    if not args.no_peer:
        description = json.dumps(described(net, args.mode))
        for form in PEERS:
            workers[form] = Worker(args.peer_python, form, net, args)
            workers[form].say(description)
    for number in range(args.warmup + args.steps):
        for worker in workers.values():
            # The threads of the one before still spin for a while.
            time.sleep(PAUSE)
            worker.turn(number >= args.warmup)
    peaks = {name: worker.end() for name, worker in workers.items()}
    medians = {name: statistics.median(worker.times) for name, worker in workers.items()}
    found: dict[str, Any] = {
        "net": net,
        "mode": args.mode,
        "batch": NETS[net][0],
        "backend": args.backend,
        "netc_ms": medians["netc"],
        "netc_mb": peaks["netc"],
    }
    if not args.no_peer:
        best = min(PEERS, key=lambda form: medians[form])
        found |= {
            "peer": best,
            "peer_ms": medians[best],
            "peer_mb": peaks[best],
            "ratio": medians[best] / medians["netc"],
            "memory_ratio": peaks["netc"] / peaks[best],
        }
    return found


def machine() -> dict[str, Any]:
    """Return what the results depend on: the processor, and its speed at the moment."""
    import numpy as np

    n = 2048
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    out = np.empty_like(a)
    gflops, gbytes = 0.0, 0.0
    source, target = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    for _ in range(5):
        begin = time.perf_counter()
        np.matmul(a, a, out=out)
        gflops = max(gflops, 2 * n**3 / (time.perf_counter() - begin) / 1e9)
        begin = time.perf_counter()
        np.copyto(target, source)
        gbytes = max(gbytes, 2 * source.nbytes / (time.perf_counter() - begin) / 1e9)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "sgemm_gflops": gflops, "copy_gbytes": gbytes}


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--net", action="append", choices=NETS, help="all six by default")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--steps", type=int, default=10, help="turns that count")
    parser.add_argument("--warmup", type=int, default=2, help="turns before, that do not count")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--no-peer", action="store_true", help="netc alone")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--work", choices=("netc", *PEERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores: sgemm {about['sgemm_gflops']:.0f} GFLOP/s, "
        f"copy {about['copy_gbytes']:.1f} GB/s"
    )
    print(f"{'net':<14}{'batch':>6}{'netc ms':>10}{'peer ms':>10}{'ratio':>7}", end="")
    print(f"{'netc MB':>9}{'peer MB':>9}{'ratio':>7}  peer")
    results = []
    for net in args.net or NETS:
        found = compare(net, args)
        results.append(found | {"machine": about})
        line = f"{net:<14}{found['batch']:>6}{found['netc_ms']:>10.1f}"
        if args.no_peer:
            line += f"{'-':>10}{'-':>7}{found['netc_mb']:>9.0f}"
        else:
            line += f"{found['peer_ms']:>10.1f}{found['ratio']:>7.2f}{found['netc_mb']:>9.0f}"
            line += f"{found['peer_mb']:>9.0f}{found['memory_ratio']:>7.2f}  {found['peer']}"
        print(line, flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not args.no_peer and len(results) > 1:
        mean = statistics.geometric_mean(found["ratio"] for found in results)
        print(f"geometric mean of the ratios: {mean:.2f}")


if __name__ == "__main__":
    main()
