"""Whole lives of canaries, on paper: a host to which actions are done, and a clock that goes where the plan says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, app, changed, converged, desired, kinds, steps, wanted

from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.canary import counted
from reconciler.core.memory import Applied, Retry, Version
from reconciler.core.model import CanaryStep, Health, Ingress, Rollout
from reconciler.core.observed import Container, NamesState, NameState, ProbeResult, Traffic
from reconciler.core.plan import Plan
from reconciler.core.simulate import Paper
from reconciler.core.target import Blocked, DesiredApp, Target

LATER = NOW + 10_000
STEPS = (CanaryStep(10, 300.0), CanaryStep(50, 600.0))
ROLLOUT = Rollout("canary", steps=STEPS, drain=5.0)
SHOP = app(
    replicas=2,
    health=Health("http", port=80),
    ingress=(Ingress("a.example", "/", 80),),
    rollout=ROLLOUT,
)
OLD, NEW, NEWER = (desired(SHOP, image=f"sha256:{number}") for number in (1, 2, 3))


class Life:
    """One app's host. What it must never do is looked at after every action."""

    def __init__(self, old: DesiredApp = OLD, new: DesiredApp = NEW) -> None:
        before = converged(old)
        self.host = Paper(before.observed, before.memory, replace(before.wanted, split=frozenset({"shop"})), LATER)
        self.old, self.new = old, new
        self.traffic: dict[str, Traffic] = {}
        self.done: list[act.Action] = []
        self.ask(Target("shop", new, previous=old))

    def ask(self, target: Target) -> None:
        assert target.desired is not None
        asked = wanted(target.desired, shop=target)
        self.host.wanted = replace(asked, split=self.host.wanted.split)

    def look(self) -> Plan:
        observed = replace(self.host.observed, traffic=self.traffic)
        return steps(self.host.wanted, observed, self.host.memory, self.host.now)

    def do(self, *actions: act.Action) -> None:
        for action in actions:
            self._allowed(action)
            self.host.do(action)
            self.done.append(action)
            if isinstance(action, act.Quarantine):
                self.ask(Target("shop", self.old, Blocked(action.cause, action.message)))

    def _allowed(self, action: act.Action) -> None:
        """Nobody who may still be asked is stopped, and the name never answers nobody."""
        if isinstance(action, act.SetName):
            assert action.addresses
        if isinstance(action, act.StopContainer):
            names = self.host.observed.names
            stopped = next(c for c in self.host.observed.engine.containers if c.id == action.container)
            assert stopped.address not in slots.answering(names, "shop")
            every = [names.names["shop"], *slots.states(names, "shop").values()]
            assert all(self.host.now >= state.written_at + 2.19 for state in every)

    def run(self, until: Callable[[Plan], object] = lambda _: False, most: int = 500) -> Plan:
        """Until something is so, or nothing is left to do."""
        for _ in range(most):
            made = self.look()
            if until(made):
                return made
            self.do(*made.actions)
            if not made.actions:
                if made.wake_at is None:
                    return made
                self.host.now = max(made.wake_at, self.host.now + 0.01)
        raise AssertionError(self.look().statuses["shop"])

    def weight(self, version: DesiredApp | None = None) -> int:
        """Percent that a version gets from its slots."""
        theirs = set(self.addresses(version or self.new))
        found = slots.states(self.host.observed.names, "shop")
        sized = zip(slots.SIZES, slots.names_of("shop"), strict=True)
        return sum(size for size, slot in sized if slot in found and theirs & set(found[slot].written))

    def at(self, weight: int) -> Plan:
        """The first look at which the new version has so much, and nothing is to be done."""
        return self.run(lambda made: self.weight() == weight and not made.actions and made.wake_at)

    def containers(self, version: DesiredApp) -> list[Container]:
        every = self.host.observed.engine.containers
        return [c for c in every if c.claim and c.claim.fingerprint == version.fingerprint]

    def addresses(self, version: DesiredApp) -> list[str]:
        return sorted(c.address for c in self.containers(version) if c.address)

    def name(self) -> list[str]:
        return list(self.host.name("shop").written)

    def saw(self, version: DesiredApp, requests: int, errors: int, since: float = LATER) -> None:
        (first, *_) = self.addresses(version)
        self.traffic[first] = Traffic(requests, errors, since)

    def sicken(self, container: Container) -> None:
        probe = ProbeResult(healthy=False, since=self.host.now, message="GET /: 500")
        self.host.observed = replace(self.host.observed, probes={**self.host.observed.probes, container.id: probe})


