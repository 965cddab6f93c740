"""The agent's own probes of replicas: ``http`` and ``tcp``, all of them in one thread that mostly sleeps.

A probe is a non-blocking socket and a deadline, so one that hangs costs a file descriptor and delays nobody. Only the
status line of an answer is judged; a few KiB more are read so that the app does not see its connection reset, and
whatever an app sends, a probe ends at its timeout. The monotonic clock schedules: a clock that jumps stops nothing.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import random
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from errno import EALREADY, EINPROGRESS, EISCONN
from types import MappingProxyType
from urllib.parse import quote

from reconciler.core.model import Health
from reconciler.core.observed import ProbeResult
from reconciler.errors import Unavailable

log = logging.getLogger(__name__)

_AT_ONCE = 256  # open sockets; far more than a host has replicas, far fewer than the 1,024 files of a process
_READ_MOST = 8 * 1024  # bytes of an answer; the status line is in the first hundred
_LINGER = 0.25  # seconds to wait, once an answer is judged, for its end
_TICK = 1.0  # seconds; unhurried probes begin on the tick, many at a time: waking up is what costs, not probing
_MOMENT = 0.003  # seconds; most answers are there by then, all at once and without a wait for each
_FIRST_PAUSE = 0.2  # seconds between the probes of a replica that has just started
_PAUSE_GROWTH = 1.25  # so that a replica which takes long to start is seen within a quarter of that time
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r\n]")
_SAFE_IN_URLS = "!#$%&'()*+,/:;=?@[]~"


class Prober:
    """Probes what ``watch`` names, from ``start`` to ``stop``.

    Args:
        wake: Called from the prober's thread with a container id on every change of ``ProbeResult.healthy``.
        clock: Unix time for ``ProbeResult.since``.
    """

    def __init__(self, wake: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._wake = wake
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wanted: dict[str, tuple[str, Health]] = {}
        self._results: Mapping[str, ProbeResult] = MappingProxyType({})
        self._rounds: _Rounds | None = None

    def start(self) -> None:
        """Start the thread."""
        self._rounds = _Rounds(self._newly_wanted, self._store)
        self._thread = threading.Thread(target=self._rounds.run, name="prober", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all sockets and end the thread, at once."""
        if self._rounds and self._thread:
            self._rounds.stop()
            self._thread.join()  # it never blocks
            self._rounds.close()
        self._rounds = self._thread = None

    def watch(self, targets: Mapping[str, tuple[str, Health]]) -> None:
        """Probe exactly these from now on; costs next to nothing when they are the same as before.

        A target keeps its result when only its ``Health`` changes: new settings do not take it out of traffic.
        """
        wanted = {key: value for key, value in targets.items() if value[1].kind in ("http", "tcp")}
        if wanted == self._wanted:
            return
        with self._lock:
            unknown = ProbeResult(None, self._clock(), "not probed yet")
            self._results = MappingProxyType(
                {
                    key: self._results[key] if self._wanted.get(key, ("",))[0] == address else unknown
                    for key, (address, _) in wanted.items()
                }
            )
            self._wanted = wanted
        if self._rounds:
            self._rounds.look()

    def results(self) -> Mapping[str, ProbeResult]:
        """The newest results by container id; a snapshot.

        Raises:
            Unavailable: Reason ``ProberStopped``: the thread died, and the results are old.
        """
        if self._thread is not None and not self._thread.is_alive():
            raise Unavailable(
                "the thread that probes replicas has died",
                reason="ProberStopped",
                remedy="Restart the agent, and report the traceback in its log",
            )
        return self._results

    def _newly_wanted(self) -> Mapping[str, tuple[str, Health]]:
        return self._wanted

    def _store(self, container: str, address: str, healthy: bool | None, message: str) -> None:  # noqa: FBT001  (a result)
        with self._lock:
            old = self._results.get(container)
            if old is None or self._wanted[container][0] != address:
                return  # no longer watched: a late answer
            changed = healthy is not old.healthy
            if not changed and message == old.message:
                return
            new = replace(old, healthy=healthy, message=message, since=self._clock() if changed else old.since)
            self._results = MappingProxyType({**self._results, container: new})
        if changed:
            log.debug("probe of %s: healthy is %s, %s", container[:12], healthy, message)
            self._wake(container)


