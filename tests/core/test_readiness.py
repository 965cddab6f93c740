from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import NOW, app, converged, desired

from reconciler.core.model import App, Health
from reconciler.core.observed import Container, Observed, ProbeResult
from reconciler.core.readiness import is_ready, is_sick

PROBED = app(health=Health("http", port=80, min_healthy_time=5))


def fresh(manifest: App) -> tuple[Container, Observed]:
    """A running replica that nobody has named yet."""
    end = converged(desired(manifest))
    nameless = replace(end.observed, names=replace(end.observed.names, names={}))
    return end.observed.engine.containers[0], nameless


def test_a_probed_replica_is_ready_once_it_was_healthy_for_long_enough() -> None:
    container, observed = fresh(PROBED)
    since = NOW + 100
    healthy = replace(observed, probes={container.id: ProbeResult(healthy=True, since=since)})
    assert is_ready(container, PROBED, healthy, since + 4.9)[:2] == (False, since + 5)
    assert is_ready(container, PROBED, healthy, since + 5)[0]
    assert not is_ready(container, PROBED, replace(observed, probes={}), since + 50)[0]
    sick = replace(observed, probes={container.id: ProbeResult(healthy=False, since=since, message="GET /: 500")})
    assert is_ready(container, PROBED, sick, since + 50) == (False, None, "GET /: 500")
    assert is_sick(container, PROBED, sick)
    assert not is_sick(container, PROBED, replace(observed, probes={}))


@pytest.mark.parametrize(
    ("word", "ready", "sick"), [("healthy", True, False), ("starting", False, False), ("unhealthy", False, True)]
)
def test_dockers_own_verdict_counts_where_the_agent_does_not_probe(word: str, ready: bool, sick: bool) -> None:  # noqa: FBT001
    container, observed = fresh(app())
    container = replace(container, engine_health=word)  # type: ignore[arg-type]  # one of the words
    assert is_ready(container, app(), observed, NOW + 9000)[0] is ready
    assert is_sick(container, app(), observed) is sick


@pytest.mark.parametrize("state", ["created", "exited", "paused", "restarting", "dead"])
def test_who_does_not_run_is_neither_ready_nor_well(state: str) -> None:
    container, observed = fresh(app())
    container = replace(container, state=state)  # type: ignore[arg-type]  # one of the states
    assert not is_ready(container, app(), observed, NOW + 9000)[0]
    assert is_sick(container, app(), observed)