def shares(life: Life) -> list[tuple[str, Any]]:
    """What was done to name and slots, in order."""
    found: list[tuple[str, Any]] = []
    for action in life.done:
        if isinstance(action, act.SetSlots):
            found.append(("slots", action.weight))
        elif isinstance(action, act.SetName):
            found.append(("name", "new" if set(action.addresses) & set(life.addresses(life.new)) else "old"))
    return found


# --- a life that goes well --------------------------------------------------------------------------------------------


def test_a_new_version_gets_its_share_step_by_step_and_then_everything() -> None:
    life = Life()
    began = life.host.now
    made = life.at(10)
    assert life.name() == life.addresses(OLD)
    assert made.statuses["shop"].reason == "Canary"
    assert "canary at 10 % for 5 more minutes: nginx has told of no request" in made.statuses["shop"].message
    life.saw(NEW, 1_234, 1)
    told = life.look().statuses["shop"].message
    assert told == "canary at 10 % for 5 more minutes: 1,234 requests, 0.1 % 5xx (old 0.0 %)"
    ten = life.host.now
    assert made.wake_at is not None
    assert made.wake_at == pytest.approx(ten + 2.2 + 300, abs=0.5)
    life.at(50)
    assert life.host.now >= ten + 302
    half = life.host.now
    assert life.name() == life.addresses(OLD)
    life.run(lambda _: life.name() == life.addresses(NEW))
    assert life.host.now >= half + 602
    end = life.run()
    assert end.converged
    assert shares(life) == [("slots", 10), ("slots", 50), ("name", "new"), ("slots", 0)]
    assert life.containers(OLD) == []
    assert life.host.now - began < 940  # settle and drain, and nothing else
    assert {state.written for state in slots.states(life.host.observed.names, "shop").values()} == {
        tuple(life.addresses(NEW))
    }


def test_the_first_deployment_takes_no_steps_and_makes_the_slots() -> None:
    end = converged(OLD)
    assert {a.action.weight for a in end.events if isinstance(a.action, act.SetSlots)} == {0}
    assert slots.are_there(end.observed.names, "shop")
    assert end.end.converged


def test_replicas_that_come_and_go_are_no_canary_and_the_slots_follow_the_name() -> None:
    three = desired(replace(SHOP, replicas=3))
    life = Life(new=three)
    assert life.run().converged
    assert {weight for kind, weight in shares(life) if kind == "slots"} == {0}
    found = slots.states(life.host.observed.names, "shop").values()
    assert {state.written for state in found} == {tuple(life.name())}


def test_a_way_back_takes_no_steps() -> None:
    life = Life()
    old = Version(OLD.fingerprint, "sha256:1", NOW, place=1)
    new = Version(NEW.fingerprint, "sha256:2", NOW, place=2)
    life.run()
    life.host.memory = replace(life.host.memory, versions={"shop": (new, old)})
    life.done.clear()
    life.old, life.new = NEW, OLD
    life.ask(Target("shop", OLD, previous=NEW))
    assert life.run().converged
    assert shares(life) == [("name", "new"), ("slots", 0)]


@pytest.mark.parametrize("weights", [(1, 2, 3), (20, 50), (5, 37, 99), (36, 63, 64)])
def test_on_the_way_from_step_to_step_nobody_new_has_more_than_is_meant(weights: tuple[int, ...]) -> None:
    rollout = replace(ROLLOUT, steps=tuple(CanaryStep(weight, 5.0) for weight in weights))
    life = Life(desired(replace(SHOP, rollout=rollout)), desired(replace(SHOP, rollout=rollout), image="sha256:2"))
    reached = []

    def follow(made: Plan) -> bool:
        for action in made.actions:
            if isinstance(action, act.SetSlots) and action.weight:
                for one in action.slots:  # as whoever is killed in the middle leaves it
                    life.host.do(replace(action, slots=(one,)))
                    assert life.weight() <= action.weight
                reached.append(action.weight)
        return False

    assert life.run(follow).converged
    assert reached == list(weights)


