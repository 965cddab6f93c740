from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import NOW, SUBNET, app, changed, converged, desired, kinds, paper, steps, wanted

from reconciler.core import actions as act
from reconciler.core.memory import Retry
from reconciler.core.model import App, Health, Ingress, PublishedPort, Rollout, Volume
from reconciler.core.observed import NameState, Observed, ProbeResult
from reconciler.core.rollout import Strategy, strategy_of
from reconciler.core.simulate import Forecast, forecast
from reconciler.core.target import Blocked, Target

PROBED = app(health=Health("http", port=80, min_healthy_time=5))


@pytest.mark.parametrize(
    ("manifest", "strategy", "word"),
    [
        (app(), "blue_green", "nothing is shared"),
        (app(replicas=2), "rolling", "several replicas and no ingress"),
        (app(replicas=2, ingress=(Ingress("a.example", "/", 80),)), "blue_green", "nothing is shared"),
        (app(volumes=(Volume("data", "/data"),)), "recreate", "volume"),
        (app(volumes=(Volume("data", "/data", read_only=True),)), "blue_green", "nothing"),
        (app(ports=(PublishedPort(80, 80),)), "recreate", "port"),
        (app(rollout=Rollout("recreate")), "recreate", "asked for"),
    ],
)
def test_the_strategy_follows_from_what_is_shared(manifest: App, strategy: str, word: str) -> None:
    chosen, why = strategy_of(manifest)
    assert chosen == strategy
    assert word in why


# --- rolling ----------------------------------------------------------------------------------------------------------

LATER = NOW + 10_000


@pytest.mark.parametrize(("at_once", "most"), [(1, 4), (2, 5), (9, 6)])
def test_rolling_replaces_so_many_at_a_time_and_never_has_fewer_that_serve(at_once: int, most: int) -> None:
    manifest = app(replicas=3, rollout=Rollout("rolling", max_parallel=at_once))
    before = converged(desired(manifest))
    new = desired(manifest, image="sha256:2")
    host = paper(before.observed, before.memory, wanted(new), LATER)
    there, names = set(), []
    made = steps(host.wanted, host.observed, host.memory, host.now)
    while made.actions or made.wake_at is not None:
        for action in made.actions:
            host.do(action)
            there.add(sum(c.state == "running" for c in host.observed.engine.containers))
            if isinstance(action, act.SetName):
                names.append(len(action.addresses))
        host.now = made.wake_at if not made.actions and made.wake_at else host.now
        made = steps(host.wanted, host.observed, host.memory, host.now)
    assert made.converged
    assert max(there) == most
    assert set(names) == {3}
    assert {c.claim.fingerprint for c in host.observed.engine.containers if c.claim} == {new.fingerprint}


def test_a_rolling_version_that_fails_in_its_second_batch_is_given_up_and_the_old_one_comes_back() -> None:
    manifest = app(replicas=2, health=Health("http", port=80))
    old, new = desired(manifest), desired(manifest, image="sha256:2")
    before = converged(old)
    host = paper(before.observed, before.memory, wanted(new), LATER)
    while sum(c.name.endswith(new.fingerprint[:8]) for c in host.observed.engine.containers) < 2:
        made = steps(host.wanted, host.observed, host.memory, host.now)
        for action in made.actions:
            host.do(action)
        host.now = host.now if made.actions else made.wake_at or host.now
    second = next(c for c in host.observed.engine.containers if c.name.startswith("shop.2.") and c.image == "sha256:2")
    sick = {**host.observed.probes, second.id: ProbeResult(healthy=False, since=host.now, message="GET /: 500")}
    observed = replace(host.observed, probes=sick)
    made = steps(host.wanted, observed, host.memory, second.started_at + manifest.health.deadline + 1)
    assert kinds(made) == ["Quarantine"]
    # What goes on from there is the version before it; whoever is well serves until it is complete again.
    back = wanted(shop=Target("shop", old, Blocked("DeadlineExceeded", "")))
    end = forecast(replace(back, catalog=host.wanted.catalog), observed, host.memory, SUBNET, host.now + 700)
    assert {c.claim.fingerprint for c in end.observed.engine.containers if c.claim} == {old.fingerprint}
    assert all(len(e.action.addresses) == 2 for e in end.events if isinstance(e.action, act.SetName))


# --- replicas that stop being healthy ---------------------------------------------------------------------------------


