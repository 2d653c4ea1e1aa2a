"""Compare the speed and memory of netc with PyTorch on this machine's CPU.

Each net is trained (forward, backward, SGD with momentum and weight decay) or run for inference by
netc and by PyTorch, in NCHW and in channels_last: one process for each, which take turns, so that
all of them see the same machine. A turn is one step of a large net and several of a small one. The
peer's net is built from netc's own graph (tools/bench_torch.py), so that both compute the same;
GoogLeNet trains with its two auxiliary losses. Reported are medians, the ratio of the peer's
fastest form to netc, the peak memory of each process, and which share netc reaches of what a large
matrix product does in the same run.

    pip install netc[bench]
    python tools/bench.py --net alexnet --net lenet --steps 10
    python tools/bench.py --precision bf16 --json bf16.json    # against fp32 and against autocast
    python tools/bench.py --mode infer
    python tools/bench.py --mode onnx         # the exported file in ONNX Runtime, and its peers
    python tools/bench.py --mode convolutions # what each convolution of a net reaches
    python tools/bench.py --mode start        # reading, checking and planning; loading weights

PyTorch may live in another environment: --peer-python ENV/bin/python. With --compile it also runs
under torch.compile, which needs a C++ compiler and minutes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_torch

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
#: What runs the files that netc writes, besides netc.
RUNTIMES = ("onnxruntime", "opencv")
PAUSE = 0.05  # seconds
#: Seconds that a turn lasts at least. After a pause the threads of a process sleep and the caches
#: hold what others read: the first step of LeNet takes three times as long as the second.
TURN = 0.05

# -- the worker that is netc -----------------------------------------------------------------------


def netc_step(net: str, mode: str, backend: str, precision: str = "fp32") -> Callable[[], None]:
    """Return the call that makes one step of a net."""
    from netc.assemble import timed_executor
    from netc.backends import find_backend
    from netc.backends.base import Precision
    from netc.plan import Updates
    from netc.train.policy import rates_at
    from netc.train.settings import SolverSettings
    from netc.train.update import SGD

    train = mode == "train"
    executor, _ = timed_executor(
        net_of(net, mode),
        find_backend(backend, Precision(precision)),
        train=train,
        updates=Updates.PIECES if train else Updates.NONE,
        replaced=("data", "label"),
        prepared=_prepared(mode),
    )
    if not train:
        return executor.forward
    settings = SolverSettings(
        base_lr=bench_torch.LEARNING_RATE,
        lr_policy="fixed",
        momentum=bench_torch.MOMENTUM,
        weight_decay=bench_torch.DECAY,
    )
    shapes = [array.shape for array in executor.params]
    fast = executor.backend.momentum_step()
    rule = SGD(settings, executor.plan.graph.params, shapes, executor, step=fast)
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
    shapes = {"data": shape, "label": shape[:1]}
    phase = Phase.TRAIN if mode == "train" else Phase.TEST
    return load_net(text_of(net), phase, shapes=shapes, assume=True)


def text_of(net: str) -> Path:
    """Return the file of a net of the zoo."""
    return ROOT / "zoo" / net / f"{net}_train_test.prototxt"


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


# -- the processes ---------------------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    """Be a worker: take a turn for each line that comes in, and answer with its milliseconds."""
    step = _step(args, args.net[0])
    for line in sys.stdin:
        if line.strip() == "end":
            break
        print(1000 * turn(step), flush=True)
    print(peak_memory(), flush=True)


def _step(args: argparse.Namespace, net: str) -> Callable[[], None]:
    """Return what a worker does over and over."""
    if args.work == "netc":
        mode = "infer" if args.mode == "onnx" else args.mode
        return netc_step(net, mode, args.backend, args.precision)
    if args.work in RUNTIMES:
        import bench_runtimes

        return bench_runtimes.step_of(args.work, args.files, NETS[net])
    layers = json.loads(sys.stdin.readline())
    mode = "train" if args.mode == "train" else "infer"
    return bench_torch.step_of(layers, NETS[net], mode, bench_torch.Form.of(args.work))


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
        command += ["--backend", args.backend, "--precision", args.precision]
        command += ["--files", str(args.files)]
        environment = dict(os.environ)
        if what in ("netc", *RUNTIMES):
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


def compare(net: str, about: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the result for one net."""
    peers = []
    if not args.no_peer:
        peers = bench_torch.forms(bf16=args.precision == "bf16", compiled=args.compile)
    medians, peaks = race(net, ["netc"], peers, described(net, args.mode) if peers else [], args)
    flops = operations(net, args.mode)
    gflops = flops / medians["netc"] / 1e6
    found: dict[str, Any] = {
        "net": net,
        "mode": args.mode,
        "batch": NETS[net][0],
        "backend": args.backend,
        "precision": args.precision,
        "netc_ms": medians["netc"],
        "netc_mb": peaks["netc"],
        "netc_gflops": gflops,
        "share_of_sgemm": gflops / about["sgemm_gflops"],
    }
    for suffix, rivals in (
        ("", [form for form in peers if not bench_torch.Form.of(form).bf16]),
        ("_bf16", [form for form in peers if bench_torch.Form.of(form).bf16]),
    ):
        if rivals:
            best = min(rivals, key=medians.__getitem__)
            found |= {
                f"peer{suffix}": best,
                f"peer{suffix}_ms": medians[best],
                f"peer{suffix}_mb": peaks[best],
                f"ratio{suffix}": medians[best] / medians["netc"],
                f"memory_ratio{suffix}": peaks["netc"] / peaks[best],
            }
    return found


