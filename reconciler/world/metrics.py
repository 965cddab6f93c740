"""What Prometheus can see. All of it is in this file: names, labels, help texts.

The cycle only leaves values here; everything that Prometheus reads is made of them when it asks, so a metric costs the
loop nothing, an app that is gone has no series, and prometheus_client is not even loaded where nobody scrapes.

Invariant: labels are app names, revisions, image references and words out of our own code; never a message or a path.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.core import secretfile
from reconciler.core.status import HEALTH_WORDS, SYNC_WORDS, AppStatus, HostStatus

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Usage = Callable[[int], tuple[str, float, int] | None]
"""Main process -> its cgroup, CPU seconds and bytes of memory, or None (``cgroups.usage``)."""

OUTCOMES = ("success", "failure")
CYCLE_RESULTS = ("converged", "progressing", "blocked", "failed")
PHASES = ("parse", "resolve", "observe", "plan", "apply")

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_PREFIX = "reconciler_"


@dataclass(slots=True)
class _Counter:
    """Counts by one label's words, or by app, or by both."""

    name: str
    help: str
    by_app: bool
    label: str = ""
    words: tuple[str, ...] = ()
    values: dict[tuple[str, str], int] = field(default_factory=dict)
    """(app or "", word or "") -> count."""

    def add(self, app: str = "", word: str = "") -> None:
        if word and not _WORD.fullmatch(word):
            word = "other"
        self.values[app, word] = self.values.get((app, word), 0) + 1

    def family(self, apps: Iterable[str]) -> CounterMetricFamily:
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415  (loaded when somebody scrapes)

        labels = [*(["app"] if self.by_app else []), *([self.label] if self.label else [])]
        family = CounterMetricFamily(_PREFIX + self.name, self.help, labels=labels)
        seen = dict.fromkeys(word for _, word in self.values)
        words = dict.fromkeys((*self.words, *seen)) if self.label else {"": None}
        for app in apps if self.by_app else ("",):
            for word in words:
                family.add_metric([part for part in (app, word) if part], self.values.get((app, word), 0))
        return family


@dataclass(slots=True)
class _Durations:
    """A histogram of seconds by one label."""

    name: str
    help: str
    label: str
    bounds: tuple[float, ...]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def observe(self, key: str, seconds: float) -> None:
        seconds = max(0.0, seconds)  # a clock that was set back
        self.counts.setdefault(key, [0] * (len(self.bounds) + 1))[bisect_left(self.bounds, seconds)] += 1
        self.sums[key] = self.sums.get(key, 0.0) + seconds

    def family(self, keys: Iterable[str]) -> HistogramMetricFamily:
        from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415  (loaded when somebody scrapes)

        family = HistogramMetricFamily(_PREFIX + self.name, self.help, labels=[self.label])
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        none = [0] * len(names)
        for key in keys:
            total, buckets = 0, []
            for name, count in zip(names, self.counts.get(key, none), strict=True):
                total += count
                buckets.append((name, float(total)))
            family.add_metric([key], buckets, self.sums.get(key, 0.0))
        return family


