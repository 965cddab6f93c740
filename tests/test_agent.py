from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from harness.waiting import eventually
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


def run(agent: Agent, *signals: tuple[Callable[[], object], int]) -> float:
    """Run an agent in this thread, and send ourselves each signal once its condition holds.

    Returns:
        The seconds from the last signal to the end of the agent.
    """
    sent = [time.monotonic()]

    def send() -> None:
        for condition, number in signals:
            eventually(condition, within=30)
            sent.append(time.monotonic())
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    sender.start()
    try:
        agent.run([])
        return time.monotonic() - sent[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.join()


def test_it_converges_says_it_is_ready_and_stops_on_sigterm(walk: Walk) -> None:
    walk.write()
    log = Log()
    agent = Agent(walk.cycle, walk.apply, Rhythm(0.2), log)
    walk.woken.set = lambda: agent.wake("test")  # type: ignore[method-assign]
    converged = (lambda: walk.cycle.status is not None and walk.cycle.status.result == "converged"), signal.SIGTERM
    assert run(agent, converged) < 8
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
    run(agent, (lambda: len(fetches) == 1, signal.SIGHUP), (lambda: len(fetches) == 2, signal.SIGTERM))


def test_a_remote_that_fails_is_asked_less_and_less_often(walk: Walk) -> None:
    fetches: list[float] = []

    def fetch() -> bool:
        fetches.append(time.monotonic())
        return False

    walk.cycle.fetch = fetch  # type: ignore[method-assign]
    run(Agent(walk.cycle, walk.apply, Rhythm(0.1), Log()), (lambda: len(fetches) >= 6, signal.SIGTERM))
    gaps = [later - sooner for sooner, later in pairwise(fetches)]
    assert gaps[-1] > 2 > gaps[0]


def test_a_stop_does_not_wait_for_a_remote_that_stalls(walk: Walk) -> None:
    gate, stalls = threading.Event(), threading.Event()

    def stall() -> bool:
        stalls.set()
        return gate.wait(60)

    walk.cycle.fetch = stall  # type: ignore[method-assign]
    try:
        assert run(Agent(walk.cycle, walk.apply, Rhythm(1), Log()), (stalls.is_set, signal.SIGTERM)) < 5.5
    finally:
        gate.set()


def test_an_error_in_the_loop_ends_the_agent_so_that_a_fresh_one_starts(walk: Walk) -> None:
    def burst() -> None:
        raise ZeroDivisionError

    walk.cycle.run = burst  # type: ignore[method-assign,assignment]
    agent = Agent(walk.cycle, walk.apply, Rhythm(1), Log())
    run(agent)
    assert agent.crashed
