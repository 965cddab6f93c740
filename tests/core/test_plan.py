from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness.builders import (
    NOW,
    SUBNET,
    app,
    changed,
    container,
    converged,
    desired,
    kinds,
    order,
    paper,
    steps,
    wanted,
    without,
)

from reconciler.core import actions as act
from reconciler.core.memory import Memory, Quarantined, Retry, Suspended
from reconciler.core.model import Health, Task, Volume
from reconciler.core.observed import NamesState, ProbeResult
from reconciler.core.routes import Clash
from reconciler.core.simulate import empty_host, forecast
from reconciler.core.target import Blocked, Pull, Target

LATER = NOW + 10_000


def test_first_deployment_starts_waits_names_and_records() -> None:
    end = converged(desired(app(replicas=2)))
    assert order(end) == ["LoadSite", "StartReplica", "StartReplica", "SetName", "SetName", "RecordApplied"]
    assert end.end.converged
    assert len(end.observed.names.names["shop"].written) == 2


def test_nothing_happens_when_nothing_changed() -> None:
    end = converged(desired(app()))
    again = steps(end.wanted, end.observed, end.memory, LATER)
    assert again.actions == ()
    assert again.wake_at is None
    assert again.statuses["shop"].sync == "Synced"
    assert again.statuses["shop"].health == "Healthy"


def test_upgrade_keeps_old_until_new_has_taken_over() -> None:
    before = converged(desired(app()))
    end = forecast(wanted(desired(app(), image="sha256:2")), before.observed, before.memory, SUBNET, LATER)
    assert order(end) == ["StartReplica", "SetName", "StopContainer", "RemoveContainer", "RecordApplied"]
    assert end.down == {}
    switch = next(event for event in end.events if isinstance(event.action, act.SetName))
    stop = next(event for event in end.events if isinstance(event.action, act.StopContainer))
    assert stop.at - switch.at >= 2.19  # nginx keeps what it resolved for almost two seconds


def test_recreate_stops_first_and_removes_only_when_new_is_healthy() -> None:
    with_volume = app(volumes=(Volume("data", "/data"),))
    before = converged(desired(with_volume))
    end = forecast(wanted(desired(with_volume, image="sha256:2")), before.observed, before.memory, SUBNET, LATER)
    assert order(end) == ["SetName", "StopContainer", "StartReplica", "SetName", "RemoveContainer", "RecordApplied"]
    assert 0 < end.down["shop"] < 5


def test_a_failed_recreate_puts_the_old_containers_back() -> None:
    with_volume = app(volumes=(Volume("data", "/data"),))
    old, new = desired(with_volume), desired(with_volume, image="sha256:2")
    before = converged(old)
    start = act.StartReplica("shop", "", new, 1, "10.201.7.7", f"shop.1.{new.fingerprint[:8]}")
    host = paper(before.observed, before.memory, wanted(new), LATER)
    host.do(act.SetName("shop", "", ()))
    host.do(act.StopContainer("shop", "", container(before, "shop.1.").id, "", 1))
    host.do(start)
    crashing = changed(host.observed, f"shop.1.{new.fingerprint[:8]}", state="restarting", restarts=3, exit_code=1)
    failed = steps(wanted(new), crashing, before.memory, LATER + 3)
    assert kinds(failed) == ["Quarantine"]
    assert failed.actions[0].reason.startswith("shop.1.")
    fallen = wanted(shop=Target("shop", old, Blocked("CrashLoop", "it crashed")))
    given_up = {"shop": Quarantined("f", "CrashLoop", "it crashed", "b" * 40, LATER, "one\n" * 60 + "the last\n")}
    told = steps(fallen, crashing, replace(before.memory, quarantined=given_up), LATER + 4).statuses["shop"].last_words
    assert told.splitlines()[-2:] == ["one", "the last"]
    assert len(told.splitlines()) == 50
    end = forecast(fallen, crashing, before.memory, SUBNET, LATER + 4)
    assert order(end)[:2] == ["StopContainer", "StartContainer"]
    assert [c.name for c in end.observed.engine.containers] == [container(before, "shop.1.").name]
    assert end.observed.names.names["shop"].written
    assert end.end.statuses["shop"].sync == "OutOfSync"


def test_drift_is_repaired_and_named() -> None:
    end = converged(desired(app(replicas=2)))
    made = steps(end.wanted, without(end.observed, "shop.2."), end.memory, LATER)
    assert kinds(made) == ["SetName", "StartReplica"]  # whoever is gone is not asked while its successor starts
    assert made.actions[1].drift
    assert "shop.2." in made.actions[1].reason
    assert made.actions[0] == act.SetName(
        "shop", "healthy replicas changed", (container(end, "shop.1.").address or "",)
    )


