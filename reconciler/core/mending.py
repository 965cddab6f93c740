"""What brings a replica of the right version back, by the gentlest means."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final, Literal

from reconciler.core import actions as act
from reconciler.core.addresses import AddressPool
from reconciler.core.model import App
from reconciler.core.observed import Container, Limits, NameState
from reconciler.core.readiness import is_ready, is_sick
from reconciler.core.retiring import settled
from reconciler.core.slots import answering
from reconciler.core.step import Facts, Step
from reconciler.core.target import DesiredApp


class _Full(Enum):
    SUBNET_FULL = "no address is free"


SUBNET_FULL: Final = _Full.SUBNET_FULL


def mend(
    container: Container, desired: DesiredApp, pool: AddressPool, *, drift: bool
) -> act.Action | Literal[_Full.SUBNET_FULL] | None:
    """The next step for one replica; None where nothing is wrong, or the engine is at it."""
    app, where = desired.name, (container.id, container.name)
    match container.state:
        case "created" | "exited":
            if container.error and container.state == "created":
                reason = f"{container.name} could not be started: {container.error}"
                return act.RemoveContainer(app, reason, *where, desired.fingerprint)
            reason = f"{container.name} was stopped" if container.state == "exited" else "it was not started yet"
            return act.StartContainer(app, reason, *where, drift=drift and container.state == "exited")
        case "dead":
            reason = f"the engine lost {container.name}"
            return act.RemoveContainer(app, reason, *where, desired.fingerprint, drift=drift)
        case "paused":
            return act.Unpause(app, f"{container.name} was paused", *where, drift=drift)
        case "running":
            return _mend_running(container, desired, pool, drift=drift)
        case "restarting" | "removing":
            return None


def _mend_running(
    container: Container, desired: DesiredApp, pool: AddressPool, *, drift: bool
) -> act.Action | Literal[_Full.SUBNET_FULL] | None:
    app, where = desired.name, (container.id, container.name)
    if container.address is None:
        address = pool.take()
        if address is None:
            return SUBNET_FULL
        return act.Reconnect(app, f"{container.name} was disconnected from the network", *where, address, drift=drift)
    spec = desired.spec
    limits = Limits(spec.cpus, spec.memory, spec.pids, spec.restart)
    if container.limits is not None and container.limits != limits:
        return act.UpdateLimits(app, f"limits of {container.name} were changed by hand", *where, limits, drift=drift)
    return None


def restart_sick(step: Step, facts: Facts, app: App, containers: Collection[Container]) -> None:
    """A replica that was well and is not any more: out of the name, then started anew, one at a time.

    What ails one may ail all, and then a restart helps nobody: so each has its time to get well, and the next one waits
    longer.
    """
    health, observed, now = app.health, facts.observed, facts.now
    sick = [c for c in containers if c.state == "running" and is_sick(c, app, observed)]
    patience = health.start_period + health.retries * (health.interval + health.timeout)
    fresh = [c.started_at + patience for c in sick if now < c.started_at + patience]
    if fresh:
        step.wait(min(fresh), "", "")
    elif sick:
        one = min(sick, key=lambda c: c.started_at)
        name = observed.names.names.get(app.name) or NameState((), 0.0, None)
        well = any(is_ready(c, app, observed, now)[0] for c in containers)
        leaves = well and bool(set(name.written) - {one.address})
        if leaves and (one.address in answering(observed.names, app.name) or not settled(facts, name, step)):
            return
        detail = is_ready(one, app, observed, now)[2]
        why = f"{one.name} is not healthy any more{f' ({detail})' if detail else ''}"
        step.actions.append(act.RestartContainer(app.name, why, one.id, one.name, one.stop_grace_period))
        step.say("Restarting", why)