def race(
    net: str, ours: list[str], peers: list[str], layers: Any, args: argparse.Namespace
) -> tuple[dict[str, float], dict[str, float]]:
    """Let processes take turns; return the median of their milliseconds, and their peaks in MiB."""
    workers = {name: Worker(sys.executable, name, net, args) for name in ours}
    for form in peers:
        workers[form] = Worker(args.peer_python, form, net, args)
        workers[form].say(json.dumps(layers))
    for number in range(args.warmup + args.steps):
        for worker in workers.values():
            # The threads of the one before still spin for a while.
            time.sleep(PAUSE)
            worker.turn(number >= args.warmup)
    peaks = {name: worker.end() for name, worker in workers.items()}
    return {name: statistics.median(worker.times) for name, worker in workers.items()}, peaks


def operations(net: str, mode: str) -> int:
    """Return the floating-point operations of a step, two for each multiply-add.

    Training computes each product three times: forward, for the bottom and for the weights. The
    products for the data itself are not made, and not counted.
    """
    graph = graph_of(net, mode)
    total = 0
    for node in graph.nodes:
        bottoms = tuple(graph.blobs[key].type for key in node.bottoms)
        cost = node.layer.cost(bottoms, node.signature)
        on_data = any(not graph.nodes[graph.blobs[key].node].bottoms for key in node.bottoms)
        total += 2 * cost * (1 if mode != "train" else 2 if on_data else 3)
    return total