def ill(end: Forecast, *names: str) -> Observed:
    """These say 500."""
    probes = {
        c.id: ProbeResult(healthy=not c.name.startswith(names), since=NOW + 100, message="GET /: 500")
        for c in end.observed.engine.containers
    }
    return replace(end.observed, probes=probes)


def test_a_replica_that_stops_being_healthy_leaves_the_name_and_is_restarted_once_nobody_asks_it_any_more() -> None:
    end = converged(desired(app(replicas=2, health=Health("http", port=80))))
    observed = ill(end, "shop.1.")
    made = steps(end.wanted, observed, end.memory, LATER)
    assert kinds(made) == ["SetName"]
    host = paper(observed, end.memory, end.wanted, LATER)
    host.do(made.actions[0])
    assert kinds(steps(end.wanted, host.observed, end.memory, LATER + 0.5)) == []
    made = steps(end.wanted, host.observed, end.memory, LATER + 3)
    assert [(type(a).__name__, a.reason) for a in made.actions] == [("RestartContainer", made.statuses["shop"].message)]
    assert "GET /: 500" in made.statuses["shop"].message
    waiting = replace(end.memory, retries={act.retry_lane(made.actions[0]): Retry(LATER + 40, 2, "Unhealthy", "x")})
    made = steps(end.wanted, host.observed, waiting, LATER + 3)
    assert (made.actions, made.wake_at, made.statuses["shop"].health) == ((), LATER + 40, "Degraded")


def test_where_nobody_is_healthy_the_last_ones_stay_in_the_name_and_are_restarted_one_at_a_time() -> None:
    end = converged(desired(app(replicas=2, health=Health("http", port=80))))
    observed = ill(end, "shop.")
    made = steps(end.wanted, observed, end.memory, LATER)
    assert kinds(made) == ["RestartContainer"]
    (first,) = made.actions
    assert isinstance(first, act.RestartContainer)
    again = tuple(replace(c, started_at=LATER) if c.id == first.container else c for c in observed.engine.containers)
    observed = replace(observed, engine=replace(observed.engine, containers=again))
    made = steps(end.wanted, observed, end.memory, LATER + 1)
    assert made.actions == ()
    assert "nobody is, so the last ones stay in the name" in made.statuses["shop"].message
    assert made.wake_at is not None
    made = steps(end.wanted, observed, end.memory, made.wake_at)
    assert [a.container for a in made.actions if isinstance(a, act.RestartContainer)] != [first.container]


def test_an_agent_that_has_just_started_restarts_nobody() -> None:
    end = converged(desired(app(replicas=2, health=Health("http", port=80))))
    assert steps(end.wanted, replace(end.observed, probes={}), end.memory, LATER).actions == ()


# --- found in review: each of these was an outage -------------------------------------------------------------------


def started(observed: Observed, name: str, at: float) -> Observed:
    """One container is that young."""
    there = tuple(replace(c, started_at=at) if c.name.startswith(name) else c for c in observed.engine.containers)
    return replace(observed, engine=replace(observed.engine, containers=there))


def test_a_replica_that_no_restart_helps_keeps_no_other_from_being_restarted() -> None:
    end = converged(desired(app(replicas=2, health=Health("http", port=80))))
    sick = started(ill(end, "shop."), "shop.1.", LATER)
    one = next(c for c in sick.engine.containers if c.name.startswith("shop.1."))
    two = next(c for c in sick.engine.containers if c.name.startswith("shop.2."))
    name = NameState((two.address or "",), NOW, (two.address or "",))
    observed = replace(sick, names=replace(sick.names, names={"shop": name}))
    memory = replace(end.memory, retries={f"restart:shop/{one.name}": Retry(LATER + 300, 9, "Unhealthy", "x")})
    made = steps(end.wanted, observed, memory, LATER + 60)
    assert [a.name for a in made.actions if isinstance(a, act.RestartContainer)] == [two.name]