def test_nginx_has_to_deal_out_requests_before_there_are_steps() -> None:
    life = Life()
    life.host.wanted = replace(life.host.wanted, split=frozenset())
    made = life.run(lambda made: len(life.containers(NEW)) == 2 and not made.actions and made.wake_at is None)
    assert (made.statuses["shop"].reason, life.weight(), life.name()) == ("Canary", 0, life.addresses(OLD))
    assert "waiting until nginx" in made.statuses["shop"].message


def test_a_port_that_changes_is_no_canary_because_nginx_knows_one_at_a_time() -> None:
    other = desired(replace(SHOP, ingress=(Ingress("a.example", "/", 81),)), image="sha256:2")
    life = Life(new=other)
    assert life.run().converged
    assert ("slots", 10) not in shares(life)


# --- turned on, turned off --------------------------------------------------------------------------------------------


def test_slots_go_only_when_nginx_does_not_ask_for_them_any_more() -> None:
    life = Life()
    plain = desired(replace(SHOP, rollout=Rollout("blue_green")), image="sha256:1")
    life.ask(Target("shop", plain))
    assert kinds(life.look()) == []  # nginx has the form with slots
    life.host.wanted = replace(life.host.wanted, split=frozenset(), generation="generation-2")
    assert kinds(life.look()) == ["LoadSite"]
    life.do(*life.look().actions)
    site = life.host.observed.site
    assert site is not None
    # Who is still sending a large body to the nginx of before will ask for a slot when all of it is there.
    life.host.observed = replace(life.host.observed, site=replace(site, since=life.host.now - 3_000))
    assert life.look().converged
    life.host.now += 1_000
    assert kinds(life.look()) == ["ForgetSlots"]
    life.do(*life.look().actions)
    assert set(life.host.observed.names.names) == {"shop"}
    assert life.look().converged


def test_slots_come_when_a_manifest_asks_for_them() -> None:
    before = converged(desired(replace(SHOP, rollout=Rollout("blue_green"))))
    made = steps(wanted(OLD), before.observed, before.memory, LATER)
    assert kinds(made) == ["SetSlots"]
    (action,) = made.actions
    assert isinstance(action, act.SetSlots)
    assert [slot for slot, _ in action.slots] == list(slots.names_of("shop"))
    assert {addresses for _, addresses in action.slots} == {before.observed.names.names["shop"].written}


def test_an_app_that_goes_takes_its_slots_along() -> None:
    life = Life()
    life.host.wanted = replace(wanted(desired(app("other"))), split=frozenset())
    life.host.memory = replace(life.host.memory, accepted=frozenset({life.host.wanted.revision}))
    made = life.look()
    assert {"SetName", "SetSlots"} <= set(kinds(made))
    for action in made.actions:
        life.host.do(action)
    life.run()
    assert not [name for name in life.host.observed.names.names if slots.app_of(name) == "shop"]
    # Killed after the name was removed and before its slots were: they are found, and go.
    left = NamesState(0.0, {"shop_3": NameState((), NOW, ())})
    life.host.observed = replace(life.host.observed, names=left)
    assert "RecordPruned" in [type(action).__name__ for action in life.look().actions]


# --- taken back -------------------------------------------------------------------------------------------------------


def test_a_version_that_answers_more_5xx_than_allowed_is_taken_back_before_it_is_given_up() -> None:
    life = Life()
    life.at(10)
    life.saw(OLD, 1_000, 1)
    life.saw(NEW, 40, 4)
    made = life.look()
    assert kinds(made) == ["SetSlots", "Quarantine"]
    quarantine = made.actions[-1]
    assert isinstance(quarantine, act.Quarantine)
    assert quarantine.cause == "CanaryFailed"
    for figure in ("10 %", "10.0 %", "40", "0.1 %", "1,000"):
        assert figure in quarantine.message
    life.do(*made.actions)
    assert (life.weight(), life.name()) == (0, life.addresses(OLD))
    end = life.run()
    assert life.containers(NEW) == []
    assert len(life.containers(OLD)) == 2
    assert end.statuses["shop"].reason == "CanaryFailed"


