from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import NOW, SUBNET, app, converged, desired, wanted

from reconciler.core.memory import Applied, Memory
from reconciler.core.model import CanaryStep, Ingress, Rollout
from reconciler.core.observed import Observed, SiteState
from reconciler.core.routing import Routing, route
from reconciler.core.simulate import empty_host, forecast
from reconciler.core.target import Blocked, DesiredApp, Target

LATER = NOW + 10_000
HELD = Blocked("InvalidManifest", "apps/shop/app.yaml:1:1")


def routed(name: str, path: str = "/", host: str = "a.example", image: str = "sha256:1") -> DesiredApp:
    return desired(app(name, ingress=(Ingress(host, path, 80),)), image=image)


def names(targets: dict[str, Target], observed: Observed, memory: Memory) -> list[str]:
    return [each.name for each in route(targets, observed, memory).apps]


def test_routes_belong_to_the_version_that_the_name_answers() -> None:
    old = desired(app(ingress=(Ingress("a.example", "/", 80),)))
    new = desired(app(ingress=(Ingress("a.example", "/", 9090),)), image="sha256:2")
    before = converged(old)
    targets = {"shop": Target("shop", new, previous=old)}
    assert [each.ingress[0].port for each in route(targets, before.observed, before.memory).apps] == [80]
    after = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    assert [each.ingress[0].port for each in route(targets, after.observed, after.memory).apps] == [9090]


def test_a_path_moves_when_the_one_that_had_it_has_moved_on() -> None:
    old, taker = routed("shop"), routed("api")
    moved = desired(app(), image="sha256:2")
    before = converged(old, desired(app("api")))
    targets = {"api": Target("api", taker), "shop": Target("shop", moved, previous=old)}
    assert names(targets, before.observed, before.memory) == ["shop", "api"]
    settled = forecast(wanted(moved, taker), before.observed, before.memory, SUBNET, LATER)
    assert names(targets, settled.observed, settled.memory) == ["api"]


def test_nobody_takes_a_path_from_an_app_that_is_held_up_not_even_in_a_rollout_of_its_own() -> None:
    shop, api = routed("shop"), routed("api")
    both = converged(shop, api)
    fresh = {**both.memory.applied, "api": replace(both.memory.applied["api"], at=LATER)}
    memory = replace(both.memory, applied=fresh)
    new = routed("api", image="sha256:2")
    for target in (Target("api", api), Target("api", new, previous=api), Target("api", api, Blocked("Pulling", ""))):
        targets = {"api": target, "shop": Target("shop", shop, HELD)}
        assert names(targets, both.observed, memory) == ["shop", "api"]


def test_an_app_that_has_never_served_takes_no_visitors_from_one_that_does() -> None:
    mono = routed("mono")
    before = converged(mono)
    new = routed("new", "/api")
    targets = {"mono": Target("mono", mono), "new": Target("new", new)}
    assert names(targets, before.observed, before.memory) == ["mono"]
    after = forecast(wanted(mono, new), before.observed, before.memory, SUBNET, LATER)
    assert names(targets, after.observed, after.memory) == ["mono", "new"]
    # Where nobody answers so far, the route may be there first: 503 says more than 404.
    beside = {"mono": Target("mono", mono), "new": Target("new", routed("new", host="b.example"))}
    assert names(beside, before.observed, before.memory) == ["mono", "new"]
    assert names({"new": Target("new", new)}, empty_host(), Memory()) == ["new"]
    # Paths are cut at slashes.
    other = routed("mono", "/ap")
    assert names({**targets, "mono": Target("mono", other)}, before.observed, before.memory) == ["mono", "new"]


def test_routes_are_unknown_where_replicas_run_and_no_manifest_can_be_read() -> None:
    before = converged(routed("shop"))
    lost = {"shop": Target("shop", None, HELD)}
    assert route(lost, before.observed, before.memory).unknown == ("shop",)
    tasks = tuple(replace(c, claim=replace(c.claim, role="task")) for c in before.observed.engine.containers if c.claim)
    only = replace(before.observed, engine=replace(before.observed.engine, containers=tasks))
    assert route(lost, only, before.memory).unknown == ()
    assert route(lost, empty_host(), Memory(applied={"shop": Applied("a" * 40, "f", NOW)})).unknown == ()


@pytest.mark.parametrize(("loaded", "written", "lost"), [("1", "1", True), (None, "1", True), (None, None, False)])
def test_routes_that_nobody_knows_are_not_lost_while_nginx_is_down(
    loaded: str | None, written: str | None, *, lost: bool
) -> None:
    routing = Routing((), ("shop",))
    assert bool(routing.lost_on(SiteState(loaded, written, resolve=True))) is lost
    assert Routing((), ()).lost_on(SiteState(loaded, written, resolve=True)) == ()


def test_requests_are_dealt_out_where_a_manifest_asks_for_it_and_all_slots_are_there() -> None:
    asked = replace(routed("shop").app, rollout=Rollout("canary", steps=(CanaryStep(10, 5.0),)))
    canary, plain = desired(asked), routed("shop")
    there, bare = converged(canary), converged(plain)
    target = {"shop": Target("shop", canary)}
    assert route(target, there.observed, there.memory).split == {"shop"}
    assert route(target, bare.observed, bare.memory).split == frozenset()
    assert route({"shop": Target("shop", plain)}, there.observed, there.memory).split == frozenset()
    # A name that was empty is answered again, and a slot is not yet: nginx must not be told to forget them for that.
    own = there.observed.names
    late = replace(own, names={**own.names, "shop_3": replace(own.names["shop_3"], answered=())})
    now = route(target, replace(there.observed, names=late), there.memory)
    assert now.split == {"shop"}
    assert now.is_early
    assert not route(target, there.observed, there.memory).is_early
    unreadable = {"shop": Target("shop", None, HELD, app=asked)}
    assert route(unreadable, there.observed, there.memory).split == {"shop"}