def test_scaling_keeps_the_others() -> None:
    three = converged(desired(app(replicas=3)))
    end = forecast(wanted(desired(app(replicas=1))), three.observed, three.memory, SUBNET, LATER)
    assert order(end).count("RemoveContainer") == 2
    assert "StartReplica" not in order(end)
    assert [c.name[:6] for c in end.observed.engine.containers] == ["shop.1"]


def test_a_sick_replica_leaves_the_name_but_the_last_one_stays() -> None:
    probed = app(replicas=2, health=Health("http", port=80))
    end = converged(desired(probed))
    one, two = container(end, "shop.1."), container(end, "shop.2.")
    sick = replace(end.observed, probes={**end.observed.probes, two.id: ProbeResult(healthy=False, since=LATER)})
    made = steps(end.wanted, sick, end.memory, LATER + 1)
    assert made.actions == (act.SetName("shop", "healthy replicas changed", (one.address or "",)),)
    assert made.statuses["shop"].replicas_healthy == 1
    both = replace(sick, probes={c.id: ProbeResult(healthy=False, since=LATER) for c in (one, two)})
    assert kinds(steps(end.wanted, both, end.memory, LATER + 1)) == ["RestartContainer"]


def test_an_agent_that_has_just_started_takes_nobody_out_of_the_name() -> None:
    end = converged(desired(app(replicas=2, health=Health("http", port=80))))
    assert steps(end.wanted, replace(end.observed, probes={}), end.memory, LATER).actions == ()


def test_a_version_that_never_becomes_healthy_takes_no_traffic_and_is_quarantined() -> None:
    probed = app(health=Health("http", port=80, deadline=30))
    before = converged(desired(probed))
    new = desired(probed, image="sha256:2")
    end = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    fresh = container(end, "shop.1.")
    observed = replace(
        before.observed,
        engine=replace(before.observed.engine, containers=(container(before, "shop.1."), fresh)),
        probes={
            **before.observed.probes,
            fresh.id: ProbeResult(healthy=False, since=fresh.created_at, message="GET /: 500"),
        },
    )
    waiting = steps(wanted(new), observed, before.memory, fresh.created_at + 29)
    assert waiting.actions == ()
    assert waiting.wake_at == fresh.created_at + 30
    assert "old version goes on serving" in waiting.statuses["shop"].message
    failed = steps(wanted(new), observed, before.memory, fresh.created_at + 30)
    assert kinds(failed) == ["Quarantine"]
    quarantine = failed.actions[0]
    assert isinstance(quarantine, act.Quarantine)
    assert (quarantine.cause, quarantine.container) == ("DeadlineExceeded", fresh.id)
    assert "GET /: 500" in quarantine.message


def test_dependencies_come_first_and_name_themselves() -> None:
    db, shop = desired(app("db")), desired(app(depends_on=("db",)))
    end = converged(shop, db)
    started = [event.action.app for event in end.events if isinstance(event.action, act.StartReplica)]
    assert started == ["db", "shop"]
    first = steps(wanted(shop, db), empty_host(), Memory(), NOW)
    assert first.statuses["shop"].reason == "WaitingForDependency"
    assert "db" in first.statuses["shop"].message


def test_containers_signed_by_another_key_bar_their_app_and_are_not_touched() -> None:
    end = converged(desired(app()), desired(app("other")))
    lost = changed(end.observed, "shop.1.", owned=False)
    made = steps(end.wanted, lost, end.memory, LATER)
    assert made.actions == ()
    assert made.statuses["shop"].reason == "ForeignContainer"
    assert "docker rm -f shop.1." in made.statuses["shop"].message
    assert made.statuses["other"].sync == "Synced"


def test_suspended_apps_are_left_alone() -> None:
    end = converged(desired(app()))
    memory = replace(end.memory, suspended={"shop": Suspended(NOW, "holiday")})
    made = steps(end.wanted, without(end.observed, "shop"), memory, LATER)
    assert made.actions == ()
    assert made.statuses["shop"].health == "Suspended"


