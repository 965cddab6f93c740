from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.builders import app, desired
from harness.waiting import eventually
from harness.walk import Walk

from reconciler.apply import Apply, _Chain, _Pool, perform
from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.memory import Rehearsed, Way
from reconciler.core.model import Health, Rehearsal, SecretsFile, Task, Volume
from reconciler.core.rehearsal import prepared
from reconciler.errors import ReconcilerError, Unavailable


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    try:
        yield walk
    finally:
        walk.close()


def blocking(walk: Walk, method: str) -> Callable[[], None]:
    """Let an engine call wait until the returned function is called."""
    gate = threading.Event()
    real = getattr(walk.engine, method)

    def wait(*arguments: object) -> object:
        gate.wait(20)
        return real(*arguments)

    setattr(walk.engine, method, wait)
    return gate.set


def ended(apply: Apply) -> list[tuple[str, str | None]]:
    return [(type(o.action).__name__, o.error.reason if o.error else None) for o in apply.outcomes()]


def test_actions_of_a_lane_run_in_order_and_a_failure_drops_the_rest(walk: Walk) -> None:
    walk.engine.fail["pull"] = Unavailable("no answer", reason="RegistryUnavailable")
    actions: list[act.Action] = [
        act.EnsureNetwork("", "why"),
        act.PullImage("shop", "why", "shop:1", None, "r"),
        act.SetName("shop", "why", ("10.0.0.1",)),
        act.StartContainer("shop", "why", "nobody", "nobody"),
        act.SetName("shop", "why", ()),
    ]
    walk.apply.start(actions)
    eventually(lambda: not walk.apply.busy)
    outcomes = ended(walk.apply)
    assert ("PullImage", "RegistryUnavailable") in outcomes
    assert ("SetName", None) in outcomes
    assert len(outcomes) == 4  # what came after the container that does not exist was dropped
    assert walk.names.observe(["shop"]).names["shop"].written == ("10.0.0.1",)


def test_a_slow_app_never_holds_up_another_and_takes_nothing_new_meanwhile(walk: Walk) -> None:
    go_on = blocking(walk, "pull")
    pulls: list[act.Action] = [act.PullImage(f"app{n}", "slow", f"app{n}:1", None, "r") for n in range(20)]
    walk.apply.start(pulls)
    walk.apply.start([act.SetName("shop", "quick", ("10.0.0.1",))])
    eventually(lambda: [o.action.app for o in walk.apply.outcomes()] == ["shop"])
    assert walk.apply.busy["pull:app0"] == "slow"
    walk.apply.start([act.PullImage("app0", "again", "app0:2", None, "r")])
    assert walk.apply.busy["pull:app0"] == "slow"
    go_on()
    eventually(lambda: not walk.apply.busy)


def test_stop_waits_a_while_begins_nothing_more_and_says_whether_all_has_ended(walk: Walk) -> None:
    go_on = blocking(walk, "pull")
    walk.apply.start([act.PullImage("shop", "slow", "shop:1", None, "r")])
    began = time.monotonic()
    assert not walk.apply.stop(0.2)
    assert time.monotonic() - began < 5
    walk.apply.start([act.SetName("shop", "late", ())])
    assert "shop" not in walk.apply.busy
    go_on()
    assert walk.apply.stop(5)


def test_an_error_that_nobody_foresaw_is_an_outcome_too(walk: Walk) -> None:
    def burst(_reference: str, _credentials: object) -> str:
        raise ZeroDivisionError("secret detail")

    walk.engine.pull = burst  # type: ignore[method-assign,assignment]
    walk.apply.start([act.PullImage("shop", "why", "shop:1", None, "r")])
    outcomes = eventually(walk.apply.outcomes)
    error = outcomes[0].error
    assert isinstance(error, ReconcilerError)
    assert error.reason == "InternalError"
    assert "secret detail" not in str(error)