@pytest.mark.parametrize("strategy", ["rolling", "blue_green"])
def test_a_sick_replica_is_restarted_also_while_another_has_to_go(strategy: Strategy) -> None:
    three = app(replicas=3, health=Health("http", port=80), rollout=Rollout(strategy))
    before = converged(desired(three))
    fewer = wanted(desired(replace(three, replicas=2)))
    observed = ill(before, "shop.2.")
    made = steps(fewer, observed, before.memory, LATER)
    for _ in range(5):
        host = paper(observed, before.memory, fewer, LATER)
        for action in made.actions:
            if isinstance(action, act.SetName):
                assert len(action.addresses) >= 2
                host.do(action)
        observed = replace(host.observed, probes=observed.probes)
        made = steps(fewer, observed, before.memory, LATER + 100)
    assert "RestartContainer" in kinds(made)


def test_a_version_that_falls_over_as_soon_as_it_serves_is_given_up() -> None:
    manifest = app(health=Health("http", port=80), rollout=Rollout("blue_green"))
    old, new = desired(manifest), desired(manifest, image="sha256:2")
    before = converged(old)
    host = paper(
        before.observed, before.memory, replace(wanted(new), targets={"shop": Target("shop", new, previous=old)}), LATER
    )
    while True:
        made = steps(host.wanted, host.observed, host.memory, host.now)
        for action in made.actions:
            host.do(action)
        if any(isinstance(action, act.SetName) for action in made.actions):
            break
        host.now = host.now if made.actions else made.wake_at or host.now
    fresh = next(c for c in host.observed.engine.containers if c.image == "sha256:2")
    sick = {**host.observed.probes, fresh.id: ProbeResult(healthy=False, since=host.now, message="GET /: 500")}
    observed = replace(host.observed, probes=sick)
    made = steps(host.wanted, observed, host.memory, host.now + 1)
    assert made.wake_at is not None
    made = steps(host.wanted, observed, host.memory, fresh.started_at + manifest.health.deadline + 1)
    assert kinds(made) == ["Quarantine"]


def test_old_replicas_that_fall_ill_in_the_middle_leave_the_name_to_the_new_ones() -> None:
    manifest = app(replicas=3, health=Health("http", port=80))
    old, new = desired(manifest), desired(manifest, image="sha256:2")
    before = converged(old)
    asked = replace(wanted(new), targets={"shop": Target("shop", new, previous=old)})
    host = paper(before.observed, before.memory, asked, LATER)
    while not any(
        c.image == "sha256:2" and c.address in host.name("shop").written for c in host.observed.engine.containers
    ):
        made = steps(host.wanted, host.observed, host.memory, host.now)
        for action in made.actions:
            host.do(action)
        host.now = host.now if made.actions else made.wake_at or host.now
    fresh = next(c for c in host.observed.engine.containers if c.image == "sha256:2")
    probes = {
        c.id: ProbeResult(healthy=c.id == fresh.id, since=host.now, message="GET /: 500")
        for c in host.observed.engine.containers
    }
    made = steps(host.wanted, replace(host.observed, probes=probes), host.memory, host.now)
    names = [action.addresses for action in made.actions if isinstance(action, act.SetName)]
    assert names == [(fresh.address,)]


def test_a_port_that_changes_is_not_rolled_because_nginx_knows_one_at_a_time() -> None:
    manifest = app(replicas=2, rollout=Rollout("rolling"), ingress=(Ingress("a.example", "/", 80),))
    old = desired(manifest)
    new = desired(replace(manifest, ingress=(Ingress("a.example", "/", 90),)), image="sha256:2")
    before = converged(old)
    asked = replace(wanted(new), targets={"shop": Target("shop", new, previous=old)})
    assert kinds(steps(asked, before.observed, before.memory, LATER)) == ["StartReplica", "StartReplica"]


def test_a_crash_loop_tells_the_exit_code_which_is_known_only_while_the_replica_does_not_run() -> None:
    manifest = app(health=Health("http", port=80))
    before, new = converged(desired(manifest)), desired(manifest, image="sha256:2")
    host = paper(before.observed, before.memory, wanted(new), LATER)
    name = f"shop.1.{new.fingerprint[:8]}"
    host.do(act.StartReplica("shop", "", new, 1, "10.201.7.7", name))
    observed = replace(host.observed, probes={})
    once_more = changed(observed, name, restarts=3, started_at=LATER)
    assert kinds(steps(wanted(new), once_more, before.memory, LATER)) == []
    ended = changed(observed, name, restarts=3, state="restarting", exit_code=3)
    (given_up,) = steps(wanted(new), ended, before.memory, LATER).actions
    assert given_up.reason == f"{name} ended 3 times before it was healthy, last exit code 3"
