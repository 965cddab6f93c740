from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import changed
from harness.plans import DB, LATER, SHOP, SITUATIONS, Situation, asked, new

from reconciler.cli.outlook import Outlook, forecast_exit_code, in_sync, outlook
from reconciler.core.memory import Brought, Due, Way
from reconciler.core.model import Health, Rehearsal, Task
from reconciler.core.rehearsal import prepared
from reconciler.core.simulate import Paper
from reconciler.core.target import WayBack


def look(situation: Situation) -> Outlook:
    return outlook(situation.forecast, situation.start, situation.observed, situation.applied)


@pytest.mark.parametrize("name", SITUATIONS)
def test_only_a_host_on_which_nothing_is_to_do_is_in_sync(name: str) -> None:
    situation = SITUATIONS[name]()
    code = 0 if name in {"nothing-to-do", "no-apps"} else 2
    assert forecast_exit_code(situation.forecast, situation.start) == code
    assert in_sync(situation.forecast, situation.start) is (code == 0)


def test_apps_come_in_the_order_in_which_they_change() -> None:
    assert [change.app for change in look(SITUATIONS["dependencies"]()).changes] == ["db", "api", "web"]


def test_problems_are_told_once() -> None:
    seen = look(SITUATIONS["broken-manifest"]())
    assert [problem.line for problem in seen.standing[0].problems] == [4, 9]
    assert [problem.severity for problem in seen.problems] == ["warning"]


def test_a_warning_alone_does_not_stand_in_the_way() -> None:
    broken, calm = SITUATIONS["broken-manifest"](), SITUATIONS["nothing-to-do"]()
    warnings = tuple(p for p in broken.asked.catalog.problems if p.severity == "warning")
    warned = replace(calm, asked=replace(calm.asked, catalog=replace(calm.asked.catalog, problems=warnings)))
    assert forecast_exit_code(warned.forecast, warned.start) == 0
    assert look(warned).problems == warnings


def test_what_runs_instead_is_named() -> None:
    standing = {one.app: one.runs for name in ("waiting", "stalled") for one in look(SITUATIONS[name]()).standing}
    assert standing["api"] == "api:1 of aaaaaaaa runs (1 replica)"
    assert standing["shop"] == "shop:1 of aaaaaaaa runs (2 replicas)"
    assert look(SITUATIONS["broken-before-it-ever-ran"]()).standing[0].runs == "nothing of it runs"


def test_a_rehearsal_that_may_follow_is_none_of_the_time_that_it_takes() -> None:
    plain = SITUATIONS["upgrade"]()
    db = plain.asked.targets["db"].desired
    assert db is not None
    slow = replace(db, app=replace(db.app, health=Health("tcp", port=1, min_healthy_time=500)), fingerprint="older")
    asks = replace(db, app=replace(db.app, rehearse_rollback=Rehearsal()))
    way = WayBack(db.fingerprint, "older", "0" * 40, prepared(slow, "older", db.fingerprint, Rehearsal()))
    target = replace(plain.asked.targets["db"], desired=asks, way_back=way)
    also = replace(plain, asked=replace(plain.asked, targets={**plain.asked.targets, "db": target}))
    assert any(type(event.action).__name__ == "Rehearse" for event in also.forecast.events)
    assert look(also).changes == look(plain).changes
    assert look(also).seconds < look(plain).seconds + 1


def test_a_refused_removal_is_told_once_and_for_all_its_apps() -> None:
    seen = look(SITUATIONS["mass-removal"]())
    assert "api, db, mail" in seen.refused
    assert seen.standing == ()
    assert seen.faults == ()


def test_nginx_is_only_reloaded_for_routes() -> None:
    reloads = {name: look(SITUATIONS[name]()).nginx for name in ("upgrade", "routes", "first-deployment")}
    assert [(n.reloads, n.running, n.routes) for n in reloads.values() if n] == [
        (False, True, ()),
        (True, True, ("shop",)),
        (True, False, ("shop",)),
    ]


def test_a_host_without_nginx_says_nothing_of_it() -> None:
    situation = SITUATIONS["recreate"]()
    assert look(replace(situation, observed=replace(situation.observed, site=None))).nginx is None


def test_an_image_that_goes_is_told_and_is_no_difference_by_itself() -> None:
    (note,) = look(SITUATIONS["old-images"]()).notes
    assert "registry.example.com/api:1" in note
    calm, name = SITUATIONS["nothing-to-do"](), "registry.example.com/old:1"
    engine = replace(calm.observed.engine, images={name: "sha256:old"})
    brought = {"sha256:old": Brought(frozenset({name}), 0.0), "sha256:gone": Brought(frozenset({"gone:1"}), 0.0)}
    situation = replace(
        calm, observed=replace(calm.observed, engine=engine), memory=replace(calm.memory, brought=brought)
    )
    (note,) = look(situation).notes
    assert name in note
    assert look(situation).in_sync
    assert forecast_exit_code(situation.forecast, situation.start) == 0


def under_way(state: str) -> Situation:
    """before_deploy of the new version is in this state."""
    situation = SITUATIONS["upgrade"]()
    host = Paper(situation.observed, situation.memory, situation.asked, LATER)
    for action in situation.start.actions:
        host.do(action)
    (task,) = (c for c in host.observed.engine.containers if ".before." in c.name)
    host.observed = changed(host.observed, task.name, state=state, started_at=LATER)
    return replace(situation, observed=host.observed)


def reverted(situation: Situation) -> Situation:
    return replace(situation, asked=SITUATIONS["nothing-to-do"]().asked)


def test_a_task_that_runs_is_taken_to_end_well_and_is_told_of() -> None:
    seen = look(under_way("running"))
    assert seen.standing == ()
    assert [change.kind for change in seen.changes] == ["upgrade"]
    assert seen.notes == ("shop: before_deploy of shop:2 (1a2b3c4d) is running now",)


@pytest.mark.parametrize(("state", "did"), [("running", "is cut short"), ("exited", "has begun")])
def test_going_back_says_that_a_migration_has_begun_whose_version_never_served(state: str, did: str) -> None:
    seen = look(reverted(under_way(state)))
    assert seen.standing == ()
    (note,) = seen.notes
    assert note.startswith(f"shop: before_deploy of shop:2 (1a2b3c4d) {did}; what it changed in the database stays")
    assert not any("connected" in step for change in seen.changes for step in change.steps)


def test_an_after_deploy_that_failed_counts_at_once_when_a_commit_changes_it() -> None:
    calm = SITUATIONS["nothing-to-do"]()
    old = replace(SHOP, after_deploy=Task(("warm",)))
    serves = calm.memory.applied["shop"].fingerprint
    mended = replace(calm, asked=asked(new(replace(SHOP, after_deploy=Task(("warm", "--all")))), new(DB)))
    mended = replace(mended, applied={"shop": old, "db": DB})
    assert look(mended).notes == ("shop: after_deploy changed; that counts from the next version on",)
    failed = Due(serves, Way(), LATER - 9, "AfterDeployFailed", "it failed", task="warm within 300 s")
    seen = look(replace(mended, memory=replace(mended.memory, due={"shop": failed})))
    assert seen.notes == ()
    assert [step[:16] for change in seen.changes for step in change.steps] == ["run after_deploy"]
