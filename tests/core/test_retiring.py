from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, SUBNET, app, container, converged, desired, kinds, steps, wanted

from reconciler.core import actions as act
from reconciler.core.memory import Applied
from reconciler.core.observed import NameState
from reconciler.core.simulate import forecast
from reconciler.core.slots import names_of
from reconciler.core.target import Blocked, Target

LATER = NOW + 10_000


def test_old_is_not_stopped_while_someone_is_connected_but_not_for_ever() -> None:
    before = converged(desired(app()))
    new = desired(app(), image="sha256:2")
    halfway = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    old = container(before, "shop.1.")
    start = next(e.action for e in halfway.events if isinstance(e.action, act.StartReplica))
    new_container = container(halfway, start.name)
    observed = replace(
        before.observed,
        engine=replace(before.observed.engine, containers=(old, new_container)),
        probes=halfway.observed.probes,
        names=replace(
            before.observed.names,
            names={"shop": NameState((new_container.address or "",), LATER + 5, (new_container.address or "",))},
        ),
        connections={old.id: 3},
    )
    memory = replace(before.memory, applied={"shop": Applied("a" * 40, new.fingerprint, LATER)})
    waiting = steps(wanted(new), observed, memory, LATER + 10)
    assert waiting.actions == ()
    assert waiting.statuses["shop"].reason == "Draining"
    assert waiting.wake_at == pytest.approx(LATER + 10.25)
    drained = steps(wanted(new), observed, memory, LATER + 5 + 32.3)
    assert kinds(drained) == ["StopContainer", "RemoveContainer"]


@pytest.mark.parametrize(
    ("answered", "up_since"),
    [(("10.201.9.9",), 0.0), (None, None), ("written", LATER + 6)],
    ids=["stale", "down", "cold"],
)
def test_a_switch_is_not_complete_before_the_names_service_answers_it(answered: Any, up_since: float | None) -> None:
    before = converged(desired(app()))
    new = desired(app(), image="sha256:2")
    end = forecast(wanted(new), before.observed, before.memory, SUBNET, LATER)
    both = (container(before, "shop.1."), container(end, "shop.1."))
    written = end.observed.names.names["shop"].written
    name = NameState(written, LATER, written if answered == "written" else answered)
    observed = replace(
        end.observed,
        engine=replace(end.observed.engine, containers=both),
        names=replace(end.observed.names, up_since=up_since, names={"shop": name}),
    )
    made = steps(end.wanted, observed, end.memory, LATER + 8)
    assert "StopContainer" not in kinds(made)
    assert made.wake_at is not None


def test_removal_takes_the_name_first_and_keeps_others() -> None:
    before = converged(desired(app()), desired(app("other")))
    end = forecast(wanted(desired(app("other"))), before.observed, before.memory, SUBNET, LATER)
    assert [type(e.action).__name__ for e in end.events] == [
        "SetName",
        "StopContainer",
        "RemoveContainer",
        "RecordPruned",
    ]
    assert "shop" not in end.memory.applied


def test_a_slot_that_has_not_settled_keeps_old_replicas_like_the_name() -> None:
    before = converged(desired(app(replicas=2)))
    one, two = (container(before, f"shop.{number}.").address or "" for number in (1, 2))
    fewer = wanted(desired(app(replicas=1)))
    name = NameState((one,), NOW, (one,))
    for slot in (
        NameState((one,), LATER - 1, (one,)),
        NameState((one,), NOW, (one, two)),
        NameState((one,), NOW, (one,), LATER - 1),
    ):
        names = replace(before.observed.names, names={"shop": name, **dict.fromkeys(names_of("shop"), slot)})
        made = steps(fewer, replace(before.observed, names=names), before.memory, LATER)
        assert "StopContainer" not in kinds(made)
        assert made.wake_at is not None
    settled = replace(before.observed.names, names={"shop": name, **dict.fromkeys(names_of("shop"), name)})
    made = steps(fewer, replace(before.observed, names=settled), before.memory, LATER)
    assert "StopContainer" in kinds(made)


def test_where_no_version_is_known_whoever_is_gone_leaves_the_slots_too() -> None:
    before = converged(desired(app(replicas=2)))
    one, two = (container(before, f"shop.{number}.").address or "" for number in (1, 2))
    states = {"shop": NameState((one,), NOW, (one,)), "shop_1": NameState((two,), NOW, (two,))}
    names = replace(before.observed.names, names=states)
    left = tuple(c for c in before.observed.engine.containers if c.address != two)
    observed = replace(before.observed, names=names, engine=replace(before.observed.engine, containers=left))
    made = steps(wanted(shop=Target("shop", None, Blocked("DecryptNoKey", ""))), observed, before.memory, LATER)
    assert [action.slots for action in made.actions if isinstance(action, act.SetSlots)] == [(("shop_1", (one,)),)]
