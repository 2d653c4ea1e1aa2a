"""Signals ask; the loop answers. Each is raised within this process."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from netc.train.signals import SignalActions
from netc.train.solver import Action


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def actions(told: list[str]) -> Callable[..., SignalActions]:
    return lambda *effects: SignalActions(*effects, tell=told.append)


def test_nothing_is_asked_without_a_signal(actions: Callable[..., SignalActions]) -> None:
    with actions().installed() as asked:
        assert asked() is Action.NONE
        assert asked.stopped_by == ""


def test_ctrl_c_stops_and_the_second_interrupts(
    actions: Callable[..., SignalActions], told: list[str]
) -> None:
    with actions().installed() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked() is asked() is Action.STOP
        assert asked.stopped_by == "SIGINT"
        assert told == ["SIGINT: stopping after this iteration; Ctrl-C (again) stops at once"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_hanging_up_asks_for_one_snapshot(
    actions: Callable[..., SignalActions], told: list[str]
) -> None:
    with actions().installed() as asked:
        signal.raise_signal(signal.SIGHUP)
        assert [asked(), asked()] == [Action.SNAPSHOT, Action.NONE]
        assert told == ["SIGHUP: a snapshot follows this iteration"]


def test_a_stop_is_not_undone_by_a_snapshot(actions: Callable[..., SignalActions]) -> None:
    with actions().installed() as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert asked() is Action.STOP
        assert asked.stopped_by == "SIGTERM"


def test_effects_can_be_chosen(actions: Callable[..., SignalActions]) -> None:
    with actions(Action.SNAPSHOT, Action.STOP).installed() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked() is Action.SNAPSHOT
        signal.raise_signal(signal.SIGINT)
        assert asked() is Action.SNAPSHOT, "a snapshot may be asked for again and again"
        signal.raise_signal(signal.SIGHUP)
        assert asked() is Action.STOP


def test_no_effect_is_to_ignore(actions: Callable[..., SignalActions], told: list[str]) -> None:
    with actions(Action.NONE, Action.NONE).installed() as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        assert asked() is Action.NONE
    assert not told


def test_the_former_handlers_come_back(actions: Callable[..., SignalActions]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = [signal.getsignal(number) for number in numbers]
    with pytest.raises(RuntimeError), actions(Action.NONE).installed():
        raise RuntimeError
    assert [signal.getsignal(number) for number in numbers] == former
