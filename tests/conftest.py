"""What every test shares: when to skip, and how hypothesis draws."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from tests.support.audit import Audit
from tests.support.demands import demands

# The same examples on each run, so that a failure belongs to the change under test; `--nightly`
# draws fresh ones, and more. No deadline: the machine may be busy with something else.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Audit(Path(__file__).parent, demands), "layer audit")
    hypothesis.settings.load_profile("nightly" if config.getoption("nightly") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and (reason := _why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if "nightly" in item.keywords and not config.getoption("nightly"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --nightly"))


@cache
def _why_no_gpu() -> str:
    """Return why no CUDA device can be used, or "" when one can. Asks the driver, not a library."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            return "no CUDA device: the NVIDIA driver finds none"
        return ""
    return "no CUDA device: there is no NVIDIA driver"
