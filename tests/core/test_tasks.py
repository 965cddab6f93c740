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
from reconciler.core.memory import Memory, Retry
from reconciler.core.model import Task
from reconciler.core.observed import Observed
from reconciler.core.simulate import Paper, empty_host, forecast
from reconciler.core.target import DesiredApp, Target
from reconciler.core.wanted import Wanted

LATER = NOW + 10_000


def test_before_deploy_runs_once_and_before_any_replica() -> None:
    migrated = app(before_deploy=Task(("migrate",)))
    end = converged(desired(migrated))
    assert order(end)[:3] == ["LoadSite", "RunTask", "StartReplica"]
    gone = without(end.observed, "shop.1.")
    assert "RunTask" not in kinds(steps(end.wanted, gone, end.memory, LATER))


def test_a_failed_before_deploy_changes_nothing_else() -> None:
    migrated = app(before_deploy=Task(("migrate",)))
    before = converged(desired(migrated))
    new = desired(migrated, image="sha256:2")
    end = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    task = next(c for c in end.observed.engine.containers if c.name.startswith("shop.before."))
    observed = replace(
        before.observed,
        engine=replace(
            before.observed.engine,
            containers=(container(before, "shop.1."), replace(task, exit_code=3)),
        ),
    )
    made = steps(wanted(new), observed, before.memory, LATER + 9)
    assert kinds(made) == ["Quarantine"]
    assert "exit code 3" in made.actions[0].reason


def test_migrations_never_overlap_and_one_that_does_not_end_is_ended() -> None:
    migrated = app(before_deploy=Task(("migrate",), timeout=60))
    before = converged(desired(migrated))
    two = forecast(wanted(desired(migrated, image="sha256:2")), before.observed, before.memory, SUBNET, LATER)
    task = next(c for c in two.observed.engine.containers if c.name.startswith("shop.before."))
    running = replace(task, state="running", started_at=LATER, exit_code=None)
    observed = replace(
        before.observed, engine=replace(before.observed.engine, containers=(container(before, "shop.1."), running))
    )
    third = wanted(desired(migrated, image="sha256:3"))
    waiting = steps(third, observed, before.memory, LATER + 10)
    assert "RunTask" not in kinds(waiting)
    assert waiting.wake_at == LATER + 60
    assert kinds(steps(third, observed, before.memory, LATER + 61)) == ["StopContainer", "RemoveContainer"]


def test_a_task_is_told_from_where_to_where() -> None:
    migrated = app(before_deploy=Task(("migrate",)), environment={"A": "b"})
    one, two = desired(migrated), desired(replace(migrated, image="shop:2"), image="sha256:2", revision="b" * 40)
    first = converged(one)
    told = [e.action.spec.environment for e in first.events if isinstance(e.action, act.RunTask)]
    assert told == [
        {
            "A": "b",
            "RECONCILER_DIRECTION": "forward",
            "RECONCILER_FROM_REVISION": "",
            "RECONCILER_FROM_IMAGE": "",
            "RECONCILER_TO_REVISION": "a" * 40,
            "RECONCILER_TO_IMAGE": "shop:1",
        }
    ]
    second = forecast(wanted(two), first.observed, first.memory, SUBNET, LATER)
    back = replace(one, revision="c" * 40)
    third = forecast(wanted(back), second.observed, second.memory, SUBNET, LATER + 1000)
    ways = [
        [e.action.spec.environment for e in end.events if isinstance(e.action, act.RunTask)] for end in (second, third)
    ]
    assert [way["RECONCILER_DIRECTION"] for (way,) in ways] == ["forward", "back"]
    assert [way["RECONCILER_FROM_IMAGE"] for (way,) in ways] == ["shop:1", "shop:2"]
    assert [way["RECONCILER_FROM_REVISION"] for (way,) in ways] == ["a" * 40, "b" * 40]
    starts = [e.action.desired.spec for e in third.events if isinstance(e.action, act.StartReplica)]
    assert [dict(spec.environment) for spec in starts] == [{"A": "b"}]


# --- one host for all -------------------------------------------------------------------------------------------------

SHARED = app(before_deploy=Task(("migrate",), timeout=60, on="web-1", check=("is-migrated",)))


def on_host(name: str, version: DesiredApp) -> Wanted:
    return replace(wanted(version), host=name)


