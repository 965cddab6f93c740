"""Could we go back? Played on paper, with the plan as the only one who decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, SUBNET, app, changed, converged, desired, kinds, paper, steps, wanted, without
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cli.versions import previous_version
from reconciler.core import actions as act
from reconciler.core.memory import Applied, Brought, Due, Memory, Rehearsed, Retry, Suspended, Version, Way
from reconciler.core.model import Health, PublishedPort, Rehearsal, Secret, Task, Volume
from reconciler.core.observed import Container, ProbeResult
from reconciler.core.ownership import by_app, is_rehearsal
from reconciler.core.plan import plan
from reconciler.core.readiness import health_of
from reconciler.core.rehearsal import (
    FAILED,
    IMPOSSIBLE,
    PASSED,
    VARIABLE,
    answer_for,
    is_of,
    name_of,
    prepared,
    served_before,
    unanswered,
)
from reconciler.core.retention import unneeded
from reconciler.core.routing import route
from reconciler.core.simulate import Paper, forecast
from reconciler.core.step import Facts, Timing
from reconciler.core.target import Blocked, DesiredApp, Pull, Target, WayBack
from reconciler.core.wanted import Wanted
from reconciler.core.watch import retiring, watch_list
from reconciler.protocols import HistoryEntry

LATER = NOW + 10_000
HTTP = Health("http", path="/healthz", port=80, min_healthy_time=2, deadline=30)
SHOP = app(health=HTTP, rehearse_rollback=Rehearsal())
OLD, NEW = desired(SHOP, revision="0" * 40), desired(SHOP, image="sha256:2", revision="1" * 40)
VERSIONS = (
    Version(NEW.fingerprint, "sha256:2", NOW, "1" * 40, 2),
    Version(OLD.fingerprint, "sha256:1", 0, "0" * 40, 1),
)


def way(new: DesiredApp = NEW, old: DesiredApp = OLD) -> WayBack:
    asked = new.app.rehearse_rollback or Rehearsal()
    ready = prepared(old, old.fingerprint, new.fingerprint, asked)
    return WayBack(new.fingerprint, old.fingerprint, old.revision, ready)


def asking(new: DesiredApp = NEW, old: DesiredApp = OLD, **changes: Any) -> Wanted:
    """The new version serves, and it is not known whether the old one could."""
    return wanted(shop=replace(Target("shop", new, way_back=way(new, old)), **changes), revision="1" * 40)


def host(new: DesiredApp = NEW, old: DesiredApp = OLD, **memory: Any) -> Paper:
    """The new version was applied; nothing else is on this host."""
    end = converged(new, revision="1" * 40)
    known = replace(end.memory, versions={"shop": VERSIONS}, **memory)
    return paper(end.observed, known, asking(new, old), LATER)


def next_actions(on: Paper, **memory: Any) -> tuple[act.Action, ...]:
    return steps(on.wanted, on.observed, replace(on.memory, **memory), on.now).actions


def rehearsing(health: ProbeResult | None = None, **changes: Any) -> Paper:
    """The replica of the version before runs."""
    on = host()
    (begin,) = next_actions(on)
    on.do(begin)
    container = replica(on)
    probes = {**on.observed.probes, container.id: health or ProbeResult(None, on.now, "not probed yet")}
    on.observed = replace(changed(on.observed, "shop.rehearsal.", **changes), probes=probes)
    return on


def replica(on: Paper) -> Container:
    return next(c for c in on.observed.engine.containers if is_rehearsal(c))


def answer(on: Paper) -> Rehearsed:
    (record,) = next_actions(on)
    assert isinstance(record, act.RecordRehearsal)
    return record.answer


# --- which version ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_it_is_the_version_to_which_a_rollback_would_lead(served: list[int]) -> None:
    """As long as nobody goes forward again to a version that was taken back: then it is an older one."""
    versions: list[Version] = []
    places: dict[int, int] = {}
    stack: list[int] = []
    for at, number in enumerate(served):
        if number in places and number not in stack:
            return
        stack = [*stack[: stack.index(number)], number] if number in stack else [*stack, number]
        places.setdefault(number, at)
        fresh = Version(f"f{number}", f"i{number}", at, f"r{at}", places[number])
        versions = [fresh, *(v for v in versions if v.fingerprint != fresh.fingerprint)]
    history = [HistoryEntry(at, "shop", "deployed", f"r{at}", f"f{n}") for at, n in enumerate(served)][::-1]
    below = previous_version(history, Applied("r", f"f{served[-1]}", 0))
    found = served_before(versions, f"f{served[-1]}")
    assert (found.fingerprint if found else None) == (below.fingerprint if below else None)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_it_is_never_a_version_that_came_later(served: list[int]) -> None:
    versions: list[Version] = []
    places: dict[int, int] = {}
    for at, number in enumerate(served):
        fresh = Version(f"f{number}", "i", at, "r", places.setdefault(number, at))
        versions = [fresh, *(v for v in versions if v.fingerprint != fresh.fingerprint)]
    found = served_before(versions, f"f{served[-1]}")
    assert found is None or found.place < places[served[-1]]
    assert served_before(versions, "unknown") is None


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, True),
        ({"rehearsed": {"shop": Rehearsed(NEW.fingerprint, OLD.fingerprint, False, FAILED, "", "", 1)}}, False),
        ({"rehearsed": {"shop": Rehearsed(NEW.fingerprint, "another", True, PASSED, "", "", 1)}}, True),
        ({"rehearsed": {"shop": Rehearsed("another", OLD.fingerprint, True, PASSED, "", "", 1)}}, True),
        ({"versions": {"shop": VERSIONS[:1]}}, False),
        ({"versions": {}}, False),
    ],
)
def test_it_is_asked_once_for_two_versions(changes: Any, asked: bool) -> None:  # noqa: FBT001  (expected)
    memory = replace(Memory(versions={"shop": VERSIONS}), **changes)
    applied = Applied("1" * 40, NEW.fingerprint, NOW)
    assert (unanswered(NEW, applied, memory) == VERSIONS[1]) is asked
    assert unanswered(NEW, None, memory) is None
    assert unanswered(NEW, replace(applied, fingerprint=OLD.fingerprint), memory) is None
    assert unanswered(desired(replace(SHOP, rehearse_rollback=None), image="sha256:2"), applied, memory) is None
    known = answer_for("shop", applied, memory)
    assert (known is not None) is (not asked and "rehearsed" in changes)
    assert answer_for("shop", replace(applied, fingerprint=OLD.fingerprint), memory) is None


def test_the_manifests_question_is_no_part_of_the_version() -> None:
    plain = desired(replace(SHOP, rehearse_rollback=None))
    for asked in (Rehearsal(), Rehearsal(("./check",))):
        other = desired(replace(SHOP, rehearse_rollback=asked))
        assert (other.fingerprint, other.trial, other.fields) == (plain.fingerprint, plain.trial, plain.fields)


# --- what its replica is ----------------------------------------------------------------------------------------------

RICH = app(
    health=HTTP,
    volumes=(Volume("data", "/data"), Volume("/srv/media", "/media"), Volume("conf", "/conf", read_only=True)),
    ports=(PublishedPort(5432, 5432),),
    labels={"traefik.enable": "true"},
    environment={"A": "b"},
    tmpfs=("/cache",),
)


def test_it_can_write_to_nothing_takes_no_port_and_is_found_by_nobody() -> None:
    old = desired(RICH, secrets={})
    made = prepared(old, "f" * 16, "applied", Rehearsal())
    assert [(mount.source, mount.target) for mount in made.spec.mounts] == [
        (mount.source, mount.target) for mount in old.spec.mounts
    ]
    assert all(mount.read_only and not mount.filled for mount in made.spec.mounts)
    assert (made.spec.ports, made.spec.labels, made.spec.restart) == ((), {}, False)
    assert made.spec.environment == {"A": "b", VARIABLE: "1"}
    assert (made.spec.image, made.spec.tmpfs, made.fingerprint) == (old.spec.image, old.spec.tmpfs, "f" * 16)
    assert name_of(made) == f"shop.rehearsal.{'f' * 8}"
    assert made.app.health == HTTP


def test_its_secrets_and_files_are_those_of_its_own_version() -> None:
    secret = desired(replace(SHOP, secrets=None), secrets={"KEY": b"old"})
    made = prepared(secret, secret.fingerprint, "applied", Rehearsal())
    assert made.secret_files == {"KEY": Secret(b"old")}
    assert made.secrets_directory == secret.secrets_directory


def test_a_command_is_run_in_it_until_it_ends_well() -> None:
    made = prepared(desired(RICH), "f", "applied", Rehearsal(("./check", "schema")))
    check = made.spec.health
    assert check is not None
    assert (check.command, check.timeout, check.retries) == (("./check", "schema"), HTTP.deadline, 1)
    assert (made.app.health.kind, made.app.health.deadline) == ("command", HTTP.deadline)
    own = desired(replace(RICH, health=Health("command", command=("true",), interval=9)))
    assert prepared(own, "f", "applied", Rehearsal()).spec.health == own.spec.health


def test_another_question_is_another_rehearsal() -> None:
    on = rehearsing()
    assert is_of(replica(on), way())
    assert not is_of(replica(on), None)
    other = desired(replace(SHOP, rehearse_rollback=Rehearsal(("./check",))), image="sha256:2", revision="1" * 40)
    on.wanted = asking(other)
    assert kinds_of(next_actions(on)) == ["EndRehearsal"]


def test_another_question_is_asked_although_the_old_one_was_answered() -> None:
    """Who was told no, and then writes a command that only reads, waits for no deployment."""
    on = rehearsing(ProbeResult(True, LATER))
    on.now = LATER + 10
    on.do(next_actions(on)[0])
    on.do(next_actions(on)[0])
    assert next_actions(on) == ()
    other = desired(replace(SHOP, rehearse_rollback=Rehearsal(("./check",))), image="sha256:2", revision="1" * 40)
    assert unanswered(other, on.memory.applied["shop"], on.memory) == VERSIONS[1]
    on.wanted = asking(other)
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert kinds(made) == ["Rehearse"]
    assert "RollbackReady" not in {c.type for c in made.statuses["shop"].conditions}, "of this nobody knows yet"
    lost = replace(way(other), desired=None, obstacle="no key fits")
    on.wanted = asking(other, way_back=lost)
    known = replace(on.memory, rehearsed={"shop": answer(on)})
    for new in (NEW, other):
        assert unanswered(new, on.memory.applied["shop"], known) is None


def kinds_of(actions: tuple[act.Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


# --- when it begins ---------------------------------------------------------------------------------------------------


def test_it_begins_once_the_new_version_is_applied_and_nothing_is_left_to_do() -> None:
    on = host()
    (begin,) = next_actions(on)
    assert isinstance(begin, act.Rehearse)
    assert begin.name == f"shop.rehearsal.{OLD.fingerprint[:8]}"
    assert begin.address not in {c.address for c in on.observed.engine.containers}
    made = steps(on.wanted, on.observed, on.memory, on.now)
    status = made.statuses["shop"]
    assert (status.sync, status.health, status.reason) == ("Synced", "Healthy", "Applied")
    assert (made.converged, made.rehearsing) == (True, "shop")


def test_it_waits_for_everything_that_people_wait_for() -> None:
    on = host()
    other = desired(app("other"))
    both = replace(on.wanted, targets={**on.wanted.targets, "other": Target("other", other)})
    assert "Rehearse" not in kinds_of(steps(both, on.observed, on.memory, on.now).actions)
    assert "Rehearse" not in kinds_of(next_actions(on, busy={"other": "at work"}))
    assert "Rehearse" not in kinds_of(next_actions(on, busy={"host:files": "sweeping"}))
    sick = {c.id: ProbeResult(False, LATER - 50, "GET /healthz: 500") for c in on.observed.engine.containers}
    ill = replace(on.observed, probes=sick)
    assert "Rehearse" not in kinds_of(steps(on.wanted, ill, on.memory, on.now).actions)


def test_it_does_not_begin_before_the_new_version_is_written_down() -> None:
    end = converged(OLD, revision="0" * 40)
    late = forecast(wanted(NEW, revision="1" * 40), end.observed, end.memory, SUBNET, LATER)
    memory = replace(late.memory, applied={}, versions={"shop": VERSIONS})
    made = steps(asking(), late.observed, memory, LATER + 100)
    assert kinds(made) == ["RecordApplied"]


def test_an_app_that_is_given_up_or_broken_holds_up_no_rehearsal() -> None:
    on = host()
    stuck = Target("other", None, Blocked("InvalidManifest", "line 3"))
    on.wanted = replace(on.wanted, targets={**on.wanted.targets, "other": stuck})
    assert kinds_of(next_actions(on)) == ["Rehearse"]


def test_there_is_one_at_a_time_on_a_host() -> None:
    on = host()
    other = app("mail", health=HTTP, rehearse_rollback=Rehearsal())
    before, now = desired(other, revision="0" * 40), desired(other, image="sha256:2", revision="1" * 40)
    end = converged(NEW, now, revision="1" * 40)
    ways = {
        "shop": Target("shop", NEW, way_back=way()),
        "mail": Target("mail", now, way_back=way(now, before)),
    }
    on = paper(end.observed, end.memory, wanted(revision="1" * 40, **ways), LATER)
    (first,) = next_actions(on)
    assert first.app == "mail"
    assert next_actions(on, busy={act.rehearsal_lane("mail"): "starting"}) == ()
    on.do(first)
    on.observed = replace(on.observed, probes={**on.observed.probes, replica(on).id: ProbeResult(None, on.now)})
    assert next_actions(on) == ()
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert made.rehearsing == "mail"


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_healthy_for_long_enough_is_yes() -> None:
    on = rehearsing(ProbeResult(True, LATER + 1))
    made = steps(on.wanted, on.observed, on.memory, LATER + 2)
    assert (made.actions, made.wake_at, made.rehearsing) == ((), LATER + 3, "shop")
    on.now = LATER + 3.1
    said = answer(on)
    assert (said.ready, said.reason, said.fingerprint, said.previous) == (
        True,
        PASSED,
        NEW.fingerprint,
        OLD.fingerprint,
    )
    assert said.revision == OLD.revision


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "exited", "exit_code": 3}, "ended with exit code 3"),
        ({"state": "dead", "exit_code": 1}, "ended with exit code 1"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, "ran out of memory"),
    ],
)
def test_one_that_ends_is_no(changes: Any, why: str) -> None:
    said = answer(rehearsing(**changes))
    assert (said.ready, said.reason) == (False, FAILED)
    assert why in said.message
    assert "shop:1 of 00000000" in said.message


def test_one_that_is_not_healthy_in_time_is_no_with_what_the_probe_says() -> None:
    on = rehearsing(ProbeResult(False, LATER + 1, "GET /healthz: 500"))
    made = steps(on.wanted, on.observed, on.memory, LATER + 20)
    assert made.actions == ()
    assert made.wake_at == replica(on).started_at + HTTP.deadline
    on.now = made.wake_at
    said = answer(on)
    assert (said.ready, said.reason) == (False, FAILED)
    assert said.message.endswith("was not healthy within 30 s: GET /healthz: 500")


def test_the_engines_verdict_counts_where_a_command_answers() -> None:
    new = desired(replace(SHOP, rehearse_rollback=Rehearsal(("./check",))), image="sha256:2", revision="1" * 40)
    on = host(new)
    on.do(next_actions(on)[0])
    on.observed = changed(on.observed, "shop.rehearsal.", engine_health="starting")
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert made.actions == ()
    on.now = made.wake_at or 0
    assert next_actions(on) == (), "it has not spoken yet"
    on.observed = changed(on.observed, "shop.rehearsal.", engine_health="unhealthy")
    assert "its HEALTHCHECK says unhealthy" in answer(on).message
    on.observed = changed(on.observed, "shop.rehearsal.", engine_health="healthy")
    assert answer(on).ready


def test_an_agent_that_has_just_started_gives_it_its_time_again() -> None:
    on = rehearsing(ProbeResult(None, LATER + 500, "not probed yet"))
    on.now = LATER + 500.1
    assert next_actions(on) == ()
    probes = {**on.observed.probes, replica(on).id: ProbeResult(False, on.now, "GET /healthz: 500")}
    on.observed = replace(on.observed, probes=probes)
    assert not answer(on).ready


def test_healthy_before_its_deadline_it_may_show_after_it_that_it_stays_so() -> None:
    """As in a rollout: there the deadline asks only who is not healthy."""
    on = rehearsing(ProbeResult(True, LATER + HTTP.deadline - 1))
    on.now = replica(on).started_at + HTTP.deadline
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert (made.actions, made.wake_at) == ((), LATER + HTTP.deadline + 1)
    on.now = made.wake_at or 0
    assert answer(on).ready


@pytest.mark.parametrize(
    "changes", [{"state": "exited", "exit_code": 1}, {"started_at": LATER - 2 * HTTP.deadline}], ids=["ended", "late"]
)
def test_no_is_no_answer_while_what_serves_is_not_well_either(changes: Any) -> None:
    """The database is down, or the host came up and has not started everything: both say nothing of the version."""
    on = rehearsing(ProbeResult(False, LATER, "GET /healthz: 500"), **changes)
    for ill in ({"engine_health": "none", "state": "exited"}, {}):
        probes = {c.id: ProbeResult(False, LATER, "GET /healthz: 500") for c in on.observed.engine.containers}
        observed = replace(changed(on.observed, "shop.1.", **ill), probes=probes)
        made = steps(on.wanted, observed, on.memory, on.now)
        (end,) = [action for action in made.actions if act.is_rehearsal_lane(act.lane(action))]
        assert isinstance(end, act.EndRehearsal)
        assert end.unclear, "it is tried again, but not for ever"


@pytest.mark.parametrize("changes", [{"state": "paused"}, {"address": None}])
def test_one_that_a_person_took_out_of_the_way_is_tried_again(changes: Any) -> None:
    (end,) = next_actions(rehearsing(**changes))
    assert isinstance(end, act.EndRehearsal)
    assert end.unclear


# --- whatever comes in the middle -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["created", "running", "paused", "exited", "dead", "removing", "restarting"])
@pytest.mark.parametrize("asked", [True, False])
def test_killed_at_any_moment_it_ends_with_one_answer_and_no_container(state: Any, asked: bool) -> None:  # noqa: FBT001
    on = rehearsing(ProbeResult(True, LATER), state=state, exit_code=1)
    if not asked:
        on.wanted = wanted(NEW, revision="1" * 40)
    answers = 0
    for _ in range(20):
        made = steps(on.wanted, on.observed, on.memory, on.now)
        assert not {"StartReplica", "StopContainer", "SetName", "RemoveContainer"} & set(kinds(made))
        for action in made.actions:
            answers += isinstance(action, act.RecordRehearsal)
            on.do(action)
        if any(c.state == "removing" for c in on.observed.engine.containers):  # the engine is at it
            on.observed = without(on.observed, "shop.rehearsal.")
            continue
        if not made.actions and made.wake_at is None:
            break
        on.now = on.now + 0.1 if made.actions else max(made.wake_at or 0, on.now + 0.1)
    assert answers == asked
    assert not any(is_rehearsal(c) for c in on.observed.engine.containers)
    assert steps(on.wanted, on.observed, on.memory, on.now + 99).converged


def test_answered_and_killed_before_the_replica_went_it_goes_then() -> None:
    on = rehearsing(ProbeResult(True, LATER))
    on.now = LATER + 10
    on.do(next_actions(on)[0])
    assert kinds_of(next_actions(on)) == ["EndRehearsal"]
    assert next_actions(on, busy={act.rehearsal_lane("shop"): "it is stopping"}) == ()
    on.do(next_actions(on)[0])
    assert next_actions(on) == ()


def test_a_restart_of_the_host_in_the_middle_says_nothing_about_the_version() -> None:
    on = rehearsing(state="exited", exit_code=143)
    on.observed = changed(on.observed, "shop.1.", started_at=LATER + 60)
    on.now = LATER + 70
    assert kinds_of(next_actions(on)) == ["EndRehearsal"]
    on.do(next_actions(on)[0])
    assert kinds_of(next_actions(on)) == ["Rehearse"]


NEWER = desired(SHOP, image="sha256:3", revision="2" * 40)


@pytest.mark.parametrize(
    "target",
    [
        Target("shop", NEWER, previous=NEW),
        Target("shop", NEW, Blocked("InvalidManifest", "line 3")),
        Target("shop", NEW, Blocked("Pulling", ""), Pull("shop:3", "2" * 40, None, False, NEWER)),
        Target("shop", None, Blocked("DecryptNoKey", "no key")),
        Target("shop", desired(replace(SHOP, rehearse_rollback=None), image="sha256:2", revision="1" * 40)),
    ],
    ids=["new commit", "broken manifest", "pull", "nothing known", "not asked any more"],
)
def test_a_new_commit_comes_first_and_waits_for_nothing(target: Target) -> None:
    on = rehearsing()
    without_it = without(on.observed, "shop.rehearsal.")
    asked = wanted(shop=target, revision="2" * 40)
    made = steps(asked, on.observed, on.memory, on.now)
    plain = steps(asked, without_it, on.memory, on.now)
    assert [kind for kind in kinds(made) if kind != "EndRehearsal"] == kinds(plain)
    assert "EndRehearsal" in kinds(made)
    (end,) = [action for action in made.actions if isinstance(action, act.EndRehearsal)]
    assert act.lane(end) != "shop", "a slow end would hold up the new version"
    assert made.statuses == plain.statuses


def test_removed_or_suspended_its_replica_goes_too() -> None:
    on = rehearsing()
    other = desired(app("other"))
    gone = steps(wanted(other), on.observed, on.memory, on.now)
    assert [a.app for a in gone.actions if isinstance(a, act.EndRehearsal)] == ["shop"]
    left_alone = steps(on.wanted, on.observed, replace(on.memory, suspended={"shop": Suspended(1, "x")}), on.now)
    assert kinds(left_alone) == ["EndRehearsal"]


def test_the_last_container_of_a_removed_app_brings_it_not_back() -> None:
    on = rehearsing()
    only = tuple(c for c in on.observed.engine.containers if is_rehearsal(c))
    observed = replace(on.observed, engine=replace(on.observed.engine, containers=only))
    observed = replace(observed, names=replace(observed.names, names={}))
    made = steps(wanted(desired(app("other"))), observed, replace(on.memory, applied={}), on.now)
    assert "shop" not in made.statuses
    assert made.prune_blocked == 0
    assert "EndRehearsal" in kinds(made)


def test_one_that_another_key_signed_is_not_touched() -> None:
    on = rehearsing(owned=False)
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert made.actions == ()
    assert made.statuses["shop"].reason == "ForeignContainer"


# --- what cannot be done ----------------------------------------------------------------------------------------------


def test_what_cannot_be_had_any_more_is_no_with_that_reason() -> None:
    on = host()
    lost = replace(way(), desired=None, obstacle="the version of 00000000 cannot be had any more: no key fits")
    on.wanted = asking(way_back=lost)
    said = answer(on)
    assert (said.ready, said.reason, said.message) == (False, IMPOSSIBLE, lost.obstacle)
    on.wanted = asking(way_back=replace(lost, passing=True))
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert (made.actions, made.wake_at) == ((), on.now + 60)


def test_a_replica_that_cannot_be_started_is_tried_three_times_and_then_no() -> None:
    on = host()
    lane = act.rehearsal_lane("shop")
    first = Retry(LATER + 5, 1, "ImageMissing", "the image of shop.rehearsal.x is gone", NEW.fingerprint)
    made = steps(on.wanted, on.observed, replace(on.memory, retries={lane: first}), on.now)
    assert (made.actions, made.wake_at) == ((), LATER + 5)
    assert kinds_of(next_actions(on, retries={lane: replace(first, not_before=LATER - 1)})) == ["Rehearse"]
    assert kinds_of(next_actions(on, retries={lane: replace(first, attempts=9, fingerprint="of before")})) == [
        "Rehearse"
    ]
    (record,) = next_actions(on, retries={lane: replace(first, attempts=3)})
    assert isinstance(record, act.RecordRehearsal)
    assert (record.answer.reason, record.answer.message) == (IMPOSSIBLE, first.message)
    (end,) = next_actions(rehearsing(state="created", error="no such device"))
    assert isinstance(end, act.EndRehearsal)
    assert not end.unclear, "the failed start is counted already"


def test_what_cannot_be_written_down_or_removed_is_tried_later_and_holds_up_nothing_else() -> None:
    on = rehearsing(ProbeResult(True, LATER))
    on.now = LATER + 10
    waits = Retry(LATER + 40, 2, "DiskFull", "the disk is full")
    lane = act.retry_lane(next_actions(on)[0])
    assert lane not in {"shop", act.upkeep_lane("shop"), act.rehearsal_lane("shop")}
    made = steps(on.wanted, on.observed, replace(on.memory, retries={lane: waits}), on.now)
    assert (made.actions, made.wake_at) == ((), LATER + 40)


def test_where_no_address_is_free_it_waits() -> None:
    end = converged(NEW, revision="1" * 40)
    used = frozenset(f"10.201.0.{n}" for n in range(8))
    made = plan(asking(), end.observed, replace(end.memory, reserved=used), "10.201.0.0/29", LATER)
    assert (made.actions, made.wake_at) == ((), LATER + 60)


# --- nobody takes it for a replica ------------------------------------------------------------------------------------


def test_nobody_takes_it_for_a_replica() -> None:
    on = rehearsing(ProbeResult(True, LATER))
    plain = without(on.observed, "shop.rehearsal.")
    containers = on.observed.engine.containers
    tried = replica(on)
    assert tried not in by_app(containers)[0]["shop"]
    assert tried.id not in retiring(on.wanted.targets, containers)
    with_it, without_it = (steps(on.wanted, each, on.memory, LATER + 0.5) for each in (on.observed, plain))
    assert with_it.statuses == without_it.statuses
    assert route(on.wanted.targets, on.observed, on.memory) == route(on.wanted.targets, plain, on.memory)
    facts = Facts(
        on.wanted.targets["shop"],
        by_app(containers)[0]["shop"],
        on.observed,
        None,
        None,  # type: ignore[arg-type]  # no address is needed
        LATER,
        Timing(),
    )
    assert health_of(facts, moving=False) == ("Healthy", 1, 1)


def test_it_is_probed_as_its_own_version_is() -> None:
    old = desired(replace(SHOP, health=replace(HTTP, path="/old")), revision="0" * 40)
    on = host(old=old)
    on.do(next_actions(on)[0])
    watched = watch_list(on.wanted.targets, on.observed.engine.containers)
    assert watched[replica(on).id] == (replica(on).address, old.app.health)
    plain = wanted(NEW, revision="1" * 40)
    assert replica(on).id not in watch_list(plain.targets, on.observed.engine.containers)


def test_its_files_stay_and_its_image_too() -> None:
    old = replace(OLD, files_directory="/state/files/shop/old", secrets_directory="/run/secrets/shop/old")
    on = host(old=old)
    present = frozenset({old.files_directory, old.secrets_directory, "/state/files/shop/older"})
    on.observed = replace(on.observed, present=present)
    on.wanted = asking(old=old, way_back=replace(way(old=old), desired=None, passing=True))
    kept = [a.keep for a in next_actions(on) if isinstance(a, act.RemoveLeftovers)]
    assert kept == [frozenset()]
    on.wanted = asking(old=old)
    made = steps(on.wanted, on.observed, replace(on.memory, busy={"x": ""}), on.now)
    assert "Rehearse" not in kinds(made)
    on.do(next_actions(on)[0])
    on.observed = replace(on.observed, probes={**on.observed.probes, replica(on).id: ProbeResult(None, on.now)})
    kept = [a.keep for a in next_actions(on) if isinstance(a, act.RemoveLeftovers)]
    assert kept == [present - {"/state/files/shop/older"}]
    memory = replace(
        on.memory, versions={}, brought={"sha256:1": Brought(frozenset({"docker.io/library/shop:1"}), NOW)}
    )
    assert unneeded(on.wanted, on.observed.engine, memory, on.now) == []
    before = without(on.observed, "shop.rehearsal.")
    assert unneeded(on.wanted, before.engine, memory, on.now) == []
    assert unneeded(wanted(NEW), before.engine, memory, on.now) != []


# --- what people see --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [True, False])
def test_the_answer_is_a_condition_and_no_fault(ready: bool) -> None:  # noqa: FBT001  (the answer)
    known = Rehearsed(NEW.fingerprint, OLD.fingerprint, ready, PASSED, "as it was", OLD.revision, LATER - 60)
    on = host(rehearsed={"shop": known})
    made = steps(on.wanted, on.observed, on.memory, on.now)
    status = made.statuses["shop"]
    (condition,) = [c for c in status.conditions if c.type == "RollbackReady"]
    assert (condition.status, condition.since, condition.revision) == (ready, LATER - 60, OLD.revision)
    assert (status.sync, status.health, made.converged, made.faults) == ("Synced", "Healthy", True, ())
    told = "shop could not go back: as it was; to rehearse it again: reconciler retry shop"
    assert made.notices == (() if ready else (("RollbackNotReady", told),))
    quiet = wanted(desired(replace(SHOP, rehearse_rollback=None), image="sha256:2", revision="1" * 40))
    off = steps(quiet, on.observed, on.memory, on.now).statuses["shop"].conditions
    assert "RollbackReady" not in {c.type for c in off}


def test_while_it_runs_the_walk_goes_on_being_asked() -> None:
    on = rehearsing()
    made = steps(on.wanted, on.observed, on.memory, on.now)
    assert made.converged
    assert made.wake_at is not None
    assert made.statuses["shop"].health == "Healthy"


# --- whole lives ------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sha256:1", "sha256:2", "sha256:3"]),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.integers(0, 14),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_whatever_is_committed_in_the_middle_a_rehearsal_harms_nobody(
    life: list[tuple[str, bool, bool, bool, int]],
) -> None:
    """It never shares a volume for writing, never has the name, is never two, and never outlives its question."""
    resolved: dict[str, DesiredApp] = {}
    on: Paper | None = None
    last = OLD
    for number, (image, probed, volume, asks, most) in enumerate([*life, (*life[-1][:4], 500)]):
        manifest = app(rehearse_rollback=Rehearsal() if asks else None)
        manifest = replace(manifest, health=HTTP) if probed else manifest
        manifest = replace(manifest, volumes=(Volume("data", "/data"),)) if volume else manifest
        tip = desired(manifest, image=image, revision=f"{number:040}")
        resolved.setdefault(tip.fingerprint, tip)
        if on is None:
            end = converged(tip, revision=tip.revision)
            on = paper(end.observed, end.memory, end.wanted, LATER)
        _follow(on, tip, resolved, most)
        last = tip
    assert on is not None
    assert {c.claim.role for c in on.observed.engine.containers if c.claim} == {"replica"}
    assert unanswered(last, on.memory.applied["shop"], on.memory) is None


def _follow(on: Paper, tip: DesiredApp, resolved: dict[str, DesiredApp], most: int) -> None:
    on.now += 5
    for _ in range(most):
        before = unanswered(tip, on.memory.applied.get("shop"), on.memory)
        target = Target("shop", tip)
        if before is not None:
            target = replace(target, way_back=way(tip, resolved[before.fingerprint]))
        on.wanted = wanted(shop=target, revision=tip.revision)
        made = steps(on.wanted, on.observed, on.memory, on.now)
        for action in made.actions:
            on.do(action)
            _check(on)
        if not made.actions and made.wake_at is None:
            return
        on.now = on.now if made.actions else max(made.wake_at or 0, on.now + 0.01)


def _check(on: Paper) -> None:
    tried = [c for c in on.observed.engine.containers if is_rehearsal(c)]
    assert len(tried) <= 1
    for container in tried:
        assert not container.writes
        assert not container.host_ports
        assert container.address not in on.name("shop").written


def test_after_deploy_comes_first() -> None:
    later = replace(SHOP, after_deploy=Task(("warm",)))
    new = desired(later, image="sha256:2", revision="1" * 40)
    on = host(new)
    due = Due(new.fingerprint, Way(), LATER)
    assert kinds_of(next_actions(on, due={"shop": due})) == ["RunTask"]
    assert kinds_of(next_actions(on, due={"shop": replace(due, cause="AfterDeployFailed", message="x")})) == []
    assert kinds_of(next_actions(on)) == ["Rehearse"]
