"""What there is on this machine: versions, devices, what is missing and how to get it."""

from __future__ import annotations

import enum
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from netc._version import __version__
from netc.report.machine import to_json
from netc.report.table import size
from netc.threads import processors

_PACKAGE = Path(__file__).resolve().parents[1]
_OLDEST_PYTHON = (3, 11)

# Module -> (the distributions that install it, what netc needs it for).
_MODULES = {
    "numpy": (("numpy",), "all that is computed"),
    "google.protobuf": (("protobuf",), "nets, solvers and weights"),
    "yaml": (("PyYAML",), "nets and solvers in YAML"),
    "rich": (("rich",), "the progress row of netc train"),
    "lmdb": (("lmdb",), "Data layers"),
    "h5py": (("h5py",), "HDF5Data layers, and weights in HDF5"),
    "cv2": (("opencv-python-headless", "opencv-python"), "images in files and databases"),
    "onnx": (("onnx",), "netc export"),
    "onnxruntime": (("onnxruntime", "onnxruntime-gpu"), "the proof of netc export"),
}

# How long to wait for a driver that may be hanging.
_PATIENCE = 10  # seconds


class Status(enum.Enum):
    """How a thing is. Without what is MISSING or BROKEN netc does not fully work."""

    OK = "ok"
    ABSENT = "absent"
    MISSING = "missing"
    BROKEN = "broken"

    @property
    def bad(self) -> bool:
        """Say whether netc needs what is not there."""
        return self in (Status.MISSING, Status.BROKEN)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `hint` says how to get or mend it."""

    section: str
    name: str
    status: Status
    found: str
    hint: str = ""


def examine(backends: Mapping[str, tuple[bool, str]]) -> list[Finding]:
    """Look at everything.

    `backends` say of each backend, the fastest first, whether it works and what it runs on or
    lacks.
    """
    return [
        *_ourselves(),
        *(_module(module) for module in _MODULES),
        *_machine(),
        *_backends(backends),
        *_devices(),
    ]


def render(findings: Sequence[Finding], form: str = "text") -> str:
    """Return the findings as "text" or "json"."""
    if form == "json":
        return to_json([asdict(finding) | {"status": finding.status.value} for finding in findings])
    width = max(len(finding.name) for finding in findings)
    lines, section = [], ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines.append(section)
        said = f"{finding.status.value.upper()}: " if finding.status.bad else ""
        first, *rest = f"{said}{finding.found}".splitlines()
        lines.append(f"  {finding.name:<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in rest]
        if finding.hint:
            lines.append(f"  {'':<{width}}  -> {finding.hint}")
    n_bad = sum(finding.status.bad for finding in findings)
    if n_bad:
        lines.append(
            f"{n_bad} of the things that netc needs {'is' if n_bad == 1 else 'are'} not in order"
        )
    else:
        lines.append("everything that netc needs is there")
    return "\n".join(lines)


# -- netc and what it stands on --------------------------------------------------------------------


def _ourselves() -> Iterator[Finding]:
    yield Finding("netc", "netc", Status.OK, f"{__version__} in {_PACKAGE}")
    version = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    if sys.version_info >= _OLDEST_PYTHON:
        yield Finding("netc", "python", Status.OK, version)
    else:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        yield Finding("netc", "python", Status.BROKEN, version, f"netc needs {oldest} or newer")


def _module(module: str) -> Finding:
    """Import a module: a package may be installed and yet lack a library of the system."""
    distributions, purpose = _MODULES[module]
    versions = {name: version for name in distributions if (version := _version(name))}
    needed = _requirement(distributions)
    install = f'{sys.executable} -m pip install "{needed}"'
    name = next(iter(versions), distributions[0])
    if not versions:
        return Finding("packages", name, Status.MISSING, f"needed for {purpose}", install)
    found = ", ".join(version if n == name else f"{n} {version}" for n, version in versions.items())
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a foreign package raises as it is loaded
        why = f"{found} cannot be imported: {error}"
        return Finding("packages", name, Status.BROKEN, why, f"reinstall it: {install}")
    if not _satisfies(versions[name], needed):
        why = f"{found}, but netc needs {needed}"
        return Finding("packages", name, Status.BROKEN, why, install)
    hint = ""
    if len(versions) > 1:
        hint = f"these install the same module: keep one of {' and '.join(versions)}"
    return Finding("packages", name, Status.OK, found, hint)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _requirement(distributions: Sequence[str]) -> str:
    """Return what netc asks for, such as "numpy>=2.0"; the bare name where it does not say."""
    wanted = [name.lower() for name in distributions]
    for line in _requirements():
        said = line.partition(";")[0].strip()
        match = re.match(r"[\w.-]+", said)
        if match and match[0].lower() in wanted:
            return said.replace(" ", "")
    return distributions[0]


def _requirements() -> list[str]:
    """Return the lines of our own requirements: of the checkout we run from, or as installed."""
    try:
        project = tomllib.loads((_PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
        if project["project"]["name"] == "netc":
            return list(project["project"]["dependencies"])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return importlib.metadata.requires("netc") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _satisfies(version: str, requirement: str) -> bool:
    """Compare by the numbers at the start of versions; only >= and < occur in our requirements."""
    have = _numbers(version)
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        limit = _numbers(bound)
        if (have >= limit) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()  # 2.0 is no newer than 2
    return tuple(numbers)


# -- the machine -----------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    def tell(name: str, found: str, hint: str = "") -> Finding:
        return Finding("machine", name, Status.OK, found, hint)

    yield tell("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield tell("processor", f"{_processor()}, {_usable_processors()}")
    yield tell("memory", _memory())
    yield tell("BLAS in numpy", _blas())
    set_here = [
        f"{name}={os.environ[name]}"
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        if name in os.environ
    ]
    if set_here:
        yield tell("threads", ", ".join(set_here), "these bound the threads of matrix products")


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _usable_processors() -> str:
    n_all, n = os.cpu_count() or 1, processors()
    text = f"{n} threads usable" if n == n_all else f"{n} of {n_all} threads usable"
    # What a container may use, which does not show in the affinity.
    quota = next(iter(_lines("/sys/fs/cgroup/cpu.max")), "max").split()
    if len(quota) == 2 and quota[0].isdigit():
        text += f", limited to {int(quota[0]) / int(quota[1]):g} at a time"
    return text


def _memory() -> str:
    known = dict(
        (line.split()[0], int(line.split()[1]) * 1024)
        for line in _lines("/proc/meminfo")
        if line.startswith(("MemTotal:", "MemAvailable:"))
    )
    if "MemTotal:" not in known:
        try:
            return size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, ValueError, OSError):
            return "unknown"
    text = size(known["MemTotal:"])
    if "MemAvailable:" in known:
        text += f", {size(known['MemAvailable:'])} of it free"
    limit = next(iter(_lines("/sys/fs/cgroup/memory.max")), "max")
    if limit.isdigit():
        text += f", limited to {size(int(limit))}"
    return text


def _blas() -> str:
    try:
        import numpy

        built = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{built['name']} {built['version']}"
    except Exception:  # numpy may be missing, or may say it in another way
        return "unknown"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


# -- what nets run on ------------------------------------------------------------------------------


def _backends(backends: Mapping[str, tuple[bool, str]]) -> Iterator[Finding]:
    taken = next((name for name, (works, _) in backends.items() if works), "")
    for name, (works, words) in backends.items():
        found = f"{words}; -backend auto takes it" if name == taken else words
        yield Finding("backends", name, Status.OK if works else Status.ABSENT, found)


# -- devices ---------------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    yield _gpu()
    try:
        names = importlib.import_module("onnxruntime").get_available_providers()
    except Exception:  # told among the packages
        return
    found = ", ".join(name.removesuffix("ExecutionProvider") for name in names)
    yield Finding("devices", "ONNX Runtime", Status.OK, f"built for {found}")


def _gpu() -> Finding:
    """Ask NVIDIA's own tool, which is there wherever its driver is."""
    program = shutil.which("nvidia-smi")
    if not program:
        found = "none (there is no nvidia-smi, so no NVIDIA driver); netc runs on the CPU"
        return Finding("devices", "GPU", Status.ABSENT, found)
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("devices", "GPU", Status.ABSENT, f"nvidia-smi does not answer: {error}")
    cards = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode or not cards:
        said = (answer.stdout + answer.stderr).strip() or f"exit code {answer.returncode}"
        return Finding("devices", "GPU", Status.ABSENT, f"nvidia-smi finds none: {said}")
    found = "\n".join(f"{i}: {card}" for i, card in enumerate(cards))
    return Finding("devices", "GPU", Status.OK, f"{found}\nthis version of netc runs on the CPU")
