"""What each layer type was checked with, in a run of all tests; what is missing fails the run.

The harness notes what it did: `check_layer` a "gradient" for each that it compared with
differences, `check_lowering` an "onnx" for each agreement with ONNX Runtime. A slow definition in
float64 says what it defines:

    @definition("Axpy")
    def axpy(a, x, y): ...

and counts where a test that calls it passes. What no function does is noted by the test itself,
behind its assertions: `note("gradient", "RegionLoss")`.

An `Audit`, which the conftest registers, gathers the notes of tests that passed, from the workers
of pytest-xdist too, and compares them with what is demanded. Only a run of everything is compared:
one of some files, or with -k, cannot know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

# The key of the notes in a report's user_properties.
PROPERTY = "layer types checked"

Function = TypeVar("Function", bound=Callable[..., Any])

_notes: set[tuple[str, str]] = set()


def note(what: str, layer_type: str) -> None:
    """Note that a layer type was checked in some way. Counts if the test at hand passes."""
    _notes.add((what, layer_type))


def definition(*layer_types: str) -> Callable[[Function], Function]:
    """Mark a function as the slow definition, in float64, of these layer types."""

    def mark(function: Function) -> Function:
        @functools.wraps(function)
        def noted(*arguments: Any, **settings: Any) -> Any:
            for layer_type in layer_types:
                note("definition", layer_type)
            return function(*arguments, **settings)

        return noted  # type: ignore[return-value]

    return mark


class Audit:
    """A pytest plugin: demands, after a run of all tests below `root`, notes of layer types.

    `demands` gives for each type the checks that it must have had; it is asked for at the end.
    """

    def __init__(self, root: Path, demands: Callable[[], Mapping[str, set[str]]]) -> None:
        self.root = root
        self.demands = demands
        self.notes: set[tuple[str, str]] = set()
        self.missing: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Hand the notes of a test that passed to its report."""
        _notes.clear()
        result = yield
        if _notes:
            item.user_properties.append((PROPERTY, sorted(_notes)))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather the notes of a test, which may have run in another process."""
        if report.when == "call" and report.passed:
            for name, notes in report.user_properties:
                if name == PROPERTY:
                    self.notes.update((what, of) for what, of in notes)  # type: ignore[misc]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run of everything in which a demanded check did not happen."""
        if exitstatus != pytest.ExitCode.OK or not self.compares(session.config):
            return
        self.missing = [
            f"{layer_type}: no {what}"
            for layer_type, checks in sorted(self.demands().items())
            for what in sorted(checks)
            if (what, layer_type) not in self.notes
        ]
        if self.missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def compares(self, config: pytest.Config) -> bool:
        """Say whether this process sees the results of all tests."""
        option = config.option
        chosen = (
            option.keyword, option.markexpr, option.deselect, option.ignore, option.ignore_glob,
            option.collectonly, getattr(option, "lf", False), getattr(option, "stepwise", False),
            hasattr(config, "workerinput"),
        )  # fmt: skip
        if any(chosen):
            return False
        paths = [(config.invocation_params.dir / arg).resolve() for arg in config.args]
        return any(self.root == path or path in self.root.parents for path in paths)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what is missing."""
        if self.missing:
            terminalreporter.section("layer types that are not checked", red=True)
            terminalreporter.write_line("see tests/support/audit.py")
            for line in self.missing:
                terminalreporter.write_line(line)