def test_only_the_named_host_runs_it() -> None:
    here = forecast(on_host("web-1", desired(SHARED)), empty_host(), Memory(), SUBNET, NOW)
    there = forecast(on_host("web-2", desired(SHARED)), empty_host(), Memory(), SUBNET, NOW)
    tasks = [[e.action for e in end.events if isinstance(e.action, act.RunTask)] for end in (here, there)]
    (run,), (check,) = tasks
    assert (run.role, run.spec.command, run.name[:12]) == ("task", ("migrate",), "shop.before.")
    assert (check.role, check.spec.command, check.name[:11]) == ("check", ("is-migrated",), "shop.check.")
    assert check.spec.environment["RECONCILER_TO_IMAGE"] == "shop:1"
    assert here.end.converged
    assert there.end.converged


def asking(**state: Any) -> tuple[Wanted, Observed, Memory]:
    """web-2 runs the old version, and the check of the new one is in this state."""
    before = forecast(on_host("web-2", desired(SHARED)), empty_host(), Memory(), SUBNET, NOW)
    new = on_host("web-2", desired(SHARED, image="sha256:2"))
    host = paper(before.observed, before.memory, new, LATER)
    for action in steps(new, host.observed, host.memory, host.now).actions:
        host.do(action)
    version = new.targets["shop"].desired
    assert version is not None
    return new, changed(host.observed, f"shop.check.{version.fingerprint[:8]}", **state), host.memory


def test_a_check_is_asked_again_every_few_seconds_until_it_ends_well() -> None:
    new, observed, memory = asking(exit_code=1, created_at=LATER, finished_at=LATER + 1)
    made = steps(new, observed, memory, LATER + 2)
    assert (made.actions, made.wake_at) == ((), LATER + 4)
    message = made.statuses["shop"].message
    assert message == "waiting until web-1 has run before_deploy (the last check ended with exit code 1)"
    (again,) = steps(new, observed, memory, LATER + 5).actions
    assert isinstance(again, act.StartContainer)
    assert again.name.startswith("shop.check.")
    new, observed, memory = asking(exit_code=0, created_at=LATER, finished_at=LATER + 1)
    assert kinds(steps(new, observed, memory, LATER + 500)) == ["StartReplica"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"exit_code": 1}, "and the last check ended with exit code 1"),
        ({"state": "running", "exit_code": None}, "and the last check does not end"),
    ],
)
def test_a_host_that_waits_in_vain_gives_up_and_names_the_other(state: dict[str, Any], words: str) -> None:
    new, observed, memory = asking(created_at=LATER, started_at=LATER + 50, **state)
    (given_up,) = steps(new, observed, memory, LATER + 60).actions
    assert isinstance(given_up, act.Quarantine)
    assert given_up.cause == "BeforeDeployTimeout"
    assert given_up.message.startswith(f"web-1 has not run before_deploy within 60 s, {words}")


def test_a_check_that_hangs_is_asked_anew() -> None:
    patient = app(before_deploy=Task(("migrate",), timeout=600, on="web-1", check=("is-migrated",)))
    new = on_host("web-2", desired(patient))
    host = paper(empty_host(), Memory(), new, NOW)
    while not any(".check." in c.name for c in host.observed.engine.containers):
        for action in steps(new, host.observed, host.memory, host.now).actions:
            host.do(action)
    hangs = changed(host.observed, "shop.check.", state="running", exit_code=None, started_at=NOW + 1, created_at=NOW)
    assert steps(new, hangs, host.memory, NOW + 30).wake_at == NOW + 61
    assert kinds(steps(new, hangs, host.memory, NOW + 61)) == ["StopContainer"]


def test_a_check_that_hangs_and_cannot_be_stopped_is_no_busy_loop() -> None:
    new, observed, memory = asking(state="running", exit_code=None, created_at=LATER + 9, started_at=LATER - 60)
    waits = Retry(LATER + 40, 3, "DockerUnavailable", "no answer")
    made = steps(new, observed, replace(memory, retries={act.upkeep_lane("shop"): waits}), LATER + 10)
    assert (made.actions, made.wake_at) == ((), LATER + 40)


def test_a_clock_that_was_put_back_does_not_keep_a_check_from_being_asked() -> None:
    new, observed, memory = asking(exit_code=1, created_at=LATER, finished_at=LATER + 1)
    assert kinds(steps(new, observed, memory, LATER - 3600)) == ["StartContainer"]


def test_a_check_that_could_not_start_is_made_anew_and_one_that_was_not_started_is_started() -> None:
    new, observed, memory = asking(state="created", error="no such file")
    assert kinds(steps(new, observed, memory, LATER + 1)) == ["RemoveContainer"]
    new, observed, memory = asking(state="created")
    assert kinds(steps(new, observed, memory, LATER + 1)) == ["StartContainer"]