class Metrics:
    """Implements ``protocols.Meter``. Every method may be called from any thread.

    Args:
        version: Ours.
        usage: Reads what a container has used; called when Prometheus asks.
    """

    def __init__(self, version: str, usage: Usage) -> None:
        self._version = version
        self._usage = usage
        self._lock = threading.Lock()
        self._scraping = threading.Lock()
        self._status: HostStatus | None = None
        self._pids: Mapping[str, Sequence[int]] = {}
        self._cpu = _CpuTime()
        self._cycles = _Counter(
            "cycles", "Walks, by what the host looked like after them.", False, "result", CYCLE_RESULTS
        )
        self._fetches = _Counter(
            "fetches", "Times that the remote was asked for a newer revision.", False, "result", OUTCOMES
        )
        self._reloads = _Counter(
            "nginx_reloads", "Times that nginx was asked to load other routes.", False, "result", OUTCOMES
        )
        self._decrypt_failures = _Counter(
            "decrypt_failures", "SOPS files that could not be decrypted.", False, "reason", secretfile.REASONS
        )
        self._deployments = _Counter(
            "deployments", "Versions that became healthy, or were given up.", True, "result", OUTCOMES
        )
        self._rollbacks = _Counter("rollbacks", "Deployments of a version that had been applied before.", True)
        self._drift_repairs = _Counter("drift_repairs", "Repairs of what changed without a commit.", True)
        self._phases = _Durations(
            "phase_duration_seconds",
            "Seconds that each phase of a walk took.",
            "phase",
            (0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0),
        )
        self._lead_times = _Durations(
            "lead_time_seconds",
            "Seconds from commit to healthy, of each deployment: histogram, so that months can be summed up.",
            "app",
            (60.0, 300.0, 3600.0, 86400.0, 604800.0),
        )
        self._convergences = _Durations(
            "convergence_seconds",
            "Seconds from first seen by this agent to healthy, of each deployment: histogram.",
            "app",
            (2.0, 5.0, 15.0, 60.0, 300.0),
        )
        self._recoveries = _Durations(
            "recovery_seconds",
            "Seconds that an app was degraded or missing until it was healthy again: histogram.",
            "app",
            (5.0, 15.0, 60.0, 300.0, 3600.0),
        )
        self._by_app: tuple[_Counter, ...] = (self._deployments, self._rollbacks, self._drift_repairs)
        self._durations_by_app = (self._lead_times, self._convergences, self._recoveries)

    # -- what the walk tells us ---------------------------------------------------------------------------------------

    def update(self, status: HostStatus) -> None:
        """Where every app stands now. Apps that it does not name lose their series."""
        with self._lock:
            before, self._status = self._status, status
            if before is None or before.apps.keys() != status.apps.keys():
                for counter in self._by_app:
                    counter.values = {key: n for key, n in counter.values.items() if key[0] in status.apps}
                for durations in self._durations_by_app:
                    durations.counts = {app: n for app, n in durations.counts.items() if app in status.apps}
                    durations.sums = {app: n for app, n in durations.sums.items() if app in status.apps}

    def set_containers(self, pids: Mapping[str, Sequence[int]]) -> None:
        """Main processes of each app's running replicas."""
        with self._lock:
            self._pids = dict(pids)

    def record_cycle(self, result: str, phases: Mapping[str, float]) -> None:
        """A cycle has ended."""
        with self._lock:
            self._cycles.add(word=result)
            for phase, seconds in phases.items():
                self._phases.observe(phase, seconds)

    def record_fetch(self, result: str) -> None:
        """The remote was asked."""
        with self._lock:
            self._fetches.add(word=result)

    def deployment(self, app: str, result: str) -> None:
        """A version became healthy, or failed."""
        with self._lock:
            self._deployments.add(app, result)

    def drift_repair(self, app: str) -> None:
        """Something was put back that no commit had changed."""
        with self._lock:
            self._drift_repairs.add(app)

    def rollback(self, app: str) -> None:
        """An earlier version was applied again."""
        with self._lock:
            self._rollbacks.add(app)

    def lead_time(self, app: str, seconds: float) -> None:
        """From commit to healthy."""
        with self._lock:
            self._lead_times.observe(app, seconds)

    def convergence(self, app: str, seconds: float) -> None:
        """From seen to healthy."""
        with self._lock:
            self._convergences.observe(app, seconds)

    def recovery(self, app: str, seconds: float) -> None:
        """From failed or degraded to healthy."""
        with self._lock:
            self._recoveries.observe(app, seconds)

    def nginx_reload(self, result: str) -> None:
        """The host's nginx was asked to load a generation."""
        with self._lock:
            self._reloads.add(word=result)

    def decrypt_failure(self, reason: str) -> None:
        """A SOPS file could not be decrypted."""
        with self._lock:
            self._decrypt_failures.add(word=reason)

    # -- what Prometheus asks -----------------------------------------------------------------------------------------

    def exposition(self) -> tuple[str, bytes]:
        """Content type and text of all metrics.

        Not OpenMetrics, which says the same here and costs prometheus_client twice the time.
        """
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  (loaded when somebody scrapes)

        registry = CollectorRegistry()
        registry.register(self)
        return _CONTENT_TYPE, generate_latest(registry)

    def collect(self) -> list[Metric]:
        """All families of metrics; the interface of prometheus_client's collectors."""
        with self._scraping:
            with self._lock:
                families = [*self._of_the_host(), *self._of_apps()]
                apps, pids = tuple(self._status.apps if self._status else ()), self._pids
            # The kernel is asked without the lock: the loop must not wait for a scrape.
            return [*families, *self._resources(apps, pids)]

    def _of_the_host(self) -> Iterator[Metric]:
        status = self._status
        build = _gauge("build_info", "The agent's version.", "version")
        build.add_metric([self._version], 1)
        yield build
        yield _value(
            "heartbeat_timestamp_seconds", "Unix time at which the last walk ended.", status.at if status else 0
        )
        fetched = (status.last_fetch_at if status else None) or 0
        yield _value(
            "last_fetch_timestamp_seconds",
            "Unix time at which the remote last answered. Alert on its age: a signature cannot show a frozen remote.",
            fetched,
        )
        yield _value(
            "prune_blocked",
            "Apps that would be removed if a person accepted it.",
            status.prune_blocked if status else 0,
        )
        for counter in (self._cycles, self._fetches, self._reloads, self._decrypt_failures):
            yield counter.family(())
        yield self._phases.family(dict.fromkeys((*PHASES, *self._phases.counts)))
        problems = _gauge("manifest_problems", "Errors in manifests; app is empty where no single app is meant.", "app")
        counts = dict.fromkeys(("", *(status.apps if status else ())), 0)
        for problem in status.problems if status else ():
            if problem.severity == "error":
                counts[problem.app or ""] = counts.get(problem.app or "", 0) + 1
        for app, count in counts.items():
            problems.add_metric([app], count)
        yield problems

    def _of_apps(self) -> Iterator[Metric]:
        apps = self._status.apps if self._status else {}
        yield from _standing(apps.values())
        for counter in self._by_app:
            yield counter.family(apps)
        for durations in self._durations_by_app:
            yield durations.family(apps)

    def _resources(self, apps: Iterable[str], pids: Mapping[str, Sequence[int]]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415  (loaded when somebody scrapes)

        used = {app: [found for pid in pids.get(app, ()) if (found := self._usage(pid))] for app in apps}
        seconds = self._cpu.add({app: {group: cpu for group, cpu, _ in each} for app, each in used.items()})
        cpu_seconds = CounterMetricFamily(
            _PREFIX + "app_cpu_seconds",
            "CPU seconds that the app's containers used since this agent was first asked.",
            labels=["app"],
        )
        memory = _gauge("app_memory_bytes", "Memory of the app's containers, as docker stats counts it.", "app")
        for app, each in used.items():
            cpu_seconds.add_metric([app], seconds[app])
            memory.add_metric([app], sum(size for _, _, size in each))
        yield cpu_seconds
        yield memory


class _CpuTime:
    """Adds up CPU time of containers that come and go, so that an app's sum never falls.

    A plain sum would fall whenever a container is replaced, and Prometheus would take that for a restart and count
    all that is left once more.
    """

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._last: dict[str, dict[str, float]] | None = None

    def add(self, now: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
        """Take app -> cgroup -> CPU seconds, return app -> seconds so far."""
        totals = {app: self._totals.get(app, 0.0) for app in now}
        if self._last is not None:  # what was used before the first look belongs to nobody's rate
            for app, groups in now.items():
                before = self._last.get(app, {})
                totals[app] += sum(max(0.0, seconds - before.get(group, 0.0)) for group, seconds in groups.items())
        self._totals, self._last = totals, {app: dict(groups) for app, groups in now.items()}
        return totals


def _standing(apps: Iterable[AppStatus]) -> Iterator[Metric]:
    """One app's status as numbers."""
    info = _gauge("app_info", "The applied revision and the image of the manifest.", "app", "revision", "image")
    sync = _gauge("app_sync_status", "1 for the sync status that the app has.", "app", "status")
    health = _gauge("app_health_status", "1 for the health status that the app has.", "app", "status")
    suspended = _gauge("app_suspended", "1 while a person asked us to leave the app alone.", "app")
    replicas = _gauge("app_replicas", "Replicas that are desired, running and healthy.", "app", "state")
    success = _gauge(
        "app_last_success_timestamp_seconds", "Unix time at which the app was last applied, 0: never.", "app"
    )
    way_back = _gauge(
        "app_rollback_ready", "1 if the version before could serve again; only of apps that rehearsed it.", "app"
    )
    for app in apps:
        for condition in app.conditions:
            if condition.type == "RollbackReady":
                way_back.add_metric([app.name], condition.status)
        info.add_metric([app.name, app.revisions.applied, app.image], 1)
        for sync_word in SYNC_WORDS:
            sync.add_metric([app.name, sync_word], app.sync == sync_word)
        for health_word in HEALTH_WORDS:
            health.add_metric([app.name, health_word], app.health == health_word)
        suspended.add_metric([app.name], app.health == "Suspended")
        replicas.add_metric([app.name, "desired"], app.replicas_desired)
        replicas.add_metric([app.name, "running"], app.replicas_running)
        replicas.add_metric([app.name, "healthy"], app.replicas_healthy)
        success.add_metric([app.name], app.applied_at or 0)
    yield from (info, sync, health, suspended, replicas, success, way_back)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  (loaded when somebody scrapes)

    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _value(name: str, text: str, value: float) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  (loaded when somebody scrapes)

    return GaugeMetricFamily(_PREFIX + name, text, value=value)
