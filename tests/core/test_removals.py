from __future__ import annotations

from dataclasses import replace

from harness.builders import NOW, SUBNET, app, converged, desired, kinds, steps, wanted

from reconciler.core import actions as act
from reconciler.core.model import BrokenManifest
from reconciler.core.removals import PRUNE_BLOCKED
from reconciler.core.simulate import forecast
from reconciler.core.target import Blocked, Target

LATER = NOW + 10_000


def test_mass_removal_waits_for_a_person() -> None:
    before = converged(*[desired(app(name)) for name in ("a", "b", "c", "d", "e")])
    asked = wanted(desired(app("a")), desired(app("b")), revision="b" * 40)
    refused = steps(asked, before.observed, before.memory, LATER)
    assert refused.prune_blocked == 3
    assert not refused.converged
    assert "reconciler accept bbbbbbbb" in refused.faults[0][1]
    assert "StopContainer" not in kinds(refused)
    # Once they have targets that keep them, the answer is the same, and what they lose is repaired.
    held = {name: Target(name, desired(app(name)), Blocked(PRUNE_BLOCKED, "why")) for name in ("c", "d", "e")}
    kept = replace(asked, targets={**asked.targets, **held})
    there = tuple(c for c in before.observed.engine.containers if not c.name.startswith("c"))
    less = replace(before.observed, engine=replace(before.observed.engine, containers=there))
    made = steps(kept, less, before.memory, LATER)
    assert (made.prune_blocked, made.faults) == (3, refused.faults)
    assert "StartReplica" in kinds(made)
    assert made.statuses["d"].reason == PRUNE_BLOCKED
    accepted = replace(before.memory, accepted=frozenset({"b" * 40}))
    assert kinds(steps(asked, before.observed, accepted, LATER)).count("SetName") == 3
    two = wanted(*[desired(app(name)) for name in ("a", "b", "c")], revision="b" * 40)
    assert steps(two, before.observed, before.memory, LATER).prune_blocked == 0
    assert steps(wanted(revision="b" * 40), before.observed, before.memory, LATER).prune_blocked == 5


def test_replacing_every_app_by_new_ones_is_a_mass_removal_also_once_the_new_ones_run() -> None:
    old, new = [desired(app(name)) for name in ("a", "b", "c")], [desired(app(name)) for name in ("d", "e", "f", "g")]
    before = converged(*old)
    asked = replace(wanted(*new, revision="b" * 40), before={"a": (), "b": (), "c": ()})
    end = forecast(asked, before.observed, before.memory, SUBNET, LATER)
    assert end.end.prune_blocked == 3
    assert {c.name[0] for c in end.observed.engine.containers} == set("abcdefg")


def test_what_needs_an_app_goes_before_it() -> None:
    db, api, web = app("db"), app("api", depends_on=("db",)), app("web", depends_on=("api", "db"))
    rest = [desired(app(name)) for name in ("x", "y", "z")]
    before = converged(desired(db), desired(api), desired(web), *rest)
    known = {one.name: one.depends_on for one in (db, api, web, *(one.app for one in rest))}
    asked = replace(wanted(*rest, revision="b" * 40), before=known)
    made = steps(asked, before.observed, before.memory, LATER)
    assert "first goes what needs it: api, web" in made.statuses["db"].message
    end = forecast(asked, before.observed, before.memory, SUBNET, LATER)
    gone = [event.action.app for event in end.events if isinstance(event.action, act.RecordPruned)]
    assert gone == ["web", "api", "db"]


def test_what_a_suspended_app_needs_stays_and_those_that_need_each_other_go() -> None:
    db, web = app("db"), app("web", depends_on=("db",))
    rest = [desired(app(name)) for name in ("x", "y", "z")]
    before = converged(desired(db), desired(web), *rest)
    known = {one.name: one.depends_on for one in (db, web, *(one.app for one in rest))}
    held = Target("web", desired(web), Blocked("Suspended", "why"))
    asked = replace(wanted(*rest, web=held, revision="b" * 40), before=known)
    made = steps(asked, before.observed, before.memory, LATER)
    assert "first goes what needs it: web" in made.statuses["db"].message
    circle = replace(wanted(*rest, revision="b" * 40), before={**known, "db": ("web",)})
    end = forecast(circle, before.observed, before.memory, SUBNET, LATER)
    assert {c.name.partition(".")[0] for c in end.observed.engine.containers} == {"x", "y", "z"}


def test_a_manifest_that_cannot_be_read_bars_every_removal() -> None:
    before = converged(desired(app()), desired(app("other")), desired(app("third")))
    asked = wanted(desired(app("other")), desired(app("third")))
    broken = replace(asked, catalog=replace(asked.catalog, broken=(BrokenManifest("new/app.yaml", None),)))
    made = steps(broken, before.observed, before.memory, LATER)
    assert made.prune_blocked == 1
    assert "new/app.yaml" in made.faults[0][1]
    known = replace(asked, catalog=replace(asked.catalog, broken=(BrokenManifest("apps/other/app.yaml", None),)))
    assert steps(known, before.observed, before.memory, LATER).prune_blocked == 0