def test_a_pull_does_not_keep_the_old_version_from_being_repaired() -> None:
    old, new = desired(app()), desired(app(image="shop:2"), image="provisional:shop:2")
    before = converged(old)
    pull = Pull("shop:2", "b" * 40, None, forbidden=False, desired=new)
    asked = wanted(shop=Target("shop", old, Blocked("Pulling", "pulling"), pull))
    made = steps(asked, without(before.observed, "shop"), before.memory, LATER)
    assert set(kinds(made)) == {"StartReplica", "PullImage", "SetName"}
    busy = replace(before.memory, busy={"pull:shop": "pulling"})
    assert "PullImage" not in kinds(steps(asked, before.observed, busy, LATER))
    failed = replace(before.memory, retries={"pull:shop": Retry(LATER + 60, 3, "RegistryUnavailable", "no answer")})
    waiting = steps(asked, before.observed, failed, LATER)
    assert waiting.actions == ()
    assert waiting.wake_at == LATER + 60
    status = waiting.statuses["shop"]
    assert (status.next_retry, status.reason, status.message) == (LATER + 60, "RegistryUnavailable", "no answer")
    assert (status.sync, status.health) == ("OutOfSync", "Healthy")
    again = steps(asked, before.observed, failed, LATER + 61)
    assert kinds(again) == ["PullImage"]
    assert again.statuses["shop"].reason == "RegistryUnavailable"


def test_a_busy_or_failing_app_never_holds_up_another() -> None:
    apps = (desired(app()), desired(app("other")))
    memory = Memory(busy={"shop": "stopping"}, retries={"third": Retry(NOW + 9, 1, "X", "y")})
    made = steps(wanted(*apps), empty_host(), memory, NOW)
    assert [action.app for action in made.actions if action.app] == ["other"]
    assert made.statuses["shop"].message == "stopping"


def test_an_app_of_which_no_version_is_known_is_left_exactly_as_it_is() -> None:
    before = converged(desired(app()))
    asked = wanted(shop=Target("shop", None, Blocked("InvalidManifest", "apps/shop/app.yaml:1:1: broken")))
    made = steps(asked, before.observed, before.memory, LATER)
    assert made.actions == ()
    assert (made.statuses["shop"].sync, made.statuses["shop"].health) == ("Unknown", "Healthy")
    assert "apps/shop/app.yaml:1:1" in made.statuses["shop"].message


def test_the_names_service_is_started_when_down_and_when_blind() -> None:
    end = converged(desired(app()))
    down = replace(end.observed, names=replace(end.observed.names, up_since=None))
    assert kinds(steps(end.wanted, down, end.memory, LATER)) == ["StartNames"]
    name = replace(end.observed.names.names["shop"], answered=())
    blind = replace(end.observed, names=replace(end.observed.names, names={"shop": name}))
    assert "StartNames" in kinds(steps(end.wanted, blind, end.memory, LATER))


def test_nothing_of_an_app_happens_before_the_network_exists() -> None:
    host = empty_host()
    made = steps(wanted(desired(app())), replace(host, engine=replace(host.engine, network=False)), Memory(), NOW)
    assert kinds(made) == ["EnsureNetwork"]


def test_leftover_files_go_when_nobody_is_at_work() -> None:
    end = converged(desired(app()))
    observed = replace(end.observed, present=frozenset({"/state/files/old/1"}))
    made = steps(end.wanted, observed, end.memory, LATER)
    assert kinds(made) == ["RemoveLeftovers"]
    waiting = replace(end.memory, retries={act.FILES: Retry(LATER + 8, 4, "DiskError", "no")})
    made = steps(end.wanted, observed, waiting, LATER)
    assert (made.actions, made.wake_at, made.faults) == ((), LATER + 8, (("DiskError", "no"),))
    assert kinds(steps(end.wanted, observed, waiting, LATER + 8)) == ["RemoveLeftovers"]
    assert steps(end.wanted, observed, replace(end.memory, busy={"x": "y"}), LATER).actions == ()


def test_quarantine_of_another_fingerprint_means_nothing() -> None:
    end = converged(desired(app()))
    memory = replace(end.memory, quarantined={"shop": Quarantined("0" * 16, "CrashLoop", "x", "b" * 40, NOW)})
    assert steps(end.wanted, end.observed, memory, LATER).converged


# --- found in review: each of these was an outage -------------------------------------------------------------------


def test_a_retry_keeps_nobody_from_looking_after_the_name() -> None:
    end = converged(desired(app(replicas=2)))
    one = container(end, "shop.1.")
    memory = replace(
        end.memory, retries={"shop": Retry(LATER + 200, 8, "X", "y", end.memory.applied["shop"].fingerprint)}
    )
    made = steps(end.wanted, without(end.observed, "shop.2."), memory, LATER)
    assert made.actions == (act.SetName("shop", "healthy replicas changed", (one.address or "",)),)
    assert made.wake_at == LATER + 200