@pytest.mark.parametrize(
    ("new", "old"),
    [((19, 19), (0, 0)), ((100, 5), (100, 0)), ((100, 20), (100, 20)), ((100, 20), (100, 90)), ((0, 0), (50, 50))],
    ids=["too few", "as many as allowed", "as bad as old", "better than old", "nobody came"],
)
def test_errors_that_prove_nothing_take_nobody_back(new: tuple[int, int], old: tuple[int, int]) -> None:
    life = Life()
    life.at(10)
    life.saw(NEW, *new)
    life.saw(OLD, *old)
    assert kinds(life.look()) == []
    life.at(50)


def test_what_is_allowed_is_said_by_the_manifest() -> None:
    strict = replace(SHOP, rollout=replace(ROLLOUT, max_errors=0.5))
    life = Life(desired(strict), desired(strict, image="sha256:2"))
    life.at(10)
    life.saw(life.new, 100, 1)
    assert kinds(life.look()) == ["SetSlots", "Quarantine"]


def test_a_replica_that_falls_ill_in_a_step_takes_its_version_back() -> None:
    life = Life()
    life.at(50)
    life.sicken(life.containers(NEW)[0])
    made = life.look()
    assert kinds(made) == ["SetSlots", "Quarantine"]
    assert "GET /: 500" in made.statuses["shop"].message
    assert "50 %" in made.statuses["shop"].message
    life.run()
    assert life.addresses(NEW) == []


def test_old_replicas_out_of_traffic_take_it_back_while_the_new_version_bakes() -> None:
    baking = replace(SHOP, rollout=replace(ROLLOUT, bake=1_000.0))
    life = Life(desired(baking), desired(baking, image="sha256:2"))
    life.run(lambda made: life.name() == life.addresses(life.new) and not made.actions)
    since = life.host.now
    made = life.look()
    assert "all requests" in made.statuses["shop"].message
    assert made.wake_at is not None
    assert made.wake_at > since + 999
    life.host.now += 900
    assert kinds(life.look()) == []
    life.saw(life.new, 100, 50)
    made = life.look()
    assert kinds(made) == ["SetName", "SetSlots", "Quarantine"]
    life.do(*made.actions)
    assert life.name() == life.addresses(life.old)
    life.run()
    assert life.containers(life.new) == []
    assert len(life.containers(life.old)) == 2


def test_after_the_bake_time_the_old_version_goes() -> None:
    baking = replace(SHOP, rollout=replace(ROLLOUT, bake=1_000.0))
    life = Life(desired(baking), desired(baking, image="sha256:2"))
    life.run(lambda made: life.name() == life.addresses(life.new) and not made.actions)
    since = life.host.now
    assert life.run().converged
    assert life.host.now >= since + 1_000
    assert life.containers(life.old) == []


# --- in the middle ----------------------------------------------------------------------------------------------------


def test_an_agent_that_comes_back_goes_on_in_the_same_step_and_counts_its_whole_time() -> None:
    life = Life()
    life.at(50)
    life.host.now += 590  # almost over
    before = slots.states(life.host.observed.names, "shop")
    probes = life.host.observed.probes
    life.host.observed = replace(life.host.observed, probes={})  # nobody was asked yet
    life.traffic = {a: Traffic(0, 0, life.host.now) for a in (*life.addresses(OLD), *life.addresses(NEW))}
    assert kinds(life.look()) == []
    life.host.now += 1
    life.host.observed = replace(
        life.host.observed, probes={c: ProbeResult(healthy=True, since=life.host.now) for c in probes}
    )
    made = life.look()
    assert kinds(made) == []
    assert slots.states(life.host.observed.names, "shop") == before
    assert made.wake_at == pytest.approx(life.host.now - 1 + 600, abs=0.1)
    assert "canary at 50 % for 10 more minutes" in made.statuses["shop"].message  # who takes part has been healthy long
    assert life.run().converged