class _Target:
    """One replica: when it is probed next, and what its answers add up to."""

    def __init__(self, container: str, address: str, health: Health) -> None:
        self.container = container
        self.address = address
        self.gone = False
        self.order = -1
        """Of its next probe, among all that is planned."""
        self.healthy: bool | None = None
        self.took_over = time.monotonic()
        self.adjust(health)
        self._failures = 0
        self._pause = _FIRST_PAUSE

    def adjust(self, health: Health) -> None:
        self.health = health
        self.request = b""
        self.what = f"port {health.port}"
        if health.kind == "http":
            self.what = f"GET {health.path}"
            self.request = (
                f"GET {quote(health.path, safe=_SAFE_IN_URLS, errors='replace')} HTTP/1.1\r\n"
                f"Host: {self.address}:{health.port}\r\nUser-Agent: reconciler-probe\r\nAccept: */*\r\n"
                "Connection: close\r\n\r\n"
            ).encode()

    def succeeded(self) -> None:
        self.healthy = True
        self._failures = 0

    def failed(self) -> None:
        """Count a failure. A replica that was never healthy is probed faster than its manifest says.

        So failures alone do not make it unhealthy: as much time must have passed as they take at the manifest's pace.
        """
        age = time.monotonic() - self.took_over
        if self.healthy is None and age < self.health.start_period:
            return
        self._failures += 1
        if self.healthy is False or self._failures < self.health.retries:
            return
        if self.healthy is None and age < self.health.start_period + (self.health.retries - 1) * self.health.interval:
            return
        if self.healthy:
            self._pause = _FIRST_PAUSE  # the engine may be restarting it: see quickly that it is back
        self.healthy = False

    def pause(self) -> float:
        """Seconds until the next probe."""
        if self.healthy:
            return self.health.interval * random.uniform(0.9, 1.1)  # noqa: S311  (spreads load, guards nothing)
        pause, self._pause = self._pause, self._pause * _PAUSE_GROWTH
        return min(pause, self.health.interval)


class _Probe:
    """One question under way."""

    def __init__(self, target: _Target, connection: socket.socket) -> None:
        self.target = target
        self.socket = connection
        self.connected = False
        self.unsent = target.request
        self.answer = b""
        self.read = 0
        self.judged = False
        self.closed = False
        self.fresh = True
        """It has not been given its moment yet."""
        self.mask = 0
        """What epoll waits for; 0 while it is not registered."""


