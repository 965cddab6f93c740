"""Canary: a new version takes its share of the requests little by little, and is taken back when it does worse.

    every replica of it is healthy -> its slots answer it, step by step -> the name and all slots answer it
    -> the old version stays up, out of traffic, while it bakes -> the old version goes

Where it stands is read from what the slots and the name answer, and since when: whoever is killed in the middle goes on
in the same step. A step lasts its time from the moment at which everyone has heard of it, and at least as long from the
moment at which the answers began to be counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.observed import Container, NameState, Traffic
from reconciler.core.readiness import is_ready, is_sick
from reconciler.core.step import Facts, Step
from reconciler.core.target import DesiredApp, Target

ENOUGH = 20
"""Requests that the new version must have had before its errors count."""

_HUNDRED = 100
_AGAIN = 0.1  # seconds; as for the name, until the names service answers what is written
_CAUSE = "CanaryFailed"
_OLD_REQUESTS = 3600.0
"""Seconds for which workers of an nginx that was reloaded may still have to ask for a slot, at the end of an upload."""


def counted(targets: Mapping[str, Target], containers: Iterable[Container]) -> frozenset[str]:
    """Addresses whose answers decide about a new version: all replicas of apps that are in the middle of a canary."""
    asking = {name: t.desired for name, t in targets.items() if t.desired is not None and slots.wants(t.desired.app)}
    if not asking:
        return frozenset()
    theirs = [c for c in containers if c.claim and c.claim.app in asking and c.claim.role == "replica"]
    moving = {c.claim.app for c in theirs if c.claim and c.claim.fingerprint != asking[c.claim.app].fingerprint}
    return frozenset(c.address for c in theirs if c.claim and c.claim.app in moving and c.address)


@dataclass(slots=True)
class Canary:
    """One look at a version that follows another in steps; also what keeps the slots of an app right at all times."""

    facts: Facts
    step: Step
    desired: DesiredApp
    new: Collection[Container]
    """Replicas of the version that is to come."""
    old: Collection[Container]
    """All other replicas."""
    kept: AbstractSet[str]
    """Addresses of replicas of the version before that can serve."""
    asked: bool
    """This version is new here, and its manifest asks for steps."""
    weight: int = 0
    """Percent that the new version should have now, beside the name."""
    way_back: bool = field(init=False)
    """An old replica is not known to be sick."""
    names: dict[str, NameState] = field(init=False)
    name: NameState = field(init=False)
    given: frozenset[str] = field(init=False)
    """Addresses of the new version that slots have, and the name has not."""
    answers: bool = field(init=False)
    """The name has replicas of the new version already: it was promoted, or has been rolling until now."""

    def __post_init__(self) -> None:
        known = self.facts.observed.names
        self.names = slots.states(known, self.desired.name)
        self.name = known.names.get(self.desired.name) or NameState((), 0.0, None)
        ours = {container.address for container in self.new}
        self.answers = bool(ours & set(self.name.written))
        ours -= set(self.name.written)
        self.given = frozenset(a for state in self.names.values() for a in state.written if a in ours)
        # An nginx that cannot be looked at for a moment ends nothing that has begun.
        begun = bool(self.given) or (bool(self.names) and self._promoted)
        served = begun or self.facts.observed.site is not None
        self.asked = self.asked and served and not self._goes_back()
        self.way_back = self.asked and self._has_a_way_back()

    # -- where it stands -------------------------------------------------------------------------------------------

    @property
    def _reached(self) -> int:
        """Percent that the new version has now, beside the name."""
        states = (self.names.get(slot) for slot in slots.names_of(self.desired.name))
        sized = zip(slots.SIZES, states, strict=True)
        return sum(size for size, state in sized if state is not None and self.given & set(state.written))

    @property
    def _promoted(self) -> bool:
        """The name answers the new version, and nobody else."""
        written = set(self.name.written)
        return bool(written) and written <= {container.address for container in self.new}

    def _has_a_way_back(self) -> bool:
        """Whether an old replica that could have the requests is not known to be sick; a migration may break all."""
        before = self.facts.target.previous
        manifest, back = (before.app, before.fingerprint) if before is not None else (self.desired.app, "")
        able = (c for c in self.old if c.address in self.kept or (c.claim and c.claim.fingerprint == back))
        return any(not is_sick(container, manifest, self.facts.observed) for container in able)

    def _goes_back(self) -> bool:
        """To a version that was here before the one that runs: whoever goes back is in a hurry, and it has served."""
        places = {version.fingerprint: version.place for version in self.facts.versions}
        running = self.facts.applied.fingerprint if self.facts.applied is not None else ""
        back, from_here = places.get(self.desired.fingerprint), places.get(running)
        return back is not None and from_here is not None and back < from_here

    # -- steps -----------------------------------------------------------------------------------------------------

    def holds(self, *, ready: bool) -> bool:
        """Whether the name goes on answering the old version; sets ``weight``.

        ``ready``: all replicas of the new version are.
        """
        if not self.asked or self.answers or not (ready or self.given):
            return False
        if ready and not self.way_back:
            self.step.say("Canary", "no replica of the old version is healthy, so the new one has all requests at once")
            return False
        steps, reached = self.desired.app.rollout.steps, self._reached
        splits = self.facts.splits
        if splits is False or (splits is None and not reached) or not self.names:
            self.step.say("Canary", "waiting until nginx deals out requests; the old version goes on serving")
            return True
        at = max((n for n, step in enumerate(steps) if step.weight <= reached), default=0)
        self.weight = steps[at].weight
        if self.weight != reached or not ready:
            self.step.say("Canary", f"canary at {self.weight} %; the old version has the rest")
            return True
        until = self._heard() + steps[at].seconds
        if self.facts.now < until:
            self.step.wait(self._next(until), "Canary", self._figures(until))
            return True
        if at + 1 == len(steps):
            self.weight = 0  # beside the name, which has it all from now on
            return False
        self.weight = steps[at + 1].weight
        self.step.say("Canary", f"canary goes on from {reached} to {self.weight} %")
        return True

    def may_go(self, leaving: Sequence[Container]) -> list[Container]:
        """Old replicas that neither serve nor would have to serve again."""
        if not self.way_back:
            return list(leaving)
        if self._promoted:
            until = self._heard() + self.desired.app.rollout.bake
            if self.facts.now >= until:
                return list(leaving)
            self.step.wait(self._next(until), "Canary", self._figures(until))
        before = self.facts.target.previous
        back = before.fingerprint if before is not None else ""
        serving = slots.answering(self.facts.observed.names, self.desired.name)
        return [c for c in leaving if c.address not in serving and not (c.claim and c.claim.fingerprint == back)]

    def _heard(self) -> float:
        """When everyone had heard of the present share, and its answers were counted."""
        states = [state for state in self.names.values() if self._promoted or self.given & set(state.written)]
        told = max(max(s.written_at, s.answered_since) for s in (*states, *([self.name] if self._promoted else [])))
        if any(state.answered != state.written for state in states):
            told = max(told, self.facts.now)
        counted = (self.facts.observed.traffic.get(address) for address in self._addresses(self.new))
        # One that lies ahead is of before the clock went back.
        since = max((s.since for s in counted if s is not None and s.since <= self.facts.now + 1), default=0.0)
        return max(told + self.facts.timing.settle, since)

    def _next(self, until: float) -> float:
        unanswered = any(state.answered != state.written for state in self.names.values())
        return self.facts.now + _AGAIN if unanswered else until

    # -- the verdict -----------------------------------------------------------------------------------------------

    def failed(self) -> bool:
        """Take the new version back, if it does worse: first the traffic, and then it is given up."""
        promoted = self._promoted
        if not self.way_back or not self.kept:
            return False
        if promoted and self.facts.now >= self._heard() + self.desired.app.rollout.bake:
            return False
        why = self._sick() or self._worse()
        if not why:
            return False
        share = _HUNDRED if promoted else self._reached
        message = f"taken back from {share} % of the requests: {why}"
        back = tuple(sorted(self.kept))
        name = self.desired.name
        late = tuple((s, back) for s, state in self.names.items() if slots.changed(state, back, self.facts.now))
        self.step.actions = [act.SetName(name, message, back)] if self.name.written != back else []
        if late:
            self.step.actions.append(act.SetSlots(name, message, late))
        sick = sorted(c.id for c in self.new if is_sick(c, self.desired.app, self.facts.observed))
        shown = next(iter(sick or sorted(c.id for c in self.new)), None)
        self.step.actions.append(act.Quarantine(name, message, self.desired, _CAUSE, message, shown))
        self.step.reason, self.step.message = _CAUSE, message
        return True

    def _sick(self) -> str:
        """Which of the replicas that have requests is not well any more; one that was stopped is started again."""
        serving = slots.answering(self.facts.observed.names, self.desired.name)
        observed, now = self.facts.observed, self.facts.now
        for container in sorted(self.new, key=lambda c: c.name):
            ended = container.state not in {"running", "restarting"}
            if container.address in serving and not ended and is_sick(container, self.desired.app, observed):
                detail = is_ready(container, self.desired.app, observed, now)[2]
                return f"{container.name} is not healthy any more{f' ({detail})' if detail else ''}"
        return ""

    def _worse(self) -> str:
        """By what nginx saw: too many 5xx, and a larger part than of the version before."""
        ours, theirs = self._seen(self.new), self._seen(self.old)
        limit = self.desired.app.rollout.max_errors
        if ours.requests < ENOUGH or _percent(ours) <= limit or _percent(ours) <= _percent(theirs):
            return ""
        return (
            f"nginx saw 5xx in {_percent(ours):.1f} % of its {ours.requests:,} answers ({limit:g} % are allowed), "
            f"and in {_percent(theirs):.1f} % of {theirs.requests:,} of the version before"
        )

    def _seen(self, containers: Iterable[Container]) -> Traffic:
        counts: Mapping[str, Traffic] = self.facts.observed.traffic
        seen = [counts[address] for address in self._addresses(containers) if address in counts]
        return Traffic(sum(one.requests for one in seen), sum(one.errors for one in seen), 0.0)

    def _figures(self, until: float) -> str:
        ours, theirs = self._seen(self.new), self._seen(self.old)
        left = max(0.0, until - self.facts.now)
        what = (
            "the new version has all requests, the old one is kept"
            if self._promoted
            else f"canary at {self._reached} %"
        )
        told = f"{ours.requests:,} requests, {_percent(ours):.1f} % 5xx (old {_percent(theirs):.1f} %)"
        if not ours.requests and not theirs.requests:
            told = "nginx has told of no request so far, and health alone decides"
        return f"{what} for {_in_words(left)}: {told}"

    @staticmethod
    def _addresses(containers: Iterable[Container]) -> list[str]:
        return [container.address for container in containers if container.address]

    # -- slots -----------------------------------------------------------------------------------------------------

    def deal(self, name: tuple[str, ...]) -> None:
        """Let every slot answer whom it should: the new version up to ``weight``, and else what the name answers."""
        app, site = self.desired.app, self.facts.observed.site
        wants = slots.wants(app) and site is not None
        if not self.names and not (wants and name):
            return
        new = tuple(sorted(a for a in self._fit() if a not in name)) if self.weight else ()
        taken = slots.taken(self.weight) if new else frozenset()
        every = {slot: new if place in taken else name for place, slot in enumerate(slots.names_of(app.name))}
        late = {s: to for s, to in every.items() if slots.changed(self.names.get(s), to, self.facts.now)}
        unasked = site is not None and self.facts.splits is False and self.facts.now > site.since + _OLD_REQUESTS
        if not wants and unasked and not self.step.actions:
            why = "nginx does not deal out its requests any more"
            self.step.actions.append(act.ForgetSlots(app.name, why))
        elif late:
            # First those that go back: on the way nobody new has more than is meant.
            order = tuple(sorted(late.items(), key=lambda item: (item[1] == new, item[0])))
            share = f"the new version gets {self.weight} % of the requests"
            why = share if new else "its slots answer what its name does"
            place = 1 if self.step.actions and isinstance(self.step.actions[0], act.SetName) else 0
            self.step.actions.insert(place, act.SetSlots(app.name, why, order, self.weight if new else 0))

    def _fit(self) -> list[str]:
        """Addresses of new replicas that may have requests: ready, or at it and not known to be sick."""
        app, observed, now = self.desired.app, self.facts.observed, self.facts.now
        fit = [
            c
            for c in self.new
            if is_ready(c, app, observed, now)[0] or (c.address in self.given and not is_sick(c, app, observed))
        ]
        return self._addresses(fit)

    @property
    def is_dealing(self) -> bool:
        """Some slot is about to answer somebody else."""
        return any(isinstance(action, act.SetSlots) for action in self.step.actions)


def _percent(seen: Traffic) -> float:
    return _HUNDRED * seen.errors / seen.requests if seen.requests else 0.0


def _in_words(seconds: float) -> str:
    """``3 more minutes``: whole ones, so that the text does not change at every look."""
    for size, unit in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= 2 * size or size == 1:
            number = max(1, round(seconds / size))
            return f"{number} more {unit}{'' if number == 1 else 's'}"
    raise AssertionError(seconds)