def test_whoever_was_killed_between_name_and_slots_finishes_the_promotion() -> None:
    life = Life()
    life.run(lambda made: any(isinstance(action, act.SetName) for action in made.actions))
    (name, *_) = life.look().actions
    life.do(name)
    made = life.look()
    assert kinds(made) == ["SetSlots"]
    assert life.run().converged


def test_a_revert_in_the_middle_takes_everything_back_at_once() -> None:
    life = Life()
    life.at(50)
    life.ask(Target("shop", OLD, previous=NEW))
    assert kinds(life.look()) == ["SetSlots"]
    life.do(*life.look().actions)
    assert life.weight() == 0
    assert life.run().converged
    assert life.containers(NEW) == []


def test_a_newer_commit_in_the_middle_begins_at_its_first_step() -> None:
    life = Life()
    life.at(50)
    life.ask(Target("shop", NEWER, previous=OLD))
    life.new = NEWER
    made = life.look()
    assert kinds(made) == ["SetSlots", "StartReplica", "StartReplica"]
    life.do(*made.actions)
    assert life.weight(NEW) == 0
    life.at(10)
    assert life.name() == life.addresses(OLD)
    assert life.run().converged
    assert life.containers(NEW) == life.containers(OLD) == []


def test_a_strategy_that_changes_in_the_middle_counts_at_once() -> None:
    life = Life()
    life.at(10)
    plain = desired(replace(SHOP, rollout=Rollout("blue_green")), image="sha256:2")
    life.ask(Target("shop", plain, previous=OLD))
    assert kinds(life.look())[:2] == ["SetName", "SetSlots"]


def test_steps_are_over_once_no_old_replica_is_healthy() -> None:
    """A migration broke it, for example: the new version serves, and most requests must not go on failing."""
    life = Life()
    life.at(10)
    first, second = life.containers(OLD)
    life.sicken(first)
    life.run(lambda made: not made.actions, most=9)
    assert life.weight() == 10
    life.sicken(second)
    made = life.look()
    assert [a.addresses for a in made.actions if isinstance(a, act.SetName)] == [tuple(life.addresses(NEW))]
    assert "no replica of the old version is healthy" in made.statuses["shop"].message


def test_without_an_old_version_that_lives_there_is_nothing_to_wait_for() -> None:
    life = Life()
    life.at(10)
    for container in life.containers(OLD):
        life.host.do(act.StopContainer("shop", "", container.id, container.name, 1.0))
    made = life.look()
    assert [a.addresses for a in made.actions if isinstance(a, act.SetName)] == [tuple(life.addresses(NEW))]


def test_only_replicas_in_the_middle_of_a_canary_are_counted() -> None:
    life = Life()
    every = life.host.observed.engine.containers
    assert counted(life.host.wanted.targets, every) == set(life.addresses(OLD))
    assert counted(converged(OLD).wanted.targets, every) == frozenset()
    plain = desired(replace(SHOP, rollout=Rollout("blue_green")), image="sha256:2")
    assert counted({"shop": Target("shop", plain, previous=OLD)}, every) == frozenset()
    life.at(10)
    both = {*life.addresses(OLD), *life.addresses(NEW)}
    assert counted(life.host.wanted.targets, life.host.observed.engine.containers) == both


# --- random worlds ----------------------------------------------------------------------------------------------------


