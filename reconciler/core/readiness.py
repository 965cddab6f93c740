"""Whether a replica may take traffic, and how an app is as a whole."""

from __future__ import annotations

from reconciler.core.model import App
from reconciler.core.observed import Container, Observed
from reconciler.core.slots import answering
from reconciler.core.status import HealthWord
from reconciler.core.step import Facts


def is_ready(container: Container, app: App, observed: Observed, now: float) -> tuple[bool, float | None, str]:
    """Whether a replica may take traffic; else when to look again (None: an event will tell) and why not.

    One that takes traffic already has shown long ago that it stays healthy; it need not do so again for an agent that
    has just started.
    """
    if container.state != "running" or container.address is None:
        return False, None, f"{container.name} is {container.state}" if container.state != "running" else "no address"
    if app.health.kind in {"http", "tcp"}:
        probe = observed.probes.get(container.id)
        if probe is None or not probe.healthy:
            return False, None, probe.message if probe else ""
        since = max(probe.since, container.started_at)
    else:
        if container.engine_health in {"starting", "unhealthy"}:
            return False, None, f"its HEALTHCHECK says {container.engine_health}"
        since = container.started_at
    stable_at = since + app.health.min_healthy_time
    proven = container.address in answering(observed.names, app.name)
    return proven or now >= stable_at, stable_at, "healthy, but not yet for long enough"


def is_sick(container: Container, app: App, observed: Observed) -> bool:
    """Known to be unfit, as opposed to not known yet."""
    if container.state != "running":
        return True
    if app.health.kind in {"http", "tcp"}:
        probe = observed.probes.get(container.id)
        return probe is not None and probe.healthy is False
    return container.engine_health == "unhealthy"


def health_of(facts: Facts, *, moving: bool) -> tuple[HealthWord, int, int]:
    """The health word, running replicas and healthy replicas."""
    replicas = [c for c in facts.containers if c.claim and c.claim.role == "replica"]
    running = [c for c in replicas if c.state == "running"]
    app = facts.target.desired.app if facts.target.desired else None
    if app is None:
        return ("Healthy" if running else "Missing"), len(running), len(running)
    healthy = [c for c in running if is_ready(c, app, facts.observed, facts.now)[0]]
    if moving:
        return "Progressing", len(running), len(healthy)
    if not running:
        return "Missing", 0, 0
    return ("Healthy" if len(healthy) >= app.replicas else "Degraded"), len(running), len(healthy)