def test_a_newer_commit_need_not_wait_for_the_retry_of_an_older_one() -> None:
    end = converged(desired(app()))
    memory = replace(end.memory, retries={"shop": Retry(LATER + 200, 8, "X", "y", "f" * 16)})
    made = steps(wanted(desired(app(), image="sha256:2")), end.observed, memory, LATER)
    assert kinds(made) == ["StartReplica"]


@pytest.mark.parametrize("waiting", ["dependency", "before_deploy"])
def test_the_running_version_is_looked_after_while_the_next_one_may_not_start(waiting: str) -> None:
    old = desired(app(replicas=2))
    end = converged(old, desired(app("db")))
    if waiting == "dependency":
        new = desired(app(replicas=2, depends_on=("absent",)), image="sha256:2")
        asked = wanted(new, desired(app("db")), absent=Target("absent", None, Blocked("InvalidManifest", "x")))
    else:
        new = desired(app(replicas=2, before_deploy=Task(("migrate",))), image="sha256:2")
        asked = wanted(new, desired(app("db")))
    asked = replace(asked, targets={**asked.targets, "shop": Target("shop", new, previous=old)})
    made = steps(asked, without(end.observed, "shop.1."), end.memory, LATER)
    starts = [action for action in made.actions if isinstance(action, act.StartReplica)]
    assert [action.desired.fingerprint for action in starts] == [old.fingerprint]
    names = [action for action in made.actions if isinstance(action, act.SetName)]
    assert [action.addresses for action in names] == [(container(end, "shop.2.").address,)]


def test_scaling_down_to_a_slot_that_is_down_keeps_those_that_serve() -> None:
    three = converged(desired(app(replicas=3)))
    asked = wanted(desired(app(replicas=1)))
    made = steps(asked, without(three.observed, "shop.1."), three.memory, LATER)
    names = [action.addresses for action in made.actions if isinstance(action, act.SetName)]
    assert all(names)
    end = forecast(asked, without(three.observed, "shop.1."), three.memory, SUBNET, LATER)
    assert [c.name[:6] for c in end.observed.engine.containers] == ["shop.1"]


def test_addresses_in_the_making_are_not_given_twice() -> None:
    first = steps(wanted(desired(app(replicas=9))), empty_host(), Memory(), NOW)
    given = frozenset(a.address for a in first.actions if isinstance(a, act.StartReplica))
    memory = Memory(busy={"shop": "starting"}, reserved=given)
    second = steps(wanted(desired(app(replicas=9)), desired(app("other", replicas=9))), empty_host(), memory, NOW)
    assert given.isdisjoint(a.address for a in second.actions if isinstance(a, act.StartReplica))


@pytest.mark.parametrize("state", ["created", "exited", "running"])
def test_a_power_cut_in_the_middle_of_a_rollout_fails_no_version(state: Any) -> None:
    probed = app(health=Health("http", port=80, deadline=30))
    before = converged(desired(probed))
    new = desired(probed, image="sha256:2")
    end = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    back = LATER + 5_000
    halfway = changed(end.observed, "shop.", state=state, created_at=LATER, started_at=back - 3)
    halfway = replace(halfway, probes={}, names=before.observed.names)
    assert "Quarantine" not in kinds(steps(wanted(new), halfway, before.memory, back))


def test_a_renamed_app_waits_until_the_old_one_lets_go_of_its_volume() -> None:
    volume = (Volume("data", "/data"),)
    before = converged(desired(app("db", volumes=volume)), desired(app("other")))
    asked = wanted(desired(app("pg", volumes=volume)), desired(app("other")))
    made = steps(asked, before.observed, before.memory, LATER)
    assert "StartReplica" not in kinds(made)
    assert "lets go of data" in made.statuses["pg"].message
    end = forecast(asked, before.observed, before.memory, SUBNET, LATER)
    assert end.end.statuses["pg"].sync == "Synced"


def test_a_version_given_up_with_nothing_to_go_back_to_is_cleared_away_unless_it_serves() -> None:
    end = converged(desired(app()))
    one = container(end, "shop.1.")
    given_up = Target("shop", None, Blocked("CrashLoop", "x"), failed=desired(app()).fingerprint)
    asked = wanted(shop=given_up)
    nameless = replace(end.observed, names=replace(end.observed.names, names={}))
    assert kinds(steps(asked, nameless, end.memory, LATER)) == ["StopContainer", "RemoveContainer"]
    assert one.address in end.observed.names.names["shop"].written
    assert steps(asked, end.observed, end.memory, LATER).actions == ()