def _disturb(life: Life, dice: random.Random) -> None:
    """Something that happens on real hosts."""
    match dice.randrange(7):
        case 0:
            life.sicken(dice.choice([c for c in life.host.observed.engine.containers if c.state == "running"]))
        case 1:
            life.host.observed = replace(life.host.observed, probes={})
        case 2:
            life.saw(life.new, 100, dice.randrange(100)) if life.addresses(life.new) else None
        case 3:
            versions = (OLD, NEW, NEWER)
            life.new = dice.choice(versions)
            life.ask(Target("shop", life.new, previous=OLD if life.new is not OLD else None))
        case 4:
            life.host.now += dice.random() * 1_000
        case 5:
            site = None if life.host.observed.site is not None else converged(OLD).observed.site
            life.host.observed = replace(life.host.observed, site=site)
        case _:
            life.host.observed = replace(
                life.host.observed,
                probes={c.id: ProbeResult(healthy=True, since=NOW) for c in life.host.observed.engine.containers},
            )


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_nobody_is_stopped_who_may_be_asked_and_it_ends_well(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  (a game)
    life = Life()
    for _ in range(60):
        made = life.look()
        # Killed anywhere: some of the actions are done, and of the last perhaps a part.
        for action in made.actions[: dice.randrange(len(made.actions) + 1)]:
            if isinstance(action, act.SetSlots) and dice.random() < 0.3:
                life.do(replace(action, slots=action.slots[: dice.randrange(len(action.slots))]))
                break
            life.do(action)
        if not made.actions and made.wake_at is not None:
            life.host.now = max(made.wake_at, life.host.now)
        if dice.random() < 0.2:
            _disturb(life, dice)
        assert life.host.name("shop").written
    life.traffic = {}
    life.host.observed = replace(life.host.observed, site=converged(OLD).observed.site)
    life.new = NEWER
    life.ask(Target("shop", NEWER, previous=OLD))
    made = Plan()
    life.host.memory = replace(life.host.memory, applied={"shop": Applied("a" * 40, OLD.fingerprint, NOW)}, versions={})
    for _ in range(100):
        every = life.host.observed.engine.containers
        fresh = {c.id: ProbeResult(healthy=True, since=NOW) for c in every}
        life.host.observed = replace(life.host.observed, probes=fresh)
        made = life.run()
        if made.converged:
            break
    assert made.converged, made.statuses["shop"]
    assert life.name() == life.addresses(NEWER)


def test_every_weight_can_be_a_step() -> None:
    for weight in range(1, 100):
        rollout = replace(ROLLOUT, steps=(CanaryStep(weight, 1.0),))
        life = Life(desired(replace(SHOP, rollout=rollout)), desired(replace(SHOP, rollout=rollout), image="sha256:2"))
        life.at(weight)


# --- what must not end or undo a canary -----------------------------------------------------------------------------


def baking() -> Life:
    """The new version has all requests, and the old one is kept for a thousand seconds."""
    rollout = replace(SHOP, rollout=replace(ROLLOUT, bake=1_000.0))
    life = Life(desired(rollout), desired(rollout, image="sha256:2"))
    life.run(lambda made: life.name() == life.addresses(life.new) and not made.actions)
    return life


def probed(life: Life, *containers: Container) -> None:
    """An agent that has just started has asked only these."""
    fresh = {c.id: ProbeResult(healthy=True, since=life.host.now) for c in containers}
    life.host.observed = replace(life.host.observed, probes=fresh)


def test_an_agent_that_comes_back_while_it_bakes_keeps_the_old_version_before_it_has_asked_it() -> None:
    life = baking()
    life.host.now += 100
    probed(life, *life.containers(life.new))
    assert kinds(life.look()) == []
    probed(life, *life.containers(life.new), *life.containers(life.old))  # but not healthy for long enough
    assert kinds(life.look()) == []
    assert "the old one is kept" in life.look().statuses["shop"].message


def test_an_nginx_that_cannot_be_looked_at_for_a_moment_ends_no_step() -> None:
    life = Life()
    life.at(10)
    site = life.host.observed.site
    life.host.observed = replace(life.host.observed, site=None)
    assert kinds(life.look()) == []
    life.host.observed = replace(life.host.observed, site=site)
    assert kinds(life.look()) == []
    assert life.weight() == 10


def test_slots_stay_while_nobody_can_look_at_nginx() -> None:
    before = converged(OLD)
    made = steps(wanted(OLD), replace(before.observed, site=None), before.memory, LATER)
    assert kinds(made) == []


@pytest.mark.parametrize("replicas", [2, 1])
def test_a_strategy_that_was_rolling_until_a_moment_ago_does_not_stand_still(replicas: int) -> None:
    rolling = replace(SHOP, rollout=Rollout("rolling", drain=5.0))
    life = Life(desired(rolling), desired(rolling, image="sha256:2"))
    life.run(lambda _: len(set(life.name()) & set(life.addresses(life.new))) == 1)
    life.new = desired(replace(SHOP, replicas=replicas), image="sha256:2")
    life.ask(Target("shop", life.new, previous=life.old))
    assert life.run().converged
    assert life.name() == life.addresses(NEW)
    assert len(life.name()) == replicas


def test_a_clock_that_goes_back_holds_up_no_step() -> None:
    life = Life()
    life.at(10)
    life.traffic = {a: Traffic(0, 0, LATER + 90_000_000) for a in life.addresses(NEW)}
    made = life.look()
    assert made.wake_at is not None
    assert made.wake_at < life.host.now + 310


def test_what_ails_both_versions_takes_nobody_back() -> None:
    life = Life()
    life.at(10)
    for container in (*life.containers(OLD), *life.containers(NEW)):
        life.sicken(container)
    assert "Quarantine" not in kinds(life.look())


def test_a_replica_that_somebody_stopped_is_started_again_and_its_version_goes_on() -> None:
    life = Life()
    life.at(10)
    life.host.do(act.StopContainer("shop", "", life.containers(NEW)[0].id, "", 1.0))
    made = life.look()
    assert "Quarantine" not in kinds(made)
    assert "StartContainer" in kinds(made)
    assert life.run().converged


def test_nobody_is_given_up_before_its_requests_are_taken_away() -> None:
    life = Life()
    life.at(10)
    life.saw(NEW, 100, 50)
    waits = Retry(life.host.now + 60, 1, "DiskFull", "no space left")
    life.host.memory = replace(life.host.memory, retries={act.name_lane("shop"): waits})
    assert kinds(life.look()) == []


def test_who_is_taken_back_gets_no_second_share_while_that_cannot_be_written_down() -> None:
    life = Life()
    life.at(10)
    life.saw(NEW, 100, 50)
    quarantine = life.look().actions[-1]
    waits = Retry(life.host.now + 60, 1, "DiskFull", "no space left")
    life.host.memory = replace(life.host.memory, retries={act.retry_lane(quarantine): waits})
    assert kinds(life.look()) == ["SetSlots"]
    life.do(*life.look().actions)
    assert kinds(life.look()) == []
    assert life.weight() == 0
    life.host.memory = replace(life.host.memory, retries={})
    assert kinds(life.look()) == ["Quarantine"]


def test_the_old_version_serves_again_where_all_of_the_new_one_is_gone() -> None:
    life = baking()
    for container in life.containers(life.new):
        life.host.do(act.RemoveContainer("shop", "", container.id, container.name, ""))
    made = life.look()
    assert [a.addresses for a in made.actions if isinstance(a, act.SetName)] == [tuple(life.addresses(life.old))]


# --- meanwhile the version before has most of the requests ------------------------------------------------------------


@pytest.mark.parametrize("bake", [0.0, 600.0])
def test_an_old_replica_that_somebody_stops_is_started_again_while_it_may_be_needed(bake: float) -> None:
    life = Life(new=desired(replace(SHOP, rollout=replace(ROLLOUT, bake=bake)), image="sha256:2"))
    life.run(lambda made: ("old one is kept" if bake else "canary at 10 %") in made.statuses["shop"].message)
    one = life.containers(OLD)[0]
    life.host.observed = changed(life.host.observed, one.name, state="exited", exit_code=0)
    made = life.run(lambda made: act.StartContainer in map(type, made.actions), most=3)
    assert [a.container for a in made.actions if isinstance(a, act.StartContainer)] == [one.id]
    assert made.statuses["shop"].reason != "CanaryFailed"
    life.run()
    assert life.containers(OLD) == []


def test_an_old_replica_that_turns_sick_is_restarted_once_nobody_asks_it_and_the_steps_go_on() -> None:
    life = Life()
    life.at(10)
    sick, well = life.containers(OLD)
    life.sicken(sick)
    made = life.run(lambda made: act.RestartContainer in map(type, made.actions))
    assert [a.container for a in made.actions if isinstance(a, act.RestartContainer)] == [sick.id]
    assert life.name() == [well.address]
    assert sick.address not in slots.answering(life.host.observed.names, "shop")
    assert life.weight() == 10
    life.run()
    assert (life.containers(OLD), life.name()) == ([], life.addresses(NEW))
