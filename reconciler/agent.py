"""The loop: when to walk, when to ask the remote, when to stop. Decides nothing about apps.

Three threads: the loop walks, the poller asks the remote (a stalled Git server must not keep drift unrepaired), and
the main thread handles signals and feeds the watchdog as long as the loop makes progress.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from reconciler.apply import Apply
from reconciler.cycle import Cycle

log = logging.getLogger(__name__)

STOP_WITHIN = 4.0
"""Seconds that a stop may take: five are promised."""
_GAP = 0.05  # after a wake, so that a burst of Docker's events is one look; a commit need not wait
_STUCK = 90.0  # a loop without progress for so long is not fed to the watchdog any more
_FIRST_POLL = 1.0  # the first walk waits so long for the remote's answer, to begin with the newest revision
_SLOWEST_POLL = 300.0
_SLOWEST_WALK = 30.0


class Wakeable(Protocol):
    """Something that wakes the loop from outside: Docker events, file changes, probes."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, within a second."""


class Notify(Protocol):
    """The service manager."""

    def ready(self, status: str) -> None:
        """The first walk is done."""

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""

    def watchdog(self) -> None:
        """Still making progress."""

    def stopping(self) -> None:
        """The end has begun."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds."""

    interval: float
    """Between two polls, plus or minus a tenth, so that a fleet does not ask all at once."""


class Agent:
    """Runs cycles until told to stop."""

    def __init__(self, cycle: Cycle, apply: Apply, rhythm: Rhythm, notify: Notify) -> None:
        self._cycle = cycle
        self._apply = apply
        self._rhythm = rhythm
        self._notify = notify
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._poll_now = threading.Event()
        self._polled = threading.Event()
        self._stop = threading.Event()
        self._progress = time.monotonic()

    # -- called by anyone -------------------------------------------------------------------------------------------

    def wake(self, reason: str) -> None:
        """Walk soon."""
        log.debug("woken by %s", reason)
        self._wake.set()

    def poll(self, reason: str) -> None:
        """Ask the remote soon."""
        log.debug("poll because of %s", reason)
        self._poll_now.set()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        self._polled.set()
        self._wake.set()
        self._hurry.set()
        self._poll_now.set()

    def idle_for(self) -> float:
        """Seconds since the loop last made progress."""
        return time.monotonic() - self._progress

    # -- the three threads -------------------------------------------------------------------------------------------

    def run(self, wakers: list[Wakeable]) -> None:
        """Run until SIGTERM or SIGINT; SIGHUP asks the remote at once. Call from the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        for waker in wakers:
            waker.start()
        loop = threading.Thread(target=self._guarded, args=(self._loop,), name="loop", daemon=True)
        poller = threading.Thread(target=self._guarded, args=(self._poller,), name="poller", daemon=True)
        loop.start()
        poller.start()
        while not self._stop.wait(5.0):
            if self.idle_for() < _STUCK:
                self._notify.watchdog()
        self._notify.stopping()
        began = time.monotonic()
        self._apply.stop(STOP_WITHIN / 2)
        loop.join(max(0.1, STOP_WITHIN - 1.5 - (time.monotonic() - began)))
        for waker in wakers:
            waker.stop()
        busy = ", ".join(f"{lane or 'host'} ({what})" for lane, what in self._apply.busy.items())
        log.info("stopped%s", f"; left unfinished, the next start goes on from there: {busy}" if busy else "")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            self.poll("SIGHUP")
        else:
            self.stop()

    def _guarded(self, work: Callable[[], None]) -> None:
        """An error that we did not foresee ends the process, so that the service manager starts a fresh one."""
        try:
            work()
        except Exception:
            log.critical("the agent found an error in itself and stops; apps go on as they are", exc_info=True)
            self.crashed = True
            self.stop()

    crashed = False

    def _loop(self) -> None:
        failures = 0
        ready = False
        self._polled.wait(_FIRST_POLL)
        while not self._stop.is_set():
            self._wake.clear()
            self._hurry.clear()
            made = self._cycle.run()
            self._progress = time.monotonic()
            status = self._cycle.status
            failed = status is not None and status.result == "failed"
            failures = failures + 1 if failed else 0
            if status is not None:
                self._notify.status(status.verdict)
                if not ready:
                    self._notify.ready(status.verdict)
                    ready = True
            wait = 60.0
            if failed:
                wait = min(_SLOWEST_WALK, 2.0 ** min(failures, 10) / 2)
            elif made.wake_at is not None:
                wait = min(wait, max(_GAP, made.wake_at - time.time()))
            if self._wake.wait(wait):  # more may come
                self._hurry.wait(_GAP)

    def _poller(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._poll_now.clear()
            failures = 0 if self._cycle.fetch() else failures + 1
            self._polled.set()
            self._hurry.set()
            self.wake("poll")
            interval = min(max(_SLOWEST_POLL, self._rhythm.interval), self._rhythm.interval * 2.0 ** min(failures, 10))
            self._poll_now.wait(interval * random.uniform(0.9, 1.1))  # noqa: S311  (jitter, not a secret)
