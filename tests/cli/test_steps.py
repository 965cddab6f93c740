from __future__ import annotations

from dataclasses import replace

from harness.builders import app, desired

from reconciler.cli.steps import Kind, Scene, noticeable, steps_of
from reconciler.core import actions as act
from reconciler.core.model import App, Health, Task
from reconciler.core.observed import Limits

SHOP = app()


def scene(kind: Kind, one: App | None = SHOP, *, recreate: bool = False, answers: bool = True) -> Scene:
    return Scene("shop", kind, one, "recreate" if recreate else "blue_green", answers)


def test_book_keeping_is_not_worth_a_step() -> None:
    made = desired(SHOP)
    assert not noticeable(act.RecordApplied("shop", "", made))
    assert not noticeable(act.RecordPruned("shop", ""))
    assert not noticeable(act.RemoveLeftovers("", "", frozenset()))
    assert not noticeable(act.CollectImage("", "", "sha256:1", frozenset()))
    assert not noticeable(act.RemoveContainer("shop", "", "1", "shop.before.12345678", ""))
    assert noticeable(act.RemoveContainer("shop", "", "1", "shop.1.12345678", ""))
    assert steps_of([act.RecordApplied("shop", "", made)], scene("upgrade")) == ()


def test_a_step_waits_for_dependencies_after_what_can_be_done_before() -> None:
    made = desired(SHOP)
    actions: list[act.Action] = [
        act.PullImage("shop", "", "shop:2", None, ""),
        act.StartReplica("shop", "", made, 1, "", "shop.1.x"),
    ]
    lines = steps_of(actions, replace(scene("upgrade"), waits_for=("api", "db")))
    assert lines[:3] == (
        "pull shop:2",
        "wait until api and db are healthy at this revision",
        "start the new replica beside the old",
    )


def test_a_version_that_is_given_up() -> None:
    quarantine = act.Quarantine("shop", "", desired(app()), "CrashLoop", "it crashed", None)
    assert steps_of([quarantine], scene("upgrade")) == (
        "give this version up: it is not tried again before a commit changes it",
    )


def test_gentle_repairs() -> None:
    actions: list[act.Action] = [
        act.Unpause("shop", "", "1", "shop.1.x"),
        act.Reconnect("shop", "", "1", "shop.1.x", "10.0.0.1"),
        act.UpdateLimits("shop", "", "1", "shop.1.x", Limits(None, 1, 1, restart=True)),
    ]
    assert steps_of(actions, scene("repair")) == (
        ("let shop.1.x go on, then connect shop.1.x to the network again, then set the limits of shop.1.x back"),
    )


def test_a_task_that_was_made_but_not_started_is_run() -> None:
    one = replace(SHOP, before_deploy=Task(("sh", "-c", "x" * 100), timeout=90))
    start = act.StartContainer("shop", "", "1", "shop.before.12345678")
    (line,) = steps_of([start], scene("upgrade", one))
    assert line.startswith("run before_deploy: sh -c xxx")
    assert line.endswith("... (at most 1 min 30 s); if it fails nothing changes")
    assert steps_of([start], scene("upgrade")) == ("run before_deploy",)


def test_health_is_told_as_it_is_asked() -> None:
    start = [act.StartContainer("shop", "", "1", "shop.1.x")]
    checks = {
        "wait until healthy: GET :80/up (at most 2 min)": Health("http", path="/up", port=80),
        "wait until healthy: port 5432 accepts connections (at most 2 min)": Health("tcp", port=5432),
        "wait until healthy: pg_isready -q (at most 2 min)": Health("command", command=("pg_isready", "-q")),
        "wait until healthy (at most 2 min)": Health("engine"),
    }
    for text, health in checks.items():
        assert steps_of(start, scene("repair", replace(SHOP, health=health))) == ("start shop.1.x again", text)
    assert steps_of(start, scene("repair", None))[-1] == "wait until healthy"


def test_the_signal_and_the_grace_are_the_manifests() -> None:
    actions: list[act.Action] = [
        act.StopContainer("shop", "", "1", "shop.1.x", 45),
        act.RemoveContainer("shop", "", "1", "shop.1.x", "f"),
    ]
    assert steps_of(actions, scene("upgrade", replace(SHOP, stop_signal="SIGQUIT"), recreate=True)) == (
        "stop the old replica (SIGQUIT, SIGKILL after 45 s) and remove it",
    )


def test_what_the_engine_lost_is_removed() -> None:
    lost = act.RemoveContainer("shop", "the engine lost shop.1.x", "1", "shop.1.x", "f")
    assert steps_of([lost], scene("repair")) == ("remove shop.1.x",)
