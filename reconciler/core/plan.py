"""The next steps of the whole host: a pure function of targets, observation, memory and the time."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter

from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.addresses import AddressPool
from reconciler.core.backoff import is_waiting
from reconciler.core.memory import Memory, Retry
from reconciler.core.observed import Container, Observed, SiteState
from reconciler.core.ownership import by_app
from reconciler.core.rehearsal import rehearse
from reconciler.core.removals import PRUNE_BLOCKED, Refusal, refused_removals, still_needed
from reconciler.core.retention import unneeded
from reconciler.core.retiring import clear_failed, removal, unattended
from reconciler.core.rollout import next_steps
from reconciler.core.standing import standing
from reconciler.core.status import AppStatus
from reconciler.core.step import Facts, Step, Timing
from reconciler.core.target import Pull, Target
from reconciler.core.wanted import Wanted

_PASSING = frozenset(
    {"Working", "Pulling", "RollingOut", "Switching", "Draining", "Retiring", "Repairing", "AfterDeploy", "Canary"}
)
"""Reasons of an app that moves on by itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps, when to look again, and where every app stands."""

    actions: tuple[act.Action, ...] = ()
    wake_at: float | None = None
    statuses: Mapping[str, AppStatus] = field(default_factory=dict)
    faults: tuple[tuple[str, str], ...] = ()
    """(reason, message) of what is wrong with the host itself."""
    prune_blocked: int = 0
    """Apps that would be removed, but wait for a person."""
    notices: tuple[tuple[str, str], ...] = ()
    """(reason, message) of what a person should know of, but that holds up nothing."""
    rehearsing: str = ""
    """The app whose version before is tried off the traffic right now. Nothing else waits for that."""
    needs: frozenset[str] = frozenset()
    """Lanes of the host in which something is to be done, now or when its time has come."""

    @property
    def converged(self) -> bool:
        """Nothing to do, nothing in the way. A rehearsal is nothing that anybody waits for."""
        return (
            all(act.is_rehearsal_lane(act.lane(action)) for action in self.actions)
            and not self.faults
            and not self.prune_blocked
            and all(status.sync == "Synced" for status in self.statuses.values())
        )


@dataclass(slots=True)
class _Draft:
    actions: list[act.Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    statuses: dict[str, AppStatus] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    rehearsing: str = ""


def plan(
    wanted: Wanted, observed: Observed, memory: Memory, subnet: str, now: float, timing: Timing | None = None
) -> Plan:
    """Answer the next steps of every app, and of the host itself.

    Args:
        wanted: What the repository asks for.
        observed: What is there.
        memory: What the store and the running agent know.
        subnet: Our network, from which addresses are given.
        now: Unix time.
        timing: Measured waits; tests shorten them.
    """
    timing = timing or Timing()
    draft = _Draft()
    _host(draft, wanted, observed, memory, now, timing)
    owned, foreign = by_app(observed.engine.containers)
    pool = AddressPool(subnet, [*_used(observed), *memory.reserved], now)
    held = _held(owned)
    refused = refused_removals(wanted, observed.engine.containers, memory)
    for name in _in_order(wanted, {*owned, *memory.applied, *map(slots.app_of, observed.names.names)}):
        target = wanted.targets.get(name, Target(name, None))
        facts = Facts(
            target=target,
            containers=owned.get(name, ()),
            observed=observed,
            applied=memory.applied.get(name),
            pool=pool,
            now=now,
            timing=timing,
            waits_for=_waits_for(target, draft.statuses, wanted),
            since=memory.since,
            host=wanted.host,
            versions=memory.versions.get(name, ()),
            due=memory.due.get(name),
            urged_at=memory.urged.get(name, 0.0),
            held={resource: name for resource, (app, name) in held.items() if app != target.name},
            splits=_splits(name, wanted, observed.site),
        )
        step = _step(facts, wanted, memory, foreign.get(name, ()), refused)
        if not observed.engine.network:
            step.actions = []
        draft.actions += step.actions
        if step.wake_at is not None:
            draft.wakes.append(step.wake_at)
        if name in wanted.targets or owned.get(name):
            draft.statuses[name] = standing(facts, step, wanted, memory)
    _rehearse(draft, wanted, observed, memory, pool, now)
    _sweep(draft, wanted, observed, memory, now)
    _collect(draft, wanted, observed, memory, now)
    lost = [container for containers in foreign.values() for container in containers]
    if lost:
        draft.faults.append(("ForeignContainers", _lost_text(lost)))
    if refused:
        draft.faults.append((PRUNE_BLOCKED, refused[1]))
    _routes(draft, wanted)
    return Plan(
        actions=tuple(draft.actions),
        wake_at=min(draft.wakes, default=None),
        statuses=draft.statuses,
        faults=tuple(draft.faults),
        prune_blocked=len(refused[0]) if refused else 0,
        notices=tuple(draft.notices),
        rehearsing=draft.rehearsing,
        needs=frozenset(draft.needs),
    )


# --- the host itself ------------------------------------------------------------------------------------------------


def _host(draft: _Draft, wanted: Wanted, observed: Observed, memory: Memory, now: float, timing: Timing) -> None:
    needs: list[act.Action] = []
    if not observed.engine.network:
        needs.append(act.EnsureNetwork("", "the network of the apps does not exist"))
    elif why := _names_trouble(draft, observed, now, timing):  # it listens on the network
        needs.append(act.StartNames("", why))
    site = observed.site
    if observed.engine.network and site is not None and wanted.generation and site.loaded != wanted.generation:
        why = "nginx does not run our configuration" if site.loaded is None else "routes changed"
        needs.append(act.LoadSite("", why, wanted.generation, wanted.site_files))
    for action in needs:
        _try(draft, action, memory, now, free=act.lane(action) not in memory.busy)


def _try(draft: _Draft, action: act.Action, memory: Memory, now: float, *, free: bool, notice: str = "") -> None:
    """Do something for the host now if ``free``, and later and later where it has failed.

    A failure is a fault of the host; where ``notice`` names a reason, it is only told, under that reason.
    """
    lane = act.lane(action)
    draft.needs.add(lane)
    retry = memory.retries.get(lane)
    if retry is not None:
        (draft.notices if notice else draft.faults).append((notice or retry.reason, retry.message))
    if retry is not None and is_waiting(retry, now):
        draft.wakes.append(retry.not_before)
    elif free:
        draft.actions.append(action)


def _routes(draft: _Draft, wanted: Wanted) -> None:
    """Say what is wrong with the routes. While an app moves on, a path of its is in two hands: that passes."""
    if wanted.routes_unknown:
        listed = ", ".join(wanted.routes_unknown)
        draft.faults.append(
            ("RoutesUnknown", f"nobody knows the routes of {listed}, so nginx goes on as it is and no route changes")
        )
    statuses = draft.statuses
    lasting = [c for c in wanted.clashes if statuses[c.app].reason not in _PASSING]
    if lasting:
        texts = (f"{c.host}{c.path} still leads to {c.app}, which is held up; {c.loser} wants it" for c in lasting)
        draft.faults.append(("RouteClaimedTwice", "; ".join(texts)))


def _names_trouble(draft: _Draft, observed: Observed, now: float, timing: Timing) -> str:
    """Why the names service is to be started, or started anew."""
    up_since = observed.names.up_since
    if up_since is None:
        return "the names service does not answer"
    late = {name: state for name, state in observed.names.names.items() if state.answered != state.written}
    blind_at = {name: max(state.written_at, up_since) + timing.blind for name, state in late.items()}
    blind = sorted(name for name, at in blind_at.items() if at < now)
    if blind_at and not blind:
        draft.wakes.append(min(blind_at.values()) + 0.1)
    return f"the names service does not see changes of {', '.join(blind[:5])}" if blind else ""


def _rehearse(draft: _Draft, wanted: Wanted, observed: Observed, memory: Memory, pool: AddressPool, now: float) -> None:
    """Try whether an app could go back, once everything that people wait for is done; tell of those that could not."""
    at_work = {action.app for action in draft.actions}
    statuses = draft.statuses
    serving = {n for n, s in statuses.items() if s.sync == "Synced" and s.health == "Healthy" and n not in at_work}
    moving = any(s.reason in _PASSING or s.health == "Progressing" for s in statuses.values())
    at_rest = not draft.actions and not memory.busy and not moving
    step, draft.rehearsing = rehearse(
        wanted.targets, observed, memory, pool, now, serving - memory.busy.keys(), at_rest=at_rest
    )
    draft.actions += step.actions
    if step.wake_at is not None:
        draft.wakes.append(step.wake_at)
    for name, status in sorted(statuses.items()):
        for condition in status.conditions:
            if condition.type == "RollbackReady" and not condition.status:
                again = f"to rehearse it again: reconciler retry {name}"
                draft.notices.append(("RollbackNotReady", f"{name} could not go back: {condition.message}; {again}"))


def _sweep(draft: _Draft, wanted: Wanted, observed: Observed, memory: Memory, now: float) -> None:
    """Remove what nobody mounts, when nobody is at work: a directory may just have been written."""
    keep = _directories(wanted, observed)
    if not observed.present - keep and memory.swept:
        return
    sweep = act.RemoveLeftovers("", "no app uses these files and secrets any more", keep)
    _try(draft, sweep, memory, now, free=not draft.actions and not memory.busy)


def _collect(draft: _Draft, wanted: Wanted, observed: Observed, memory: Memory, now: float) -> None:
    """Remove one image that nothing needs, when nobody is at work; whether another may go the next look says."""
    found = unneeded(wanted, observed.engine, memory, now)
    if not found:
        return
    # Each time another one: that one cannot be removed keeps no other on the disk.
    retry = memory.retries.get(act.IMAGES)
    image = found[(retry.attempts if retry else 0) % len(found)]
    at_rest = not any(status.reason in _PASSING for status in draft.statuses.values())
    free = not draft.actions and not memory.busy and at_rest
    _try(draft, image, memory, now, free=free, notice="ImageNotRemoved")


def _directories(wanted: Wanted, observed: Observed) -> frozenset[str]:
    """Files and secrets directories that a container mounts or an app is about to."""
    used = {
        directory
        for c in observed.engine.containers
        if c.claim
        for directory in (c.claim.files_directory, c.claim.secrets_directory)
    }
    for target in wanted.targets.values():
        for version in (target.desired, target.previous):
            if version is not None:
                used |= {version.files_directory, version.secrets_directory}
    return frozenset(used - {""})


# --- one app --------------------------------------------------------------------------------------------------------


def _step(
    facts: Facts, wanted: Wanted, memory: Memory, foreign: tuple[Container, ...], refused: Refusal | None
) -> Step:
    """What the app needs, less what must not be tried now: the name and what retires are looked after all the same."""
    step = _needs(facts, wanted, memory, refused)
    name, now = facts.target.name, facts.now
    if name in memory.busy or name in memory.suspended:
        return step
    if foreign:  # they may well be serving: whoever lost the key must not lose the apps
        everyone = replace(facts, containers=(*facts.containers, *foreign))
        return unattended(everyone).say("ForeignContainer", _foreign_text(name, foreign))
    held = {id(action): retry for action in step.actions if (retry := _holds_up(action, facts, memory)) is not None}
    if held:
        # Nobody is given up before its requests are taken away.
        step.actions = [a for a in step.actions if id(a) not in held and not isinstance(a, act.Quarantine)]
        step.message = ""
        for retry in held.values():
            step.wait(retry.not_before, retry.reason, retry.message)
        step.next_retry = min(retry.not_before for retry in held.values())
        return step
    if act.FILES in memory.busy and any(isinstance(a, act.WriteFiles | act.WriteSecrets) for a in step.actions):
        step.actions = []  # what is swept away now must not be what is written now
        return step.wait(now + 0.1, "Waiting", "waiting until old files are cleared away")
    return step


def _holds_up(action: act.Action, facts: Facts, memory: Memory) -> Retry | None:
    """What an action waits for after it, or its like, has failed; another version need not wait."""
    desired = facts.target.desired
    for lane in (act.retry_lane(action), *((act.drift_lane(action.app),) if action.drift else ())):
        retry = memory.retries.get(lane)
        same = retry is not None and retry.fingerprint in {"", desired.fingerprint if desired else ""}
        if same and is_waiting(retry, facts.now):
            return retry
    return None


def _needs(facts: Facts, wanted: Wanted, memory: Memory, refused: Refusal | None) -> Step:
    name = facts.target.name
    if name in memory.busy:
        return Step().say("Working", memory.busy[name])
    if name in memory.suspended:
        why = memory.suspended[name].why
        return Step(stalled=True).say("Suspended", f"suspended{f': {why}' if why else ''}; reconciler resume {name}")
    if name not in wanted.targets:
        if refused and name in refused[0]:
            return Step(stalled=True).say(PRUNE_BLOCKED, refused[1])
        elsewhere = name in wanted.catalog.apps
        why = "its hosts do not name this one any more" if elsewhere else "the repository no longer names it"
        owned, _ = by_app(facts.observed.engine.containers)
        first = still_needed(name, wanted, owned)
        if first:
            return Step().say("Pruning", f"{why}; first goes what needs it: {', '.join(first)}")
        return removal(facts, why)
    if facts.target.pull is not None and facts.target.blocked is None:
        return _pull(facts, Step(), facts.target.pull, memory)
    if facts.target.desired is None:
        return clear_failed(facts) if facts.target.failed else unattended(facts)
    step = next_steps(facts)
    return step if facts.target.pull is None else _pull(facts, step, facts.target.pull, memory)


def _pull(facts: Facts, step: Step, pull: Pull, memory: Memory) -> Step:
    """Fetch the image in a lane of its own: meanwhile the version that runs is looked after."""
    lane = act.pull_lane(facts.target.name)
    retry = memory.retries.get(lane)
    step.done = False
    # What is done for the version that runs is said too, but after what holds up the new one.
    meanwhile = f" ({step.message})" if step.actions and step.message else ""
    step.message = ""
    if pull.forbidden:
        step.stalled = True
        return step.say("ImageMissing", f"{pull.reference} is not on this host, and pull_policy is never{meanwhile}")
    if retry is not None:
        step.say(retry.reason, f"{retry.message}{meanwhile}")
        if is_waiting(retry, facts.now):
            step.next_retry = retry.not_before
            return step.wait(retry.not_before, "", "")
    if lane not in memory.busy:
        why = f"{pull.reference} is asked for"
        step.actions.append(act.PullImage(facts.target.name, why, pull.reference, pull.credentials, pull.revision))
    return step.say("Pulling", f"pulling {pull.reference}; nothing changes before it is here{meanwhile}")


def _foreign_text(name: str, containers: tuple[Container, ...]) -> str:
    listed = ", ".join(container.name for container in containers)
    return (
        f"{listed} carries our labels for {name} but is not signed with this host's key (a lost key, a renamed "
        f"container, or another agent's); it is not touched, and nothing is started beside it. Put the key file back, "
        f"or remove it: docker rm -f {' '.join(container.name for container in containers)}"
    )


def _lost_text(containers: list[Container]) -> str:
    listed = ", ".join(sorted(container.name for container in containers))
    return f"not signed with this host's key, so not ours and not touched: {listed}"


def _held(owned: Mapping[str, tuple[Container, ...]]) -> dict[str, tuple[str, str]]:
    """What running containers have for themselves alone -> their app and name."""
    held = {}
    for app, containers in owned.items():
        for container in containers:
            if container.state == "running":
                ports = {f"{protocol}/{port}" for protocol, port in container.host_ports}
                held.update(dict.fromkeys({*container.writes, *ports}, (app, container.name)))
    return held


def _splits(app: str, wanted: Wanted, site: SiteState | None) -> bool | None:
    """Whether nginx deals the app's requests out to slots; None where that is not known, or about to change."""
    known = site is not None and wanted.generation and site.loaded == wanted.generation
    return app in wanted.split if known else None


