"""A migration that makes the version that runs sick stops the rollout; one that finds it sick does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, SUBNET, app, changed, container, converged, desired, kinds, paper, steps, wanted

from reconciler.core import actions as act
from reconciler.core.guarding import BROKEN, watched
from reconciler.core.model import Health, Rollout, Task, Volume
from reconciler.core.observed import Observed, ProbeResult
from reconciler.core.plan import Plan
from reconciler.core.simulate import Paper, forecast
from reconciler.core.target import Target
from reconciler.core.watch import watch_list

LATER = NOW + 10_000
PROBED = app(health=Health("http", port=80), before_deploy=Task(("migrate",)), rollout=Rollout("blue_green"))


def upgrade(manifest: Any = PROBED) -> Paper:
    old, new = desired(manifest), desired(manifest, image="sha256:2", revision="b" * 40)
    before = converged(old)
    asked = replace(wanted(new, revision="b" * 40), targets={"shop": Target("shop", new, previous=old)})
    return paper(before.observed, before.memory, asked, LATER)


def look(host: Paper) -> Plan:
    return steps(host.wanted, host.observed, host.memory, host.now)


def do(host: Paper, *, until: type[act.Action] | None = None) -> list[act.Action]:
    """Play forward, through the first action of a kind (else to the end)."""
    done: list[act.Action] = []
    while True:
        made = look(host)
        if not made.actions and made.wake_at is None:
            return done
        for action in made.actions:
            host.do(action)
            done.append(action)
            if until is not None and isinstance(action, until):
                return done
        host.now = host.now if made.actions else made.wake_at or host.now


def ill(host: Paper, prefix: str, healthy: bool | None = False) -> None:  # noqa: FBT001, FBT002  (a probe's answer)
    sick = {
        c.id: ProbeResult(healthy, host.now, "GET /: 500")
        for c in host.observed.engine.containers
        if c.name.startswith(prefix)
    }
    host.observed = replace(host.observed, probes={**host.observed.probes, **sick})


def old_name(host: Paper) -> str:
    return next(c.name for c in host.observed.engine.containers if c.image == "sha256:1" and c.claim and c.claim.slot)


def new_fingerprint(host: Paper) -> str:
    version = host.wanted.targets["shop"].desired
    assert version is not None
    return version.fingerprint[:8]


def assert_stopped(host: Paper, words: str) -> None:
    made = look(host)
    assert not {"StartReplica", "Quarantine", "StopContainer"} & set(kinds(made))
    status = made.statuses["shop"]
    assert (status.reason, status.sync) == (BROKEN, "OutOfSync")
    assert status.health != "Progressing"
    assert next(c for c in status.conditions if c.type == "Stalled").status
    for said in (words, old_name(host), "not given up", "reconciler retry shop", "shop:1 of aaaaaaaa still serves"):
        assert said in status.message


def test_a_task_bears_who_was_well_when_it_began() -> None:
    host = upgrade(replace(PROBED, replicas=2))
    ill(host, "shop.2.")
    (run,) = [action for action in do(host, until=act.RunTask) if isinstance(action, act.RunTask)]
    assert run.well == (container(converged(desired(replace(PROBED, replicas=2))), "shop.1.").name,)


def test_nothing_begins_before_it_is_known_who_is_well() -> None:
    host = upgrade()
    ill(host, "shop.", None)
    made = look(host)
    assert (made.actions, made.wake_at) == ((), LATER + 1)
    assert "known how the version that runs is" in made.statuses["shop"].message


def test_a_version_that_was_overtaken_is_not_waited_for() -> None:
    host = upgrade()
    overtaken = desired(replace(PROBED, before_deploy=None), image="sha256:3", revision="c" * 40)
    host.do(act.StartReplica("shop", "", overtaken, 1, "10.201.9.9", "shop.1.overtaken"))
    ill(host, "shop.1.overtaken", None)
    (run,) = [action for action in look(host).actions if isinstance(action, act.RunTask)]
    assert run.well == (old_name(host),)


@pytest.mark.parametrize("moment", ["while it runs", "after it", "with one new replica"])
def test_who_falls_ill_stops_the_rollout_until_it_is_well(moment: str) -> None:
    host = upgrade(replace(PROBED, replicas=2) if moment == "with one new replica" else PROBED)
    do(host, until=act.StartReplica if moment == "with one new replica" else act.RunTask)
    if moment == "while it runs":
        host.observed = changed(host.observed, f"shop.before.{new_fingerprint(host)}", state="running", exit_code=None)
    ill(host, old_name(host))
    assert_stopped(host, "GET /: 500")
    host.now += 200  # no deadline runs out for the version that cannot help it
    assert_stopped(host, "GET /: 500")
    if moment == "while it runs":
        host.observed = changed(host.observed, f"shop.before.{new_fingerprint(host)}", state="exited", exit_code=0)
        assert_stopped(host, "GET /: 500")
    ill(host, old_name(host), True)
    do(host)
    assert look(host).converged
    assert {c.image for c in host.observed.engine.containers} == {"sha256:2"}


def test_a_person_may_say_to_go_on_all_the_same() -> None:
    host = upgrade()
    do(host, until=act.RunTask)
    ill(host, old_name(host))
    host.memory = replace(host.memory, urged={"shop": LATER - 5})
    assert_stopped(host, "GET /: 500")  # that was said of an earlier one
    host.memory = replace(host.memory, urged={"shop": host.now + 1})
    assert "StartReplica" in kinds(look(host))


def test_a_hotfix_for_what_was_sick_before_gets_through() -> None:
    host = upgrade()
    ill(host, "shop.1.")
    assert "StartReplica" in [type(action).__name__ for action in do(host)]


def test_an_agent_that_has_just_started_waits_for_what_its_probes_say() -> None:
    host = upgrade()
    do(host, until=act.RunTask)
    host.now += 100
    ill(host, old_name(host), None)
    assert look(host).actions == ()
    ill(host, old_name(host))
    assert_stopped(host, "GET /: 500")


def test_old_is_watched_for_a_moment_before_anything_new_starts() -> None:
    host = upgrade()
    do(host, until=act.RunTask)
    made = look(host)
    assert made.actions == ()
    assert made.wake_at == host.now + 4 * 0.5
    assert "watching how the version that runs takes it" in made.statuses["shop"].message
    host.now = made.wake_at
    assert kinds(look(host)) == ["StartReplica"]


def test_when_all_new_replicas_are_ready_the_switch_is_made() -> None:
    host = upgrade()
    do(host, until=act.StartReplica)
    host.now += 5
    ill(host, old_name(host))
    assert "SetName" in kinds(look(host))
    do(host)
    assert look(host).converged


def test_new_replicas_that_serve_already_go_on_serving() -> None:
    host = upgrade(replace(PROBED, replicas=2, rollout=Rollout("rolling")))
    done = do(host, until=act.SetName)
    named = done[-1]
    assert isinstance(named, act.SetName)
    ill(host, next(c.name for c in host.observed.engine.containers if c.name.startswith("shop.2.")))
    made = look(host)
    (name,) = [action for action in made.actions if isinstance(action, act.SetName)]
    new = next(c for c in host.observed.engine.containers if c.image == "sha256:2" and c.address in named.addresses)
    assert new.address in name.addresses
    assert made.statuses["shop"].reason == BROKEN
    host.do(name)
    assert look(host).actions == ()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": "restarting", "exit_code": 1}, "ended with exit code 1 and is being restarted"),
        ({"restarts": 2, "started_at": LATER + 1}, "it ended and was restarted"),
        ({"engine_health": "unhealthy"}, "HEALTHCHECK says unhealthy"),
    ],
)
def test_without_probes_the_engine_tells(state: dict[str, Any], words: str) -> None:
    host = upgrade(replace(PROBED, health=Health("engine")))
    do(host, until=act.RunTask)
    host.now = LATER + 1.5
    host.observed = changed(host.observed, "shop.1.", **state)
    assert_stopped(host, words)
    host.now += 60  # one that runs again has recovered
    host.observed = changed(host.observed, "shop.1.", state="running", engine_health="healthy")
    assert "StartReplica" in kinds(look(host))


def test_who_was_stopped_to_make_room_is_not_sick() -> None:
    host = upgrade(replace(PROBED, volumes=(Volume("data", "/data"),), rollout=Rollout()))
    do(host, until=act.StopContainer)
    ill(host, "shop.1.")
    host.now += 100
    assert kinds(look(host)) == ["StartReplica"]


def test_one_whose_restart_was_cut_short_is_brought_back_first() -> None:
    host = upgrade()
    do(host, until=act.RunTask)
    host.now += 100
    host.observed = changed(host.observed, old_name(host), state="exited", exit_code=0)
    made = look(host)
    assert (kinds(made), made.statuses["shop"].reason) == (["SetName", "StartContainer"], BROKEN)
    do(host)
    assert look(host).converged


def test_a_migration_that_fails_is_given_up_as_ever() -> None:
    host = upgrade()
    do(host, until=act.RunTask)
    host.observed = changed(host.observed, f"shop.before.{new_fingerprint(host)}", exit_code=4)
    ill(host, old_name(host))
    assert kinds(look(host)) == ["Quarantine"]


def test_old_is_probed_quickly_and_only_where_a_migration_may_break_it() -> None:
    host = upgrade()
    seen: Observed = host.observed
    (health,) = [how for _, how in watch_list(host.wanted.targets, seen.engine.containers).values()]
    assert health == watched(PROBED.health)
    assert (health.interval, health.start_period) == (0.5, 0.0)
    calm = upgrade(replace(PROBED, before_deploy=None))
    (health,) = [how for _, how in watch_list(calm.wanted.targets, calm.observed.engine.containers).values()]
    assert health == PROBED.health
    assert watched(Health("http", interval=0.2)).interval == 0.2


def test_a_forecast_takes_it_to_go_well() -> None:
    host = upgrade()
    end = forecast(host.wanted, host.observed, host.memory, SUBNET, LATER)
    assert end.end.converged
    assert end.down == {}