def compare_runtimes(net: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return how long the exported file takes, and what reads the same net otherwise."""
    import bench_runtimes

    bench_runtimes.write_files(text_of(net), graph_of(net, "infer"), args.files)
    peers = [] if args.no_peer else bench_torch.forms(bf16=False, compiled=args.compile)
    layers = described(net, "infer") if peers else []
    medians, _ = race(net, ["netc", *RUNTIMES], peers, layers, args)
    found: dict[str, Any] = {"net": net, "mode": args.mode, "batch": NETS[net][0]}
    found |= {f"{name}_ms": medians[name] for name in ("netc", *RUNTIMES)}
    if peers:
        best = min(peers, key=medians.__getitem__)
        found |= {"torch": best, "torch_ms": medians[best]}
    return found


def machine() -> dict[str, Any]:
    """Return what the results depend on: the processor, and its speed at the moment.

    A matrix product is that of NumPy's BLAS or of oneDNN, whichever is faster: a BLAS may have been
    told to leave out instructions that the processor has.
    """
    import numpy as np

    n = 4096
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    out = np.empty_like(a)
    gflops, gbytes = 0.0, 0.0
    source, target = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    products = [lambda: np.matmul(a, a, out=out), *onednn_product(a, out)]
    for product in products:
        for _ in range(3):
            begin = time.perf_counter()
            product()
            gflops = max(gflops, 2 * n**3 / (time.perf_counter() - begin) / 1e9)
        # The threads of one library still spin for a while when the other begins.
        time.sleep(PAUSE)
    for _ in range(5):
        begin = time.perf_counter()
        np.copyto(target, source)
        gbytes = max(gbytes, 2 * source.nbytes / (time.perf_counter() - begin) / 1e9)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "sgemm_gflops": gflops, "copy_gbytes": gbytes}


def onednn_product(a: Any, out: Any) -> list[Callable[[], object]]:
    """Return the call of oneDNN's product of a square matrix with itself, where it can be used."""
    from netc.backends.cpu import library

    try:
        product = library.load().handle.dnnl_sgemm
    except library.Unavailable:
        return []
    n = ctypes.c_int64(a.shape[0])
    matrix, result = ctypes.c_void_p(a.ctypes.data), ctypes.c_void_p(out.ctypes.data)
    one, zero, plain = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_char(b"N")
    return [
        lambda: product(plain, plain, n, n, n, one, matrix, n, matrix, n, zero, result, n),
    ]


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    modes = ("train", "infer", "onnx", "convolutions", "start")
    parser.add_argument("--net", action="append", choices=NETS, help="all six by default")
    parser.add_argument("--mode", choices=modes, default="train")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=10, help="turns that count")
    parser.add_argument("--warmup", type=int, default=2, help="turns before, that do not count")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--compile", action="store_true", help="run the peer compiled, too")
    parser.add_argument("--no-peer", action="store_true", help="netc alone")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, default=Path(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores: sgemm {about['sgemm_gflops']:.0f} GFLOP/s, "
        f"copy {about['copy_gbytes']:.1f} GB/s"
    )
    results: list[dict[str, Any]] = []

    def tell(found: dict[str, Any]) -> None:
        results.append(found | {"machine": about})
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    nets = args.net or list(NETS)
    match args.mode:
        case "start":
            import bench_start

            bench_start.run(tell)
        case "convolutions":
            import bench_convolutions

            for net in nets:
                bench_convolutions.run(net, about["sgemm_gflops"], args, tell)
        case "onnx":
            print(f"{'net':<14}{'batch':>6}{'netc ms':>10}{'ORT ms':>10}", end="")
            print(f"{'OpenCV ms':>11}{'PyTorch ms':>12}")
            for net in nets:
                with tempfile.TemporaryDirectory() as folder:
                    args.files = Path(folder)
                    found = compare_runtimes(net, args)
                tell(found)
                times = [found[f"{name}_ms"] for name in ("netc", *RUNTIMES)]
                line = "{:<14}{:>6}{:>10.1f}{:>10.1f}{:>11.1f}".format(net, found["batch"], *times)
                print(line + (f"{found['torch_ms']:>12.1f}" if "torch_ms" in found else ""))
        case _:
            print(HEADINGS + ("  against autocast" if args.precision == "bf16" else ""))
            for net in nets:
                found = compare(net, about, args)
                tell(found)
                print(line_of(found), flush=True)
            for name, what in (("ratio", "the ratios"), ("ratio_bf16", "those against autocast")):
                ratios = [found[name] for found in results if name in found]
                if len(ratios) > 1:
                    print(f"geometric mean of {what}: {statistics.geometric_mean(ratios):.2f}")


HEADINGS = (
    f"{'net':<14}{'batch':>6}{'netc ms':>10}{'peer ms':>10}{'ratio':>7}{'netc MB':>9}{'peer MB':>9}"
    f"{'ratio':>7}{'of sgemm':>10}  peer"
)


def line_of(found: dict[str, Any]) -> str:
    """Return a result as a line under the headings."""
    line = f"{found['net']:<14}{found['batch']:>6}{found['netc_ms']:>10.1f}"
    if "peer" in found:
        line += f"{found['peer_ms']:>10.1f}{found['ratio']:>7.2f}{found['netc_mb']:>9.0f}"
        line += f"{found['peer_mb']:>9.0f}{found['memory_ratio']:>7.2f}"
    else:
        line += f"{'-':>10}{'-':>7}{found['netc_mb']:>9.0f}{'-':>9}{'-':>7}"
    line += f"{found['share_of_sgemm']:>10.0%}  {found.get('peer', '-')}"
    if "peer_bf16" in found:
        line += f"  {found['peer_bf16_ms']:.1f} ms, {found['ratio_bf16']:.2f}, {found['peer_bf16']}"
    return line


if __name__ == "__main__":
    main()
