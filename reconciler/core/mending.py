"""What brings a replica of the right version back, by the gentlest means."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

from reconciler.core import actions as act
from reconciler.core.addresses import AddressPool
from reconciler.core.observed import Container, Limits
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