def test_a_replica_is_created_with_its_claim_and_started(walk: Walk) -> None:
    image = walk.engine.add_image("shop:1")
    made = desired(app(), image=image)
    perform(act.EnsureNetwork("", "why"), walk.hands)
    perform(act.StartReplica("shop", "why", made, 2, "10.77.0.9", "shop.2.abc"), walk.hands)
    container = walk.engine.named("shop.2.abc")
    assert container.owned
    assert container.claim is not None
    assert (container.claim.slot, container.claim.role, container.state) == (2, "replica", "running")
    assert container.claim.fields == made.fields


def test_slots_are_written_in_order_and_go_with_their_app(walk: Walk) -> None:
    walk.names.prepare()
    perform(act.SetName("shop", "why", ("10.0.0.1",)), walk.hands)
    every = tuple((slot, ("10.0.0.1",)) for slot in slots.names_of("shop"))
    perform(act.SetSlots("shop", "why", every), walk.hands)
    perform(act.SetSlots("shop", "why", (("shop_2", ("10.0.0.2",)),), 2), walk.hands)
    written = {name: state.written for name, state in walk.names.observe(()).names.items()}
    assert written == {"shop": ("10.0.0.1",), **dict(every), "shop_2": ("10.0.0.2",)}
    perform(act.ForgetSlots("shop", "why"), walk.hands)
    assert set(walk.names.observe(()).names) == {"shop"}
    perform(act.SetSlots("shop", "why", every), walk.hands)
    perform(act.RecordPruned("shop", "why"), walk.hands)
    assert walk.names.observe(()).names == {}


def test_a_task_is_created_with_what_it_is_for(walk: Walk) -> None:
    made = desired(app(), image=walk.engine.add_image("shop:1"))
    perform(act.EnsureNetwork("", "why"), walk.hands)
    run = act.RunTask("shop", "why", made, "10.77.0.9", "shop.before.abc", made.spec, "task", "", ("shop.1.old",))
    perform(run, walk.hands)
    after = replace(run, name="shop.after.abc", address="10.77.0.10", role="after", run="12.000", well=())
    perform(after, walk.hands)
    claims = [walk.engine.named(name).claim for name in ("shop.before.abc", "shop.after.abc")]
    assert [(c.role, c.slot, c.run, c.well) for c in claims if c] == [
        ("task", 0, "", ("shop.1.old",)),
        ("after", 0, "12.000", ()),
    ]


def test_the_last_words_of_an_after_deploy_are_kept_without_secrets(walk: Walk) -> None:
    with_secret = app(secrets=SecretsFile("apps/shop/secrets.sops.yaml"), after_deploy=Task(("warm",)))
    made = desired(with_secret, image=walk.engine.add_image("shop:1"), secrets={"PASSWORD": b"hunter22"})
    perform(act.EnsureNetwork("", "why"), walk.hands)
    perform(act.RecordApplied("shop", "why", made, way=Way("back", "r", "shop:0")), walk.hands)
    assert walk.store.memory().due["shop"].way == Way("back", "r", "shop:0")
    perform(act.RunTask("shop", "why", made, "10.77.0.9", "shop.after.abc", made.spec, "after"), walk.hands)
    container = walk.engine.named("shop.after.abc").id
    walk.engine.set_logs(container, "cannot log in as hunter22\n")
    perform(act.AfterDeployFailed("shop", "why", made, "AfterDeployFailed", "it ended", container), walk.hands)
    assert walk.store.memory().due["shop"].logs == "cannot log in as ***\n"
    perform(act.AfterDeployDone("shop", "why", made), walk.hands)
    assert walk.store.memory().due == {}


def test_the_last_words_of_a_failed_container_are_kept(walk: Walk) -> None:
    image = walk.engine.add_image("shop:1")
    perform(act.EnsureNetwork("", "why"), walk.hands)
    with_secret = app(secrets=SecretsFile("apps/shop/secrets.sops.yaml"))
    made = desired(with_secret, image=image, secrets={"PASSWORD": b"hunter22", "FLAG": b"1"})
    perform(act.StartReplica("shop", "why", made, 1, "10.77.0.9", "shop.1.abc"), walk.hands)
    container = walk.engine.named("shop.1.abc").id
    walk.engine.set_logs(container, "cannot reach the database as hunter22, try 1\n")
    perform(act.Quarantine("shop", "why", made, "CrashLoop", "it crashed", container), walk.hands)
    kept = walk.store.memory().quarantined["shop"]
    assert (kept.reason, kept.message) == ("CrashLoop", "it crashed")
    assert kept.logs == "cannot reach the database as ***, try 1\n"
    perform(act.Quarantine("shop", "why", made, "OutOfMemory", "it crashed", "gone"), walk.hands)
    assert walk.store.memory().quarantined["shop"].reason == "OutOfMemory"


