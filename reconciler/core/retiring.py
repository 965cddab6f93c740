"""How containers go: the name first, then everyone hears of it, then nobody is connected any more, then SIGTERM."""

from __future__ import annotations

from collections.abc import Collection

from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.observed import Container, NamesState, NameState
from reconciler.core.step import Facts, Step


def removal(facts: Facts, why: str) -> Step:
    """The next steps of an app that should not be here any more. Volumes stay."""
    step = Step()
    name = facts.observed.names.names.get(facts.target.name)
    if slots.answering(facts.observed.names, facts.target.name):
        if name is not None and name.written:
            step.actions.append(act.SetName(facts.target.name, why, ()))
        _leave_slots(facts, step, why, ())
        return step.say("Pruning", f"{why}; the name is taken out of use")
    for container in sorted(facts.containers, key=lambda c: c.name):
        gone_at = retire(facts, step, container, name, 30.0, why)
        if gone_at is not None:
            step.wait(gone_at, "Pruning", f"{why}; waiting until nobody is connected to {container.name}")
    if not facts.containers:
        step.actions.append(act.RecordPruned(facts.target.name, why))
    return step.say("Pruning", f"{why}; its containers are being removed, its volumes stay")


def clear_failed(facts: Facts) -> Step:
    """A version was given up and there is none to go back to: what it left must not stay, nor ever take traffic."""
    step = Step(stalled=True)
    why = "its version was given up"
    name = facts.observed.names.names.get(facts.target.name)
    serving = slots.answering(facts.observed.names, facts.target.name)
    if name is not None and slots.states(facts.observed.names, facts.target.name) and not settled(facts, name, step):
        return step  # it had a share of the requests until a moment ago
    for container in sorted(facts.containers, key=lambda c: c.name):
        claim = container.claim
        if claim is None or claim.fingerprint != facts.target.failed or container.address in serving:
            continue
        take_away(step, claim.app, container, why)
    return step


def unattended(facts: Facts) -> Step:
    """No version is known, so nothing is started or stopped; but whoever is gone for certain leaves the name."""
    step = Step(stalled=True)
    name = facts.observed.names.names.get(facts.target.name)
    running = {c.address for c in facts.containers if c.state == "running"}
    if name is not None:
        there = tuple(address for address in name.written if address in running)
        if there and there != name.written:
            step.actions.append(act.SetName(facts.target.name, "a replica is gone", there))
        if there:
            _leave_slots(facts, step, "a replica is gone", there, running)
    return step


def _leave_slots(
    facts: Facts, step: Step, why: str, otherwise: tuple[str, ...], staying: Collection[str | None] = ()
) -> None:
    """Slots answer only whom of theirs stays; one that nobody is left in answers ``otherwise``."""
    wanted = {
        slot: tuple(address for address in state.written if address in staying) or otherwise
        for slot, state in slots.states(facts.observed.names, facts.target.name).items()
    }
    left = {s: to for s, to in wanted.items() if to != facts.observed.names.names[s].written}
    if left:
        step.actions.append(act.SetSlots(facts.target.name, why, tuple(left.items())))


def settled(facts: Facts, name: NameState, step: Step) -> bool:
    """Whether everyone who resolves the name, or one of the app's slots, has heard of its last change."""
    service: NamesState = facts.observed.names
    every = (name, *slots.states(service, facts.target.name).values())
    if service.up_since is None or any(each.answered != each.written for each in every):
        step.wait(facts.now + 0.1, "Switching", "waiting until the names service answers the new addresses")
        return False
    heard_at = max(max(each.written_at, each.answered_since) for each in every)
    complete_at = max(heard_at + facts.timing.settle, service.up_since + facts.timing.names_warm)
    if facts.now < complete_at:
        step.wait(complete_at, "Switching", "waiting until everyone has heard of the new addresses")
        return False
    return True


def retire(
    facts: Facts, step: Step, container: Container, name: NameState | None, drain: float, why: str
) -> float | None:
    """Stop and remove a container nobody talks to; else when to look again."""
    if container.claim is None:
        return None
    if is_up(container):
        names = [*slots.states(facts.observed.names, facts.target.name).values(), *([name] if name else [])]
        since = max((each.written_at for each in names), default=container.started_at)
        if name is not None and not settled(facts, name, step):
            return None
        connected = facts.observed.connections.get(container.id, 0)
        if connected and facts.now < since + facts.timing.settle + drain:
            return facts.now + facts.timing.drain_poll
    take_away(step, facts.target.name, container, why)
    return None


def is_up(container: Container) -> bool:
    """It has to be stopped before it can be removed, or before another may have what it has."""
    return container.state in {"running", "paused", "restarting"}


def stop(step: Step, app: str, container: Container, why: str) -> None:
    """Stop a container, if it is up."""
    if is_up(container):
        grace = container.stop_grace_period
        step.actions.append(act.StopContainer(app, why, container.id, container.name, grace))


def take_away(step: Step, app: str, container: Container, why: str) -> None:
    """Stop and remove a container."""
    stop(step, app, container, why)
    fingerprint = container.claim.fingerprint if container.claim else ""
    step.actions.append(act.RemoveContainer(app, why, container.id, container.name, fingerprint))
