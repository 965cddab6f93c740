"""Every state in which a crash can leave after_deploy leads on: it is not skipped, and what ended well not repeated."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, SUBNET, app, changed, converged, desired, kinds, order, paper, steps, wanted
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import actions as act
from reconciler.core.memory import Due, Memory, Way
from reconciler.core.model import Task
from reconciler.core.observed import Container, Observed
from reconciler.core.plan import Plan
from reconciler.core.simulate import Forecast, Paper, empty_host, forecast
from reconciler.core.target import Blocked, DesiredApp, Target
from reconciler.core.wanted import Wanted

LATER = NOW + 10_000
SHOP = app(after_deploy=Task(("warm",), timeout=60))
OLD, NEW = desired(SHOP), desired(SHOP, image="sha256:2", revision="b" * 40)


def upgrade(to: DesiredApp = NEW, before: Forecast | None = None, at: float = LATER) -> tuple[Wanted, Paper]:
    """On the way to a version, from one that runs and has nothing left to do."""
    before = before or converged(OLD)
    asked = wanted(to, revision=to.revision)
    return asked, paper(before.observed, before.memory, asked, at)


def go_on(host: Paper, *, until: type[act.Action] | None = None) -> list[act.Action]:
    """Play forward; ``until``: up to and without the first such action."""
    done: list[act.Action] = []
    while True:
        made = steps(host.wanted, host.observed, host.memory, host.now)
        if not made.actions and made.wake_at is None:
            return done
        for action in made.actions:
            if until is not None and isinstance(action, until):
                return done
            host.do(action)
            done.append(action)
        host.now = host.now if made.actions else made.wake_at or host.now


def runs(actions: list[act.Action]) -> list[str]:
    return [action.name for action in actions if isinstance(action, act.RunTask)]


def look(host: Paper) -> Plan:
    return steps(host.wanted, host.observed, host.memory, host.now)


def task(host: Paper) -> Container:
    return next(c for c in host.observed.engine.containers if ".after." in c.name)


def begun(**state: Any) -> Paper:
    """after_deploy of the new version has begun, and is in this state."""
    _, host = upgrade()
    go_on(host, until=act.AfterDeployDone)
    host.observed = changed(host.observed, "shop.after.", **state)
    return host


RUNNING: dict[str, Any] = {"state": "running", "exit_code": None, "finished_at": 0.0}


def test_it_runs_once_after_the_new_version_serves_and_the_old_one_is_gone() -> None:
    assert order(converged(OLD))[-4:] == ["RecordApplied", "RunTask", "AfterDeployDone", "RemoveContainer"]
    asked, host = upgrade()
    done = go_on(host)
    assert [type(action).__name__ for action in done] == [
        *("StartReplica", "SetName", "StopContainer", "RemoveContainer", "RecordApplied"),
        *("RunTask", "AfterDeployDone", "RemoveContainer"),
    ]
    assert look(host).converged
    run = next(action for action in done if isinstance(action, act.RunTask))
    assert run.spec.command == ("warm",)
    assert run.spec.environment == {
        "RECONCILER_DIRECTION": "forward",
        "RECONCILER_FROM_REVISION": "a" * 40,
        "RECONCILER_FROM_IMAGE": "shop:1",
        "RECONCILER_TO_REVISION": "b" * 40,
        "RECONCILER_TO_IMAGE": "shop:1",
    }
    assert host.memory.due == {}
    # A commit that changes other apps only moves the revision.
    host.wanted = wanted(replace(NEW, revision="c" * 40), revision="c" * 40)
    assert [type(action).__name__ for action in go_on(host)] == ["RecordApplied"]
    assert asked.revision == "b" * 40


def test_it_is_no_part_of_the_version_and_waits_for_the_next_one() -> None:
    plain = app()
    assert desired(plain).fingerprint == OLD.fingerprint
    before = converged(desired(plain))
    _, host = upgrade(replace(OLD, revision="b" * 40), before)
    assert [type(action).__name__ for action in go_on(host)] == ["RecordApplied"]
    assert runs(go_on(upgrade(NEW, before)[1])) == [f"shop.after.{NEW.fingerprint[:8]}"]


def test_an_app_that_was_there_before_the_store_owes_nothing() -> None:
    end = converged(OLD)
    host = paper(end.observed, Memory(since=LATER), end.wanted, LATER + 1)
    assert [type(action).__name__ for action in go_on(host)] == ["RecordApplied"]
    assert host.memory.due == {}


@pytest.mark.parametrize(
    ("state", "first", "again"),
    [
        ({"state": "created", "started_at": 0.0, "exit_code": None}, ["RemoveContainer"], 1),
        ({"state": "created", "started_at": 0.0, "error": "no such file"}, ["RemoveContainer"], 1),
        ({"state": "exited", "exit_code": 0}, ["AfterDeployDone", "RemoveContainer"], 0),
        (RUNNING, [], 0),
        ({**RUNNING, "state": "paused"}, [], 0),
        ({**RUNNING, "state": "removing"}, [], 0),
    ],
)
def test_whoever_comes_after_a_crash_goes_on_from_what_is_there(
    state: dict[str, Any], first: list[str], again: int
) -> None:
    host = begun(**state)
    made = look(host)
    assert kinds(made) == first
    assert (made.statuses["shop"].sync, made.statuses["shop"].reason) == ("OutOfSync", "AfterDeploy")
    for action in made.actions:
        host.do(action)
    if state["state"] in {"running", "paused", "removing"}:
        assert look(host).actions == ()
        host.observed = changed(host.observed, "shop.after.", state="exited", exit_code=0)
    assert len(runs(go_on(host))) == again
    assert look(host).converged
    assert len(host.observed.engine.containers) == 1


def test_due_and_never_begun_it_is_run() -> None:
    _, host = upgrade()
    assert runs(go_on(host, until=act.RunTask)) == []
    assert (look(host).statuses["shop"].sync, len(runs(go_on(host)))) == ("OutOfSync", 1)


def test_recorded_as_done_its_container_is_only_removed() -> None:
    host = begun(state="exited", exit_code=0)
    host.do(act.AfterDeployDone("shop", "", NEW))
    made = look(host)
    assert (kinds(made), made.statuses["shop"].sync) == (["RemoveContainer"], "Synced")
    assert runs(go_on(host)) == []


@pytest.mark.parametrize(
    ("state", "cause", "words"),
    [
        ({"state": "exited", "exit_code": 3}, "AfterDeployFailed", "ended with exit code 3"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, "AfterDeployFailed", "ran out of memory"),
        ({**RUNNING, "started_at": LATER - 100}, "AfterDeployTimeout", "within 60 s"),
    ],
)
def test_one_that_fails_takes_nothing_back(state: dict[str, Any], cause: str, words: str) -> None:
    host = begun(**state)
    (made,) = [a for a in look(host).actions if isinstance(a, act.AfterDeployFailed)]
    assert (made.cause, words in made.message) == (cause, True)
    host.do(made)  # and whoever recorded it was killed
    assert "RemoveContainer" in kinds(look(host))
    go_on(host)
    status = look(host).statuses["shop"]
    assert (status.sync, status.health, status.reason) == ("OutOfSync", "Healthy", cause)
    assert words in status.message
    assert "reconciler retry shop" in status.message
    assert next(c for c in status.conditions if c.type == "Stalled").status
    assert [c.claim.fingerprint for c in host.observed.engine.containers if c.claim] == [NEW.fingerprint]
    # A person asks for it once more: that is another run, and a container of the failed one is not taken for it.
    due = host.memory.due["shop"]
    assert due.way.direction == "forward"
    host.memory = replace(host.memory, due={"shop": Due(due.fingerprint, due.way, host.now)})
    assert len(runs(go_on(host))) == 1
    assert look(host).converged


@pytest.mark.parametrize("mended", [Task(("warm", "--all"), timeout=60), Task(("warm",), timeout=600)])
def test_a_commit_that_changes_what_failed_is_another_try(mended: Task) -> None:
    host = begun(state="exited", exit_code=3)
    go_on(host, until=act.RemoveContainer)  # and whoever recorded it was killed
    host.wanted = wanted(replace(NEW, revision="c" * 40), revision="c" * 40)
    assert runs(go_on(host)) == []
    later = desired(replace(SHOP, after_deploy=mended), image="sha256:2", revision="d" * 40)
    assert later.fingerprint == NEW.fingerprint
    host.wanted = wanted(later, revision="d" * 40)
    assert len(runs(go_on(host))) == 1
    assert look(host).converged


def test_what_a_commit_changes_while_it_runs_is_another_run_and_the_first_may_end() -> None:
    host = begun(**RUNNING)
    later = desired(replace(SHOP, after_deploy=Task(("warm", "--all"))), image="sha256:2", revision="d" * 40)
    host.wanted = wanted(later, revision="d" * 40)
    done = go_on(host, until=act.RunTask)
    assert [type(action) for action in done] == [act.RecordApplied, act.StopContainer, act.RemoveContainer]
    assert host.now >= task(begun(**RUNNING)).started_at + 60
    assert len(runs(go_on(host))) == 1
    assert look(host).converged


def test_a_container_of_an_earlier_deployment_of_the_same_version_proves_nothing() -> None:
    host = begun(state="exited", exit_code=0)
    host.memory = replace(host.memory, due={"shop": Due(NEW.fingerprint, Way(), LATER + 77)})
    assert kinds(look(host)) == ["RemoveContainer"]
    assert len(runs(go_on(host))) == 1


def test_it_is_told_from_where_the_app_came_not_where_it_is() -> None:
    _, host = upgrade()
    go_on(host)
    _, back = upgrade(
        replace(OLD, revision="c" * 40),
        Forecast((), {}, look(host), host.observed, host.memory, host.wanted),
        host.now + 99,
    )
    (run,) = [action for action in go_on(back) if isinstance(action, act.RunTask)]
    told = run.spec.environment
    assert (told["RECONCILER_DIRECTION"], told["RECONCILER_FROM_REVISION"]) == ("back", "b" * 40)


# --- a newer commit -------------------------------------------------------------------------------------------------

THIRD = desired(SHOP, image="sha256:3", revision="c" * 40)


def newer(host: Paper, version: DesiredApp) -> None:
    host.wanted = replace(wanted(version), targets={"shop": Target("shop", version, previous=NEW)})


def test_a_newer_version_does_not_wait_and_its_task_comes_when_the_other_has_ended() -> None:
    host = begun(**RUNNING)
    newer(host, THIRD)
    assert kinds(look(host)) == ["StartReplica"]
    ended = task(host).started_at + 60
    assert runs(go_on(host, until=act.RunTask)) == []
    assert host.now >= ended  # it was not ended before its time was over, and nothing ran beside it
    assert runs(go_on(host)) == [f"shop.after.{THIRD.fingerprint[:8]}"]
    assert look(host).converged


def test_a_migration_of_a_newer_version_waits_for_it() -> None:
    host = begun(**RUNNING)
    newer(host, desired(replace(SHOP, before_deploy=Task(("migrate",))), image="sha256:3", revision="c" * 40))
    made = look(host)
    assert made.actions == ()
    assert made.statuses["shop"].message == "waiting for after_deploy of another version to end"
    host.observed = changed(host.observed, "shop.after.", state="exited", exit_code=0)
    assert kinds(look(host)) == ["RunTask"]


def test_one_that_ended_well_is_not_repeated_when_the_newer_version_fails() -> None:
    host = begun(state="exited", exit_code=0)
    newer(host, THIRD)
    for action in look(host).actions:
        host.do(action)
    assert task(host).state == "exited"
    host.wanted = wanted(shop=Target("shop", NEW, Blocked("CrashLoop", "it crashed")))
    assert runs(go_on(host)) == []
    assert host.memory.due == {}


def test_the_task_of_a_version_that_was_overtaken_is_void() -> None:
    _, host = upgrade()
    go_on(host, until=act.RunTask)
    newer(host, desired(replace(SHOP, after_deploy=None), image="sha256:3", revision="c" * 40))
    assert runs(go_on(host)) == []
    assert (host.memory.due, look(host).converged) == ({}, True)


def test_a_manifest_that_lost_its_task_owes_nothing_any_more() -> None:
    _, host = upgrade()
    go_on(host, until=act.RunTask)
    host.wanted = wanted(desired(replace(SHOP, after_deploy=None), image="sha256:2", revision="b" * 40))
    assert kinds(look(host)) == ["AfterDeployDone"]


def test_those_that_depend_on_it_wait() -> None:
    host = begun(**RUNNING)
    api = desired(app("api", depends_on=("shop",)), revision="b" * 40)
    both = wanted(NEW, api, revision="b" * 40)
    made = steps(both, host.observed, host.memory, host.now)
    assert made.statuses["api"].reason == "WaitingForDependency"
    assert "after_deploy is running" in made.statuses["api"].message


def test_the_forecast_has_it() -> None:
    end = converged(OLD)
    seen: Observed = end.observed
    assert order(forecast(wanted(NEW), seen, end.memory, SUBNET, LATER)).count("RunTask") == 1


# --- whatever happens -----------------------------------------------------------------------------------------------

BOTH = app(before_deploy=Task(("migrate",)), after_deploy=Task(("warm",)))
VERSIONS = [desired(BOTH, image=f"sha256:{number}", revision=f"{number}" * 40) for number in range(1, 4)]


class Life:
    """A host on which commits come, and looks are cut short, whenever somebody pleases."""

    def __init__(self) -> None:
        self.host = paper(empty_host(), Memory(), wanted(VERSIONS[0], revision=VERSIONS[0].revision), NOW)
        self.ended: Counter[tuple[str, str, str]] = Counter()

    def commit(self, version: DesiredApp) -> None:
        applied = self.host.memory.applied.get("shop")
        before = next((v for v in VERSIONS if applied and v.fingerprint == applied.fingerprint), None)
        target = Target("shop", version, previous=before if before is not version else None)
        self.host.wanted = replace(wanted(version, revision=version.revision), targets={"shop": target})

    def look(self, most: int = 99, state: str = "running") -> Plan:
        """Do the first of what is planned; a task that is begun stays in this state."""
        made = look(self.host)
        for action in made.actions[:most]:
            self.host.do(action)
            if isinstance(action, act.RunTask):
                began: dict[str, Any] = {"state": state, "exit_code": None, "finished_at": 0.0}
                self.host.observed = changed(self.host.observed, action.name, **began)
            assert sum(c.state == "running" for c in self.tasks()) < 2, "never two at once"
            assert not isinstance(action, act.Quarantine)
        if not made.actions and not self.end() and made.wake_at is not None:
            self.host.now = max(self.host.now, made.wake_at)
        return made

    def tasks(self) -> list[Container]:
        return [c for c in self.host.observed.engine.containers if c.claim and c.claim.role in {"task", "after"}]

    def end(self) -> bool:
        """Whatever runs ends well."""
        running = [c for c in self.tasks() if c.state == "running"]
        for one in running:
            assert one.claim is not None
            self.ended[one.claim.role, one.claim.fingerprint, one.claim.run] += 1
            ended: dict[str, Any] = {"state": "exited", "exit_code": 0, "finished_at": self.host.now}
            self.host.observed = changed(self.host.observed, one.name, **ended)
        return bool(running)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_is_cut_short_each_deployment_has_its_task_once(data: st.DataObject) -> None:
    life = Life()
    for _ in range(data.draw(st.integers(0, 40))):
        match data.draw(st.sampled_from(["look", "look", "look", "look", "end", "commit"])):
            case "commit":
                life.commit(data.draw(st.sampled_from(VERSIONS)))
            case "end":
                life.end()
            case _:
                life.look(data.draw(st.integers(0, 3)), data.draw(st.sampled_from(["created", "running"])))
    last = life.host.wanted.targets["shop"].desired
    assert last is not None
    life.commit(last)
    due, made = set(), life.look()
    for _ in range(400):
        made = life.look()
        due |= {one.run for one in life.host.memory.due.values() if one.fingerprint == last.fingerprint}
        if made.converged and not life.tasks()[1:]:
            break
    assert made.converged
    assert {run for role, _, run in life.ended if role == "after"} >= due
    assert {count for (role, *_), count in life.ended.items() if role == "after"} <= {1}
    assert life.host.memory.applied["shop"].fingerprint == last.fingerprint
    assert any(role == "after" and fingerprint == last.fingerprint for role, fingerprint, _ in life.ended)
