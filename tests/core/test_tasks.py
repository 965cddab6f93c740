from __future__ import annotations

from dataclasses import replace

from harness.builders import NOW, SUBNET, app, container, converged, desired, kinds, order, steps, wanted, without

from reconciler.core.model import Task
from reconciler.core.simulate import forecast

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
