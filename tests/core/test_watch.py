from __future__ import annotations

from harness.builders import app, container, converged, desired, wanted

from reconciler.core.model import Health
from reconciler.core.watch import retiring, watch_list


def test_probes_and_connections_are_asked_only_where_they_matter() -> None:
    probed = desired(app(health=Health("http", port=80)))
    end = converged(probed, desired(app("other")))
    containers = end.observed.engine.containers
    shop = container(end, "shop.1.")
    assert watch_list(end.wanted.targets, containers) == {shop.id: (shop.address, probed.app.health)}
    assert retiring(end.wanted.targets, containers) == []
    newer = wanted(desired(app(), image="sha256:2"), desired(app("other"))).targets
    assert retiring(newer, containers) == [shop.id]