# --- a newer commit while one runs ------------------------------------------------------------------------------------

MIGRATED = app(before_deploy=Task(("migrate",), timeout=60))
FIRST = desired(MIGRATED)
SECOND, THIRD = (desired(MIGRATED, image=f"sha256:{n}", revision=f"{n}" * 40) for n in (2, 3))


def migrating(**state: Any) -> Paper:
    """The first version runs, and before_deploy of the second is in this state."""
    before = converged(FIRST)
    host = paper(before.observed, before.memory, toward(SECOND), LATER)
    for action in steps(host.wanted, host.observed, host.memory, host.now).actions:
        host.do(action)
    running = {"state": "running", "exit_code": None, "started_at": LATER, "finished_at": 0.0}
    host.observed = changed(host.observed, f"shop.before.{SECOND.fingerprint[:8]}", **{**running, **state})
    return host


def toward(version: DesiredApp) -> Wanted:
    return wanted(version, shop=Target("shop", version, previous=None if version is FIRST else FIRST))


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_newer_version_lets_a_migration_come_to_its_end(state: str) -> None:
    host = migrating(state=state)
    host.wanted = toward(THIRD)
    made = steps(host.wanted, host.observed, host.memory, LATER + 10)
    assert (made.actions, made.wake_at) == ((), LATER + 60)
    assert made.statuses["shop"].message == "waiting for before_deploy of another version to end"
    host.observed = changed(host.observed, f"shop.before.{SECOND.fingerprint[:8]}", state="exited", exit_code=0)
    made = steps(host.wanted, host.observed, host.memory, LATER + 11)
    assert [a.name[:20] for a in made.actions if isinstance(a, act.RunTask)] == [f"shop.before.{THIRD.fingerprint[:8]}"]


def test_going_back_to_the_version_that_runs_ends_a_migration() -> None:
    host = migrating()
    assert kinds(steps(toward(FIRST), host.observed, host.memory, LATER + 10)) == ["StopContainer", "RemoveContainer"]


@pytest.mark.parametrize("state", ["paused", "removing"])
def test_what_a_hand_does_to_a_migration_is_no_failure_of_it(state: str) -> None:
    host = migrating(state=state)
    made = steps(host.wanted, host.observed, host.memory, LATER + 10)
    assert (made.actions, made.statuses["shop"].reason) == ((), "BeforeDeploy")


# --- a commit that changes nothing but before_deploy ------------------------------------------------------------------


def mended(wanted_before: Wanted, **changes: Any) -> Wanted:
    """The same version, by a commit that mends its before_deploy."""
    version = wanted_before.targets["shop"].desired
    assert version is not None
    task = version.app.before_deploy
    assert task is not None
    better = desired(replace(version.app, before_deploy=replace(task, **changes)), image="sha256:2", revision="e" * 40)
    assert better.fingerprint == version.fingerprint
    return replace(toward(better), host=wanted_before.host)


def test_a_check_that_a_commit_mends_is_made_anew() -> None:
    new, observed, memory = asking(exit_code=1, created_at=LATER, finished_at=LATER + 1)
    better = mended(new, check=("is-really-migrated",))
    made = steps(better, observed, memory, LATER + 2)
    assert kinds(made) == ["RemoveContainer"]
    host = paper(observed, memory, better, LATER + 2)
    host.do(made.actions[0])
    (run,) = steps(better, host.observed, memory, LATER + 2).actions
    assert isinstance(run, act.RunTask)
    assert run.spec.command == ("is-really-migrated",)


def test_a_migration_that_a_commit_mends_is_another_try_once_the_first_has_ended() -> None:
    host = migrating()
    host.wanted = mended(host.wanted, command=("migrate", "--right"))
    assert kinds(steps(host.wanted, host.observed, host.memory, LATER + 10)) == []
    late = steps(host.wanted, host.observed, host.memory, LATER + 61)
    assert kinds(late) == ["StopContainer", "RemoveContainer"]
    name = f"shop.before.{SECOND.fingerprint[:8]}"
    failed = changed(host.observed, name, state="exited", exit_code=3)
    assert kinds(steps(host.wanted, failed, host.memory, LATER + 10)) == ["RemoveContainer"]
    assert kinds(steps(toward(SECOND), failed, host.memory, LATER + 10)) == ["Quarantine"]
    ended = changed(host.observed, name, state="exited", exit_code=0)
    assert kinds(steps(host.wanted, ended, host.memory, LATER + 10)) == ["StartReplica"]
