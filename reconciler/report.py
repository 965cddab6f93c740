"""What a walk says in the end: the status that people and programs read, and its one sentence. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from reconciler import __version__
from reconciler.core import serialise
from reconciler.core.model import Commit, Problem
from reconciler.core.plan import Plan
from reconciler.core.status import AppStatus, HostStatus
from reconciler.errors import ReconcilerError
from reconciler.protocols import Clock, HistoryEntry, Meter, Store

log = logging.getLogger(__name__)

Result = Literal["converged", "progressing", "blocked", "failed"]

_KEEP_EVERY = 60.0  # seconds
_NOTICES = frozenset({"StoreDamaged", "ImageNotRemoved", "RollbackNotReady"})
"""Faults that a person should know of, but that hold up nothing."""
_REFUSALS = frozenset({"InvalidManifest", "PolicyViolation", "ForeignContainer", "PruneBlocked"})
_NAMED = 5  # apps in the one sentence


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk saw, besides its plan."""

    commit: Commit
    problems: tuple[Problem, ...]
    faults: tuple[tuple[str, str], ...]
    """(reason, message) of what is wrong with the host or the repository; also what only has to be known."""
    last_fetch_at: float | None
    """Unix time."""


class Report:
    """Where everything stands, for the agent's socket, the metrics, the log, and the store.

    Args:
        host: What this host calls itself.
        store: Keeps the status for when no agent runs, and refusals in the history.
        meter: The metrics.
        clock: Unix time.
    """

    def __init__(self, host: str, store: Store, meter: Meter, clock: Clock) -> None:
        self._host = host
        self._store = store
        self._meter = meter
        self._clock = clock
        self._standing: dict[str, tuple[AppStatus, AppStatus]] = {}
        self._said: dict[str, tuple[str, str]] = {}
        self._kept = ("", 0.0)
        self.status: HostStatus | None = None
        """After the last walk."""

    def walked(self, made: Plan, seen: Seen, *, busy: bool) -> HostStatus:
        """A walk came to its end; ``busy``: something is still being done."""
        hindered = any(reason not in _NOTICES for reason, _ in seen.faults)
        result: Result = "converged" if made.converged and not busy and not hindered else "progressing"
        if result == "progressing" and not busy and not made.actions and made.wake_at is None:
            result = "blocked"
        statuses = {name: self._dated(status) for name, status in made.statuses.items()}
        self._say_changes(statuses, seen.commit)
        return self._publish(
            HostStatus(
                host=self._host,
                version=__version__,
                at=self._clock(),
                verdict=verdict(seen.commit, statuses, seen.faults, result),
                result=result,
                apps=statuses,
                problems=seen.problems,
                commit=seen.commit,
                faults=seen.faults,
                prune_blocked=made.prune_blocked,
                last_fetch_at=seen.last_fetch_at,
            ),
        )

    def failed(
        self,
        error: ReconcilerError,
        commit: Commit | None,
        faults: tuple[tuple[str, str], ...],
        last_fetch_at: float | None,
    ) -> HostStatus:
        """Nothing could be planned. Apps go on as they are; what was known of them is kept, marked unknown."""
        before = self.status
        return self._publish(
            HostStatus(
                host=self._host,
                version=__version__,
                at=self._clock(),
                verdict=f"failed: {error}",
                result="failed",
                apps={n: replace(s, sync="Unknown") for n, s in before.apps.items()} if before else {},
                problems=before.problems if before else (),
                commit=commit or (before.commit if before else None),
                faults=faults,
                last_fetch_at=last_fetch_at,
            ),
        )

    def _publish(self, status: HostStatus) -> HostStatus:
        if self.status is None or self.status.verdict != status.verdict:
            log.info("%s", status.verdict)
        self.status = status
        self._keep(status)
        self._meter.update(status)
        return status

    def _keep(self, status: HostStatus) -> None:
        """In the store, for when no agent runs: when something changed, and now and then to say we were here."""
        was, at = self._kept
        if was == status.verdict and status.at - at < _KEEP_EVERY:
            return
        try:
            self._store.save_status(serialise.text(status), status.at)
            self._kept = (status.verdict, status.at)
        except ReconcilerError as error:
            log.warning("the status cannot be kept: %s", error)

    def _dated(self, status: AppStatus) -> AppStatus:
        """With the time at which each condition last changed; the very same value where nothing did."""
        planned, before = self._standing.get(status.name, (None, None))
        if before is not None and planned == status:
            return before
        now = self._clock()
        since = {(c.type, c.status, c.reason): c.since for c in before.conditions} if before is not None else {}
        conditions = (
            replace(c, since=c.since or since.get((c.type, c.status, c.reason), now)) for c in status.conditions
        )
        dated = replace(status, conditions=tuple(conditions))
        self._standing[status.name] = (status, dated)
        return dated

    def _say_changes(self, statuses: Mapping[str, AppStatus], commit: Commit) -> None:
        """One log line, and for refusals one history entry, when an app's reason changes."""
        for name, status in statuses.items():
            # How long a canary's step lasts yet, and what was counted so far, is news at every look.
            message = status.message.partition(" for ")[0] if status.reason == "Canary" else status.message
            said = (status.reason, message)
            if self._said.get(name) == said:
                continue
            self._said[name] = said
            stalled = any(condition.type == "Stalled" and condition.status for condition in status.conditions)
            log.log(logging.WARNING if stalled else logging.INFO, "%s: %s: %s", name, status.reason, status.message)
            if stalled and status.reason in _REFUSALS:
                self._record_refusal(name, status, commit)
        for name in self._said.keys() - statuses.keys():
            del self._said[name]
            del self._standing[name]

    def _record_refusal(self, name: str, status: AppStatus, commit: Commit) -> None:
        entry = HistoryEntry(
            at=self._clock(),
            app=name,
            event="refused",
            revision=commit.sha,
            author=commit.author,
            subject=commit.subject,
            reason=f"{status.reason}: {status.message}",
        )
        try:
            self._store.add(entry)
        except ReconcilerError as error:
            log.warning("history: %s", error)


def verdict(
    commit: Commit, statuses: Mapping[str, AppStatus], faults: Iterable[tuple[str, str]], result: Result
) -> str:
    """The cycle's one sentence."""
    apps = f"{len(statuses)} app{'' if len(statuses) == 1 else 's'}"
    parts = [f"{result} at {commit.short}: {apps}"]
    behind = sorted(name for name, status in statuses.items() if status.sync != "Synced")
    if behind:
        shown = ", ".join(f"{name} ({statuses[name].reason})" for name in behind[:_NAMED])
        parts.append(f"not in sync: {shown}{f' and {len(behind) - _NAMED} more' if len(behind) > _NAMED else ''}")
    unwell = sorted(n for n, s in statuses.items() if s.sync == "Synced" and s.health != "Healthy")
    if unwell:
        parts.append(f"not healthy: {', '.join(unwell[:_NAMED])}")
    parts += [f"{reason}: {message}" for reason, message in faults]
    return "; ".join(parts)
