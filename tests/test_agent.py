from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from harness.walk import Walk

from reconciler.agent import Agent, Rhythm


class Log:
    """A service manager that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def ready(self, status: str) -> None:
        self.told.append("ready")
        assert status

    def status(self, text: str) -> None:
        assert text

    def watchdog(self) -> None:
        self.told.append("watchdog")

    def stopping(self) -> None:
        self.told.append("stopping")


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    try:
        yield walk
    finally:
        walk.close()


def run(agent: Agent, *signals: tuple[float, int]) -> float:
    """Run an agent in this thread, sending signals to ourselves after so many seconds; returns how long it ran."""
    timers = [threading.Timer(after, os.kill, (os.getpid(), number)) for after, number in signals]
    for timer in timers:
        timer.start()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    began = time.monotonic()
    try:
        agent.run([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in timers:
            timer.join()
    return time.monotonic() - began


def test_it_converges_says_it_is_ready_and_stops_on_sigterm(walk: Walk) -> None:
    walk.write()
    log = Log()
    agent = Agent(walk.cycle, walk.apply, Rhythm(0.2), log)
    walk.woken.set = lambda: agent.wake("test")  # type: ignore[method-assign]
    assert run(agent, (2.5, signal.SIGTERM)) < 8
    assert walk.cycle.status is not None
    assert walk.cycle.status.result == "converged"
    assert log.told[0] == "ready"
    assert log.told[-1] == "stopping"
    assert not agent.crashed


def test_sighup_asks_the_remote_at_once(walk: Walk) -> None:
    walk.write()
    fetches: list[float] = []
    real = walk.cycle.fetch

    def fetch() -> bool:
        fetches.append(time.monotonic())
        return real()

    walk.cycle.fetch = fetch  # type: ignore[method-assign]
    agent = Agent(walk.cycle, walk.apply, Rhythm(600), Log())
    run(agent, (1.0, signal.SIGHUP), (2.0, signal.SIGTERM))
    assert len(fetches) == 2


def test_a_remote_that_fails_is_asked_less_and_less_often(walk: Walk) -> None:
    fetches: list[float] = []

    def fetch() -> bool:
        fetches.append(time.monotonic())
        return False

    walk.cycle.fetch = fetch  # type: ignore[method-assign]
    run(Agent(walk.cycle, walk.apply, Rhythm(0.1), Log()), (2.5, signal.SIGTERM))
    gaps = [later - sooner for sooner, later in pairwise(fetches)]
    assert 2 <= len(gaps) <= 5
    assert gaps[-1] > gaps[0]


def test_a_stop_does_not_wait_for_a_remote_that_stalls(walk: Walk) -> None:
    gate = threading.Event()

    def stall() -> bool:
        return gate.wait(60)

    walk.cycle.fetch = stall  # type: ignore[method-assign]
    try:
        assert run(Agent(walk.cycle, walk.apply, Rhythm(1), Log()), (0.5, signal.SIGTERM)) < 5.5
    finally:
        gate.set()


def test_an_error_in_the_loop_ends_the_agent_so_that_a_fresh_one_starts(walk: Walk) -> None:
    def burst() -> None:
        raise ZeroDivisionError

    walk.cycle.run = burst  # type: ignore[method-assign,assignment]
    agent = Agent(walk.cycle, walk.apply, Rhythm(1), Log())
    run(agent)
    assert agent.crashed