def _waits_for(target: Target, statuses: Mapping[str, AppStatus], wanted: Wanted) -> str:
    if target.desired is None:
        return ""
    for dependency in target.desired.app.depends_on:
        if dependency not in wanted.targets:
            continue
        status = statuses.get(dependency)
        if status is None or status.health != "Healthy" or status.sync != "Synced":
            why = f" ({status.reason}: {status.message})" if status and status.message else ""
            return f"waiting for {dependency}, which is not healthy at this revision{why}"
    return ""


# --- which apps -----------------------------------------------------------------------------------------------------


def _used(observed: Observed) -> list[str]:
    used = [container.address for container in observed.engine.containers if container.address]
    for state in observed.names.names.values():
        used += state.written
    return used


def _in_order(wanted: Wanted, known: AbstractSet[str]) -> list[str]:
    """Dependencies first, then by name; what is left over and not wanted comes last."""
    needs = {
        name: [dependency for dependency in target.desired.app.depends_on if dependency in wanted.targets]
        for name, target in sorted(wanted.targets.items())
        if target.desired is not None
    }
    try:
        ordered = dict.fromkeys(TopologicalSorter(needs).static_order())
    except CycleError:  # no revision has one; versions of several revisions together may
        ordered = {}
    return [*ordered, *sorted(wanted.targets.keys() - ordered.keys()), *sorted(known - wanted.targets.keys())]
