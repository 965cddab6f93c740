"""Whole lives of apps on paper. Properties are stated as what never happens, whatever comes in the middle."""

from __future__ import annotations

from dataclasses import replace

from harness.builders import NOW, SUBNET, app, changed, converged, desired, wanted
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import actions as act
from reconciler.core.memory import Memory
from reconciler.core.model import App, Health, Task, Volume
from reconciler.core.observed import Container, Observed
from reconciler.core.plan import plan
from reconciler.core.rollout import strategy_of
from reconciler.core.simulate import Paper, by_app, empty_host, forecast
from reconciler.core.target import DesiredApp
from reconciler.core.wanted import Wanted

versions = st.builds(
    lambda image, replicas, probed, volume: (image, replicas, probed, volume),
    image=st.sampled_from(["sha256:1", "sha256:2", "sha256:3"]),
    replicas=st.integers(1, 3),
    probed=st.booleans(),
    volume=st.booleans(),
)
lives = st.lists(st.tuples(versions, st.integers(0, 12)), min_size=2, max_size=6)


def version(image: str, replicas: int, probed: bool, volume: bool) -> DesiredApp:  # noqa: FBT001  (drawn)
    made = app(replicas=replicas)
    if probed:
        made = replace(made, health=Health("http", port=80))
    if volume:
        made = replace(made, volumes=(Volume("data", "/data"),))
    return desired(made, image=image)


def check(paper: Paper, action: act.Action, manifest: App) -> None:
    """What must never be done."""
    containers = {c.id: c for c in paper.observed.engine.containers}
    name = paper.name("shop")
    recreate = strategy_of(manifest)[0] == "recreate"
    match action:
        case act.StopContainer():
            address = containers[action.container].address
            assert address not in name.written, "a replica is stopped that its name still answers"
            assert recreate or name.written, "the last replica is stopped"
        case act.RemoveContainer():
            assert containers[action.container].state != "running", "a running container is removed"
        case act.StartReplica():
            assert action.name not in {c.name for c in containers.values()}, "a name is used twice"
            assert action.address not in {c.address for c in containers.values()}, "an address is used twice"
            if recreate:
                others = [
                    c
                    for c in containers.values()
                    if c.claim and c.claim.fingerprint != action.desired.fingerprint and c.state == "running"
                ]
                assert not others, "two versions share a volume"
        case act.SetName():
            running = {c.address for c in containers.values() if c.state == "running"}
            assert set(action.addresses) <= running, "the name answers somebody who does not run"
            serving = running & set(name.written)
            if not recreate and serving:
                assert action.addresses, "the name is emptied although somebody serves"
            if strategy_of(manifest)[0] == "rolling":
                least = min(len(serving), manifest.replicas)
                assert len(action.addresses) >= least, "fewer serve in the middle of a rollout"
        case _:
            pass


def play(asked: Wanted, observed: Observed, memory: Memory, now: float, most: int | None) -> Paper:
    """Follow the plan for so many actions, or to its end."""
    paper = Paper(observed, memory, asked, now)
    done = 0
    for _ in range(500):
        made = plan(paper.wanted, paper.observed, paper.memory, SUBNET, paper.now)
        if not made.actions:
            if made.wake_at is None:
                assert made.converged
                return paper
            paper.now = max(made.wake_at, paper.now + 0.01)
            continue
        target = paper.wanted.targets["shop"].desired
        assert target is not None
        for action in made.actions:
            if most is not None and done >= most:
                return paper
            check(paper, action, target.app)
            paper.do(action)
            done += 1
    raise AssertionError("it never ends")


@given(lives)
def test_commits_in_the_middle_of_rollouts_never_do_harm_and_the_last_one_wins(
    life: list[tuple[tuple[str, int, bool, bool], int]],
) -> None:
    paper = play(wanted(version(*life[0][0])), empty_host(), Memory(), NOW, None)
    for drawn, most in life[1:]:
        paper = play(wanted(version(*drawn)), paper.observed, paper.memory, paper.now + 30, most)
    last = version(*life[-1][0])
    paper = play(wanted(last), paper.observed, paper.memory, paper.now + 30, None)
    replicas = [c for c in paper.observed.engine.containers if c.claim]
    assert {c.claim.fingerprint for c in replicas if c.claim} == {last.fingerprint}
    assert len(replicas) == last.app.replicas
    assert set(paper.name("shop").written) == {c.address for c in replicas}
    assert paper.memory.applied["shop"].fingerprint == last.fingerprint


def test_a_forecast_counts_how_long_an_app_is_down() -> None:
    stateful = app(volumes=(Volume("data", "/data"),))
    before = converged(desired(stateful))
    end = forecast(wanted(desired(stateful, image="sha256:2")), before.observed, before.memory, SUBNET, NOW + 9000)
    assert set(end.down) == {"shop"}
    assert 0.2 < end.down["shop"] < 5


def test_events_are_told_app_by_app_in_the_order_in_which_apps_come() -> None:
    end = converged(desired(app("web", depends_on=("db",))), desired(app("db")))
    assert [name for name, _ in by_app(end.events) if name] == ["db", "web"]


def test_a_task_that_runs_ends_well() -> None:
    manifest = app(before_deploy=Task(("migrate",)), after_deploy=Task(("warm",)))
    old, new = desired(manifest), desired(manifest, image="sha256:2")
    before = converged(old)
    for role in ("task", "after"):
        paper = Paper(before.observed, before.memory, wanted(new), NOW + 1000)
        while not any(c.claim and (c.claim.role, c.claim.fingerprint) == (role, new.fingerprint) for c in tasks(paper)):
            made = plan(paper.wanted, paper.observed, paper.memory, SUBNET, paper.now)
            for action in made.actions:
                paper.do(action)
                if isinstance(action, act.RunTask) and action.role == role:
                    break
            paper.now = max(paper.now, made.wake_at or 0)
        for state in ("running", "paused", "created"):
            begun = changed(paper.observed, tasks(paper)[-1].name, state=state, exit_code=None, finished_at=0.0)
            end = forecast(paper.wanted, begun, paper.memory, SUBNET, paper.now)
            assert end.end.converged
            assert not any(isinstance(e.action, act.Quarantine | act.AfterDeployFailed) for e in end.events)


def tasks(paper: Paper) -> list[Container]:
    return [c for c in paper.observed.engine.containers if c.claim and c.claim.role != "replica"]