def test_what_is_wrong_with_one_part_of_the_host_bars_no_other_and_passes_when_it_is_right() -> None:
    end = converged(desired(app()))
    memory = replace(end.memory, retries={act.NGINX: Retry(LATER + 200, 3, "NginxDown", "nginx does not run")})
    assert steps(end.wanted, end.observed, memory, LATER).converged
    assert end.observed.site is not None
    down = replace(
        end.observed,
        site=replace(end.observed.site, loaded=None),
        names=replace(end.observed.names, up_since=None),
    )
    made = steps(end.wanted, down, memory, LATER)
    assert kinds(made) == ["StartNames"]
    assert made.faults == (("NginxDown", "nginx does not run"),)


@pytest.mark.parametrize(
    ("lane", "left"),
    [
        ("name:shop", ["StartReplica"]),
        ("shop", ["SetName"]),
        ("drift:shop", ["SetName"]),
        ("upkeep:shop", ["SetName", "StartReplica"]),
    ],
)
def test_what_has_failed_waits_and_holds_up_its_like_only(lane: str, left: list[str]) -> None:
    end = converged(desired(app(replicas=2)))
    memory = replace(end.memory, retries={lane: Retry(LATER + 200, 8, "DiskFull", "no space")})
    made = steps(end.wanted, without(end.observed, "shop.1."), memory, LATER)
    assert kinds(made) == left
    assert (made.wake_at == LATER + 200) is (len(left) < 2)


def test_what_cannot_be_written_down_is_tried_again_later_and_not_at_once() -> None:
    end = converged(desired(app()))
    retry = Retry(LATER + 8, 4, "DiskFull", "no space")
    memory = replace(end.memory, applied={}, retries={"upkeep:shop": retry})
    made = steps(end.wanted, end.observed, memory, LATER)
    assert (made.actions, made.wake_at) == ((), LATER + 8)
    assert (made.statuses["shop"].reason, made.statuses["shop"].next_retry) == ("DiskFull", LATER + 8)
    assert kinds(steps(end.wanted, end.observed, memory, LATER + 8)) == ["RecordApplied"]


def test_a_names_service_that_has_just_started_is_asked_again_soon() -> None:
    end = converged(desired(app()))
    blind = {"shop": replace(end.observed.names.names["shop"], answered=())}
    observed = replace(end.observed, names=NamesState(LATER - 0.3, blind))
    made = steps(end.wanted, observed, end.memory, LATER)
    assert made.wake_at == pytest.approx(LATER + 0.8)
    assert kinds(steps(end.wanted, observed, end.memory, LATER + 0.8)) == ["StartNames"]


def test_a_path_that_two_apps_want_is_told_unless_the_one_that_has_it_moves_on() -> None:
    end = converged(desired(app()), desired(app("api")))
    clashes = (Clash("a.example", "/", "shop", "api"),)
    asked = replace(end.wanted, clashes=clashes)
    held = replace(asked.targets["shop"], blocked=Blocked("InvalidManifest", "app.yaml:1:1"))
    told = (("RouteClaimedTwice", "a.example/ still leads to shop, which is held up; api wants it"),)
    made = steps(replace(asked, targets={**asked.targets, "shop": held}), end.observed, end.memory, LATER)
    assert made.faults == told
    moving = Target("shop", desired(app(), image="sha256:2"), previous=desired(app()))
    made = steps(replace(asked, targets={**asked.targets, "shop": moving}), end.observed, end.memory, LATER)
    assert made.faults == ()


def test_routes_that_nobody_knows_are_told() -> None:
    end = converged(desired(app()))
    asked = replace(end.wanted, generation="", routes_unknown=("shop",))
    made = steps(asked, end.observed, end.memory, LATER)
    assert made.faults[0][0] == "RoutesUnknown"
    assert "shop" in made.faults[0][1]


def test_where_nothing_is_left_to_do_time_alone_changes_nothing() -> None:
    """The agent relies on it: a quiet walk takes the plan of the last one."""
    api, shop = app("api", replicas=2), app(depends_on=("api",), volumes=(Volume("data", "/data"),))
    end = converged(desired(api), desired(shop))
    asked = wanted(desired(api), desired(shop))
    quiet = steps(asked, end.observed, end.memory, LATER)
    assert quiet.converged
    assert quiet.wake_at is None
    for later in (0.01, 60.0, 86_400.0 * 365):
        assert steps(asked, end.observed, end.memory, LATER + later) == quiet
