"""Where kernels live. `netc.backends.base` is the contract.

`find_backend` the way to one by name.
"""

from __future__ import annotations

import logging

from netc.backends.base import Backend, Precision
from netc.errors import fail, nearest
from netc.threads import processors, set_computing

BACKENDS = ("auto", "cpu", "reference")

_logger = logging.getLogger("netc")


def find_backend(name: str = "auto", precision: Precision = Precision.FP32) -> Backend:
    """Return a backend by name; "auto" is the fastest that works on this machine.

    Where it cannot compute in a precision, the log says so and it is one in float32. Raises
    NetcError for an unknown one, and for one that does not work here.
    """
    if name not in BACKENDS:
        raise fail(
            f"unknown backend '{name}'",
            expected=", ".join(BACKENDS),
            got=name,
            hint=nearest(name, BACKENDS),
        )
    if name in ("auto", "cpu"):
        from netc.backends.cpu import CpuBackend, status

        works, words = status()
        if works:
            from netc.backends.cpu.onednn import has_bf16

            if precision is Precision.BF16 and not has_bf16():
                _fall_back("this processor has no AVX512-BF16 or AMX, which multiply bfloat16")
                precision = Precision.FP32
            return CpuBackend(precision)
    if name == "cpu":
        raise fail(
            "the backend 'cpu' does not work on this machine",
            expected="oneDNN",
            got=words,
            hint="-backend reference runs everywhere",
        )
    from netc.backends.reference import ReferenceBackend

    if precision is Precision.BF16:
        _fall_back("the reference backend computes in float32 only")
    return ReferenceBackend()


def _fall_back(reason: str) -> None:
    _logger.warning("precision bf16: %s; computing in float32", reason)


def use_threads(n: int) -> None:
    """Let n threads compute from now on, in every pool of the process: oneDNN's, BLAS's, netc's.

    Call it before nets are made, from the thread that runs them. By default each pool has a thread
    per processor; pools do not compute at the same time. Raises NetcError for a number that this
    process has no processors for.
    """
    most = processors()
    if not 1 <= n <= most:
        raise fail(
            f"{n} threads cannot compute here",
            expected=f"1 to {most}: the processors that this process may use",
            got=n,
        )
    from netc.backends.cpu import status
    from netc.backends.reference import blas

    set_computing(n)
    blas.set_threads(n)
    if status()[0]:
        from netc.backends.cpu.onednn import set_threads

        set_threads(n)


def states() -> dict[str, tuple[bool, str]]:
    """Say of each backend, the fastest first, whether it works and what it runs on or lacks."""
    from netc.backends.cpu import status
    from netc.backends.reference import blas

    works, words = status()
    if works:
        from netc.backends.cpu.onednn import threads

        words += f", threads: {threads()}"
    numpy = f"NumPy, threads of matrix products: {blas.threads() or 'unknown'}"
    return {"cpu": (works, words), "reference": (True, numpy)}
