"""``sync``: once, here, or by the agent that runs already."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from reconciler.cli import DIFFERENCES, ERROR, IN_SYNC
from reconciler.cli.status_text import status_text
from reconciler.cli.text import Style, clean, shorten, terminal_width
from reconciler.core import serialise
from reconciler.core.status import HostStatus
from reconciler.errors import Unavailable
from reconciler.world.asking import ask_status

if TYPE_CHECKING:
    from reconciler.cli.wiring import Host

_QUIET = 3
"""So many walks in a row that found nothing to do and nothing to wait for end a sync."""
_AGENT_POLL = 0.3  # seconds
_ANSWERS_WITHIN = 45.0
"""Seconds after which a remote that has not answered the agent is taken to be away."""


def sync_here(host: Host, options: argparse.Namespace) -> int:
    """Walk until converged, blocked, or out of time."""
    woken = threading.Event()
    host.wake = lambda _: woken.set()
    cycle, apply, prober = host.cycle, host.apply, host.prober
    prober.start()
    host.tally.start()
    progress = _Progress(options)
    deadline = time.monotonic() + options.timeout
    fetched = cycle.fetch()
    quiet = 0
    try:
        while time.monotonic() < deadline:
            woken.clear()
            made = cycle.run()
            progress.show(cycle.status)
            # Nobody but us takes the replica of a rehearsal away again.
            busy = bool(apply.busy or made.actions or made.rehearsing) or _moving(cycle.status)
            quiet = 0 if busy else quiet + 1
            converged = cycle.status is not None and cycle.status.result == "converged" and not made.rehearsing
            if converged or quiet >= _QUIET:
                break
            pause = 1.0 if made.wake_at is None else max(0.02, made.wake_at - time.time())
            woken.wait(min(pause, 1.0, max(0.0, deadline - time.monotonic())))
    finally:
        apply.stop(5.0)
        prober.stop()
        host.tally.stop()
    if cycle.status is None:
        return ERROR
    host.store.save_status(serialise.text(cycle.status), cycle.status.at)
    code = _finish(cycle.status, options, progress)
    return code if fetched else ERROR


def _moving(status: HostStatus | None) -> bool:
    """Whether an app is on its way, and not just waiting for its next attempt."""
    apps = status.apps.values() if status else ()
    waiting = (app for app in apps if app.next_retry is None)
    return any(each.type == "Progressing" and each.status for app in waiting for each in app.conditions)


def sync_through_agent(host: Host, options: argparse.Namespace) -> int:
    """Tell the running agent to look now, and wait until it has converged."""
    pid = host.lock.holder()
    began = time.time()
    if pid:  # 0: it runs, but could not write down who it is; its poll comes soon
        os.kill(pid, signal.SIGHUP)
    progress = _Progress(options)
    deadline = time.monotonic() + options.timeout
    current: HostStatus | None = None
    settled = 0
    while time.monotonic() < deadline:
        answer = ask_status(host.settings.listen)
        if answer is not None:
            current = serialise.host_status(json.loads(answer))
            progress.show(current)
            fresh = current.last_fetch_at is not None and current.last_fetch_at > began
            over = current.result in {"converged", "blocked", "failed"} or not _moving(current)
            away = current.at > began + _ANSWERS_WITHIN and not fresh and bool(current.faults)
            settled = settled + 1 if (fresh or away) and over else 0
            if settled >= _QUIET:
                break
        time.sleep(_AGENT_POLL)
    if current is None:
        raise Unavailable(
            f"an agent runs (pid {pid}), but does not answer at {host.settings.listen}",
            reason="AgentSilent",
            remedy="Look at its log: journalctl -u reconciler",
        )
    code = _finish(current, options, progress)
    return code if current.last_fetch_at is not None and current.last_fetch_at > began else ERROR


def _finish(status: HostStatus, options: argparse.Namespace, progress: _Progress) -> int:
    progress.end()
    if options.output == "json":
        print(serialise.text(status, indent=2))
    else:
        print(status_text(status, Style.of(sys.stdout), now=time.time(), width=terminal_width(), stale=""))
    if status.result == "failed":
        return ERROR
    return IN_SYNC if status.result == "converged" else DIFFERENCES


class _Progress:
    """One line on a terminal that says what is being done; nothing anywhere else."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._on = sys.stderr.isatty() and options.output == "text"
        self._last = ""

    def show(self, status: HostStatus | None) -> None:
        if not self._on or status is None:
            return
        moving = [f"{app.name}: {app.message}" for app in status.apps.values() if app.sync != "Synced" and app.message]
        width = terminal_width(sys.stderr)
        line = clean(moving[0] if moving else status.verdict)
        line = shorten(line, width - 1) if width else line
        if line != self._last:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            self._last = line

    def end(self) -> None:
        if self._last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._last = ""
