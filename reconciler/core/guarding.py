"""What before_deploy must not do: make the version that runs sick. While it may, that version is watched closely.

The container of before_deploy bears the names of the replicas that were healthy when it was made. So whoever looks
later, in whichever process, knows who fell ill since; a replica that was sick before bars the way of no hotfix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reconciler.core.model import App, Health
from reconciler.core.observed import Container, Observed
from reconciler.core.readiness import is_ready
from reconciler.core.step import Facts, Step
from reconciler.core.target import DesiredApp

BROKEN = "MigrationBrokeRunning"
_QUICK = 0.5  # seconds between two probes
_CALM = 3.0  # seconds for which a replica that crashed must run before it counts as well again


def watched(health: Health) -> Health:
    """How a replica is probed that before_deploy of another version may break: quickly, and from the first moment."""
    return replace(health, interval=min(health.interval, _QUICK), start_period=0.0)


def healthy_now(facts: Facts, desired: DesiredApp, old: Iterable[Container]) -> tuple[str, ...] | None:
    """Names of the old replicas that are healthy; None while that is not known of all that run.

    Of a version that was overtaken before it was applied nobody knows how it is probed; it is not waited for.
    """
    manifest, previous = _manifest(facts, desired), facts.target.previous
    running = [c for c in old if c.state == "running" and c.address]
    if previous is not None:
        running = [c for c in running if c.claim and c.claim.fingerprint == previous.fingerprint]
    if manifest.health.kind in {"http", "tcp"} and any(_unknown(c, facts.observed) for c in running):
        return None
    return tuple(sorted(c.name for c in running if is_ready(c, manifest, facts.observed, facts.now)[0]))


def is_stopped(
    step: Step, facts: Facts, desired: DesiredApp, tasks: Iterable[Container], old: Iterable[Container]
) -> bool:
    """Whether the rollout stops because an old replica fell ill after before_deploy began; until it is well again.

    Args:
        step: Of this look at the app; told why.
        facts: What is known about the app.
        desired: The version that is to come.
        tasks: The app's task containers, of any version.
        old: Replicas of the versions before.
    """
    task = _task(tasks, desired)
    if task is None or _is_urged(facts, task):
        return False
    manifest = _manifest(facts, desired)
    for container in _guarded(task, old):
        why = _harm(container, manifest, facts, task, step)
        if why:
            step.stalled = True
            step.say(BROKEN, _text(desired, container, why))
            return True
    return False


def has_held(
    step: Step, facts: Facts, desired: DesiredApp, tasks: Iterable[Container], old: Iterable[Container]
) -> bool:
    """Whether old was watched for long enough after before_deploy ended; looks again when it was."""
    task, health = _task(tasks, desired), _manifest(facts, desired).health
    if task is None or _is_urged(facts, task) or health.kind not in {"http", "tcp"}:
        return True
    guarded = [c for c in _guarded(task, old) if c.state == "running"]
    if not guarded:
        return True
    until = task.finished_at + (health.retries + 1) * _QUICK
    unknown = any(_unknown(c, facts.observed) for c in guarded)
    if unknown or facts.now < until <= facts.now + (health.retries + 1) * _QUICK:
        until = max(until, facts.now + 1.0) if unknown else until
        step.wait(until, "BeforeDeploy", "before_deploy has ended well; watching how the version that runs takes it")
        return False
    return True


def _task(tasks: Iterable[Container], desired: DesiredApp) -> Container | None:
    ours = (c for c in tasks if c.claim and c.claim.fingerprint == desired.fingerprint)
    return next((c for c in ours if c.claim and c.claim.well), None)


def _guarded(task: Container, old: Iterable[Container]) -> list[Container]:
    well = task.claim.well if task.claim else ()
    return sorted((c for c in old if c.name in well), key=lambda container: container.name)


def _is_urged(facts: Facts, task: Container) -> bool:
    """A person has said since to go on all the same. A check starts again and again; it was made in whole seconds."""
    once = task.claim is not None and task.claim.role == "task"
    return facts.urged_at >= (task.started_at if once and task.started_at else task.created_at + 1.0)


def _manifest(facts: Facts, desired: DesiredApp) -> App:
    return facts.target.previous.app if facts.target.previous is not None else desired.app


def _unknown(container: Container, observed: Observed) -> bool:
    probe = observed.probes.get(container.id)
    return probe is None or probe.healthy is None


def _harm(container: Container, manifest: App, facts: Facts, task: Container, step: Step) -> str:
    """What ails a replica. One that we stopped to make room has left the name before."""
    if container.state == "restarting":
        code = "" if container.exit_code is None else f" with exit code {container.exit_code}"
        return f"it ended{code} and is being restarted"
    name = facts.observed.names.names.get(manifest.name)
    if container.state == "exited" and name is not None and container.address in name.written:
        return "it was stopped"
    if container.state != "running":
        return ""
    calm_at = container.started_at + max(_CALM, manifest.health.min_healthy_time)
    if container.restarts and container.started_at > task.started_at and facts.now < calm_at:
        step.wait(calm_at, "", "")
        return "it ended and was restarted"
    if manifest.health.kind in {"http", "tcp"}:
        probe = facts.observed.probes.get(container.id)
        return (probe.message or "its health check fails") if probe is not None and probe.healthy is False else ""
    return "its HEALTHCHECK says unhealthy" if container.engine_health == "unhealthy" else ""


def _text(desired: DesiredApp, container: Container, why: str) -> str:
    runs = container.claim
    version = f"{runs.image} of {runs.revision[:8]}" if runs else "the version that runs"
    return (
        f"{container.name} was healthy when before_deploy of {desired.revision[:8]} began and is not any more "
        f"({why}), so the rollout stops here. {version} still serves, as well as it can; {desired.app.image} is not "
        f"started any further, and not given up: it goes on by itself once {container.name} is healthy. Commit a fix "
        f"or a revert (what before_deploy did to the database stays), or go on all the same: reconciler retry "
        f"{desired.name}"
    )