def test_nobody_queues_behind_a_slow_chain_while_another_thread_may_be_made() -> None:
    go_on, ended = threading.Event(), threading.Semaphore(0)

    def work(chain: _Chain) -> None:
        if chain.lane == "slow":
            go_on.wait(10)
        ended.release()

    pool = _Pool(4, work)
    for _ in range(300):
        go_on.clear()
        for lane in ("slow", "quick"):
            pool.add(_Chain(lane, deque()))
        assert ended.acquire(timeout=5), "the quick one waits for the slow one"
        go_on.set()
        assert ended.acquire(timeout=5)


def test_a_rehearsal_has_its_own_files_and_secrets_and_goes_again(walk: Walk) -> None:
    image = walk.engine.add_image("shop:1")
    perform(act.EnsureNetwork("", "why"), walk.hands)
    old = app(secrets=SecretsFile("apps/shop/secrets.sops.yaml"), volumes=(Volume("data", "/data"),))
    made = desired(old, image=image, secrets={"PASSWORD": b"hunter22"})
    root = walk.memory / "secrets" / "shop" / "1a2b"
    made = prepared(replace(made, secrets_directory=str(root)), made.fingerprint, "applied", Rehearsal())
    begin = act.Rehearse("shop", "why", made, "10.77.0.9", "shop.rehearsal.abc")
    perform(begin, walk.hands)
    container = walk.engine.named("shop.rehearsal.abc")
    assert container.claim is not None
    assert (container.owned, container.claim.role, container.claim.slot) == (True, "rehearsal", 0)
    assert container.claim.fields == made.fields
    assert (root / "PASSWORD").read_bytes() == b"hunter22"
    assert all(mount.read_only for mount in walk.engine.spec_of(container.id).mounts)
    walk.engine.set_logs(container.id, "I am hunter22\nno such column: total\n\n")
    answer = Rehearsed("applied", made.fingerprint, False, "RehearsalFailed", "it ended", "r" * 40, 1.0)
    record = act.RecordRehearsal("shop", "it ended", answer, made, container.id)
    perform(record, walk.hands)
    kept = walk.store.memory().rehearsed["shop"]
    assert kept.logs == "I am ***\nno such column: total\n\n"
    assert kept.message == "it ended; it said last: no such column: total"
    assert walk.store.history("shop", 1)[0].event == "rehearsed"
    perform(replace(record, answer=replace(answer, ready=True)), walk.hands)
    assert walk.store.memory().rehearsed["shop"].logs == ""
    perform(act.EndRehearsal("shop", "why", container.id, container.name, 1.0), walk.hands)
    assert walk.running() == []
    assert act.lane(begin) not in walk.apply.busy


def test_what_a_healthcheck_printed_is_among_the_last_words(walk: Walk) -> None:
    image = walk.engine.add_image("shop:1")
    perform(act.EnsureNetwork("", "why"), walk.hands)
    made = desired(app(health=Health("command", command=("./check",))), image=image)
    perform(act.StartReplica("shop", "why", made, 1, "10.77.0.9", "shop.1.abc"), walk.hands)
    container = walk.engine.named("shop.1.abc").id
    walk.engine.set_logs(container, "listening\n")
    walk.engine.set_checked(container, "no such table: orders")
    perform(act.Quarantine("shop", "why", made, "DeadlineExceeded", "it was late", container), walk.hands)
    assert walk.store.memory().quarantined["shop"].logs == "listening\nno such table: orders"