class _Rounds:
    """The thread: one epoll, one heap of what happens when."""

    def __init__(
        self,
        wanted: Callable[[], Mapping[str, tuple[str, Health]]],
        store: Callable[[str, str, bool | None, str], None],
    ) -> None:
        self._wanted = wanted
        self._store = store
        self._stopping = False
        self._looked: Mapping[str, tuple[str, Health]] = {}
        self._targets: dict[str, _Target] = {}
        self._probes: dict[int, _Probe] = {}
        self._waiting: deque[_Target] = deque()
        self._fresh: list[_Probe] = []
        self._due: list[tuple[float, int, _Target | _Probe]] = []
        self._order = itertools.count()
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)

    def look(self) -> None:
        """Called from other threads: there are other targets."""
        os.eventfd_write(self._bell, 1)

    def stop(self) -> None:
        """Called from another thread: end."""
        self._stopping = True
        self.look()

    def run(self) -> None:
        try:
            while not self._stopping:
                self._adopt()
                for descriptor, _ in self._epoll.poll(self._sleep()):
                    if descriptor == self._bell:
                        os.eventfd_read(self._bell)
                    elif probe := self._probes.get(descriptor):
                        self._advance(probe)
                self._begin_and_expire()
                self._collect()
        finally:
            for probe in list(self._probes.values()):
                self._close(probe)

    def close(self) -> None:
        """After ``run``, by the thread that rings the bell: nobody may ring a closed one."""
        self._epoll.close()
        os.close(self._bell)

    def _adopt(self) -> None:
        wanted = self._wanted()
        if wanted is self._looked:
            return
        self._looked = wanted
        for container, target in list(self._targets.items()):
            if wanted.get(container, ("",))[0] != target.address:
                target.gone = True
                del self._targets[container]
        for container, (address, health) in wanted.items():
            if present := self._targets.get(container):
                hurry = health.interval < present.health.interval
                if present.health is not health:
                    present.adjust(health)
                if hurry:  # the next probe may be minutes away
                    self._at(0.0, present)
            else:
                self._targets[container] = target = _Target(container, address, health)
                self._at(0.0, target)

    def _at(self, seconds: float, what: _Target | _Probe) -> None:
        when = time.monotonic() + seconds
        if seconds > 4 * _TICK and isinstance(what, _Target):
            when = math.ceil(when / _TICK) * _TICK
        order = next(self._order)
        if isinstance(what, _Target):
            what.order = order  # whatever was planned for it before is void
        heapq.heappush(self._due, (when, order, what))

    def _sleep(self) -> float | None:
        """Seconds until something is due; None: for ever."""
        while self._due and _settled(*self._due[0][1:]):
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _begin_and_expire(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, order, what = heapq.heappop(self._due)
            if _settled(order, what):
                continue
            if isinstance(what, _Probe):
                stage = "answer" if what.connected else "connection"
                self._fail(what, f"no {stage} within {what.target.health.timeout:g} s")
                self._close(what)
            elif len(self._probes) < _AT_ONCE:
                self._begin(what)
            else:
                self._waiting.append(what)

    def _collect(self) -> None:
        """Hear those who answer at once, together."""
        if not self._fresh:
            return
        time.sleep(_MOMENT)
        fresh, self._fresh = self._fresh, []
        for probe in fresh:
            probe.fresh = False
            if not probe.closed:
                self._advance(probe)

    def _begin(self, target: _Target) -> None:
        try:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:  # out of files or memory: our trouble, not the replica's
            log.warning("cannot probe %s now: %s", target.container[:12], error)
            self._at(target.health.interval, target)
            return
        probe = _Probe(target, connection)
        self._probes[connection.fileno()] = probe
        self._at(target.health.timeout, probe)
        self._advance(probe)

    def _advance(self, probe: _Probe) -> None:
        """Go as far as the socket lets us. On one host that is often the whole way to waiting for the answer."""
        try:
            if not probe.connected and not self._connect(probe):
                return
            while probe.unsent:
                probe.unsent = probe.unsent[probe.socket.send(probe.unsent) :]
            while probe.read < _READ_MOST:
                data = probe.socket.recv(4096)
                probe.read += len(data)
                self._hear(probe, data)
                if not data:
                    break
        except BlockingIOError:
            self._wait(probe, select.EPOLLOUT if probe.unsent else select.EPOLLIN)
        except OSError as error:
            self._fail(probe, _words(error.errno))
            self._close(probe)
        else:
            self._close(probe)

    def _connect(self, probe: _Probe) -> bool:
        target = probe.target
        try:
            socket.inet_pton(socket.AF_INET, target.address)  # a name would be looked up, and that blocks
        except OSError:
            self._fail(probe, f"{target.address!r} is no address")
            self._close(probe)
            return False
        code = probe.socket.connect_ex((target.address, target.health.port))
        if code == EINPROGRESS:
            code = probe.socket.connect_ex((target.address, target.health.port))  # neighbours have answered by now
        if code in (EINPROGRESS, EALREADY):
            self._wait(probe, select.EPOLLOUT)
            return False
        if code not in (0, EISCONN):
            raise OSError(code, os.strerror(code))
        probe.connected = True
        if not target.request:
            self._judge(probe, None)
            self._close(probe)
            return False
        return True

    def _hear(self, probe: _Probe, data: bytes) -> None:
        if probe.judged:
            return
        probe.answer += data
        try:
            code = _status_code(probe.answer)
        except ValueError as error:
            self._fail(probe, str(error))
            return
        if code is not None:
            if 200 <= code < 400:  # noqa: PLR2004  (HTTP's successes and redirects)
                self._judge(probe, None)
            else:
                self._fail(probe, str(code))
        elif not data:
            self._fail(probe, "the connection was closed without an answer")
        elif probe.read >= _READ_MOST:
            self._fail(probe, "no status in the first 8 KiB")

    def _fail(self, probe: _Probe, why: str) -> None:
        what = probe.target.what if probe.connected else f"port {probe.target.health.port}"
        self._judge(probe, f"{what}: {why}")

    def _judge(self, probe: _Probe, failure: str | None) -> None:
        """Count the answer (None: success) once, and plan the next question."""
        target = probe.target
        if probe.judged or target.gone:
            return
        probe.judged = True
        probe.answer = b""
        self._at(_LINGER, probe)
        if failure is None:
            target.succeeded()
        else:
            target.failed()
        self._at(target.pause(), target)
        self._store(target.container, target.address, target.healthy, failure or "")

    def _wait(self, probe: _Probe, mask: int) -> None:
        if probe.fresh:
            self._fresh.append(probe)
            return
        if probe.mask == 0:
            self._epoll.register(probe.socket, mask)
        elif probe.mask != mask:
            self._epoll.modify(probe.socket, mask)
        probe.mask = mask

    def _close(self, probe: _Probe) -> None:
        if probe.closed:
            return
        probe.closed = True
        del self._probes[probe.socket.fileno()]
        if probe.mask:
            self._epoll.unregister(probe.socket)  # closing is not enough while a forked child holds a copy
        probe.socket.close()
        while self._waiting and not self._stopping:
            target = self._waiting.popleft()
            if not target.gone:
                self._at(0.0, target)
                break


def _settled(order: int, what: _Target | _Probe) -> bool:
    """What was planned need not be done any more."""
    return what.gone or what.order != order if isinstance(what, _Target) else what.closed


def _status_code(answer: bytes) -> int | None:
    """The status of the final answer; None when more must be read; ValueError when this is not HTTP/1."""
    while found := _STATUS_LINE.match(answer):
        code = int(found[1])
        if code >= 200:  # noqa: PLR2004  (1xx announce another answer)
            return code
        _, end, answer = answer.partition(b"\r\n\r\n")
        if not end:
            return None
    if len(answer) > len(b"HTTP/1.1 200") or not b"HTTP/1.".startswith(answer[:7]):
        message = "the answer is not HTTP/1"
        raise ValueError(message)
    return None


def _words(code: int | None) -> str:
    return os.strerror(code or 0).lower()
