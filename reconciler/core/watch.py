"""What is looked at more closely than the rest: who is probed, and whose connections are counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.guarding import watched
from reconciler.core.model import Health
from reconciler.core.observed import Container
from reconciler.core.ownership import is_rehearsal
from reconciler.core.rehearsal import is_of
from reconciler.core.target import Target


def watch_list(
    targets: Mapping[str, Target], observed_containers: Iterable[Container]
) -> dict[str, tuple[str, Health]]:
    """Which containers to probe, where and how."""
    found = {}
    for container in observed_containers:
        target = targets.get(container.claim.app) if container.claim and container.owned else None
        if target is None or target.desired is None or container.address is None or container.state != "running":
            continue
        previous = target.previous
        old = previous is not None and container.claim and container.claim.fingerprint == previous.fingerprint
        health = previous.app.health if previous is not None and old else target.desired.app.health
        way = target.way_back
        if is_rehearsal(container):
            if way is not None and way.desired is not None and is_of(container, way):
                found[container.id] = (container.address, way.desired.app.health)
            continue
        if old and target.desired.app.before_deploy is not None:
            health = watched(health)
        if health.kind in {"http", "tcp"} and container.claim and container.claim.role == "replica":
            found[container.id] = (container.address, health)
    return found


def retiring(targets: Mapping[str, Target], observed_containers: Iterable[Container]) -> list[str]:
    """Running containers whose connections decide when they may be stopped."""
    found = []
    for container in observed_containers:
        if not container.owned or container.claim is None or container.state != "running" or is_rehearsal(container):
            continue
        target = targets.get(container.claim.app)
        desired = target.desired if target else None
        if target is not None and desired is None:
            continue
        if (
            desired is None
            or container.claim.fingerprint != desired.fingerprint
            or container.claim.slot > desired.app.replicas
        ):
            found.append(container.id)
    return found
