"""What a plan would lead to if every step went well: the same ``plan``, played forward on paper.

The command line shows people a whole rollout with it, and the tests run the planner through whole lives of apps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.afterwards import in_words
from reconciler.core.memory import Applied, Due, Memory, Version
from reconciler.core.observed import (
    Claim,
    Container,
    EngineState,
    Limits,
    NamesState,
    NameState,
    Observed,
    ProbeResult,
    SiteState,
)
from reconciler.core.ownership import claim_of
from reconciler.core.plan import Plan, plan
from reconciler.core.retiring import is_up
from reconciler.core.target import Blocked, DesiredApp, Target
from reconciler.core.tasks import ROLES
from reconciler.core.wanted import Wanted

_ROUNDS = 2_000
_COST = 0.2
"""Seconds that starting or stopping a well-behaved container takes; measured, rounded up."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step on paper."""

    at: float
    """Seconds from now."""
    action: act.Action


@dataclass(frozen=True, slots=True)
class Forecast:
    """How it would go."""

    events: tuple[Event, ...]
    down: Mapping[str, float]
    """App -> seconds for which nobody would answer its name, of those that answer now."""
    end: Plan
    observed: Observed
    memory: Memory
    wanted: Wanted
    began: Memory = field(default_factory=Memory)
    """What was remembered at first."""


def forecast(wanted: Wanted, observed: Observed, memory: Memory, subnet: str, now: float) -> Forecast:
    """Play the plan forward until nothing is left to do."""
    paper = Paper(observed, memory, wanted, now)
    events: list[Event] = []
    down: dict[str, float] = {}
    emptied: dict[str, float] = {}
    made = Plan()
    for _ in range(_ROUNDS):
        made = plan(paper.wanted, paper.observed, paper.memory, subnet, paper.now)
        if not made.actions:
            if paper.end_tasks():
                continue
            if made.wake_at is None or made.wake_at > paper.now + 86_400:
                break
            paper.now = max(made.wake_at, paper.now + 0.01)
            continue
        for action in made.actions:
            events.append(Event(paper.now - now, action))
            if isinstance(action, act.SetName):
                had = bool(paper.name(action.app).written)
                if had and not action.addresses and action.app in paper.wanted.targets:
                    emptied[action.app] = paper.now
                elif action.addresses and action.app in emptied:
                    down[action.app] = paper.now - emptied.pop(action.app)
            paper.do(action)
    return Forecast(tuple(events), down, made, paper.observed, paper.memory, paper.wanted, memory)


class Paper:
    """A host on paper, to which actions can be done."""

    def __init__(self, observed: Observed, memory: Memory, wanted: Wanted, now: float) -> None:
        self.observed = observed
        self.memory = replace(memory, retries={}, busy={})
        self.wanted = wanted
        self.now = now
        # Whoever was not asked yet is taken to be well: this is how it goes if all goes well.
        unknown = [c.id for c in observed.engine.containers if c.state == "running" and not _known(observed, c.id)]
        for container in unknown:
            self._healthy(container)
        if self.observed.names.up_since is not None:  # on paper it has been up for long
            self.observed = replace(self.observed, names=replace(self.observed.names, up_since=0.0))

    def name(self, app: str) -> NameState:
        """One name."""
        return self.observed.names.names.get(app, NameState((), 0.0, ()))

    def end_tasks(self) -> bool:
        """Let the tasks that run end well. Whether there were any."""
        running = [c for c in self.observed.engine.containers if is_up(c) and c.claim and c.claim.role in ROLES]
        for task in running:
            self._change(task.id, state="exited", exit_code=0, pid=0, finished_at=self.now)
        return bool(running)

    def do(self, action: act.Action) -> None:  # noqa: C901, PLR0912, PLR0915  (one flat table, like apply.perform)
        """Let an action have gone well."""
        match action:
            case act.EnsureNetwork():
                self._engine(replace(self.observed.engine, network=True))
            case act.StartNames():
                self.observed = replace(self.observed, names=replace(self.observed.names, up_since=0.0))
                for app in list(self.observed.names.names):
                    self._name(app, self.name(app).written)
            case act.PullImage():
                self._pulled(action)
            case act.WriteFiles():
                self._present(action.desired.files_directory)
            case act.WriteSecrets():
                self._present(action.desired.secrets_directory)
            case act.StartReplica():
                claim = claim_of(action.desired, "replica", action.slot)
                self._start(action.desired, claim, action.name, action.address)
            case act.RunTask():
                claim = claim_of(action.desired, action.role, run=action.run, well=action.well)
                self._start(action.desired, claim, action.name, action.address)
            case act.StartContainer() | act.RestartContainer() | act.Unpause():
                self._change(action.container, state="running", started_at=self.now, pid=1)
            case act.Reconnect():
                self._change(action.container, address=action.address)
            case act.UpdateLimits():
                self._change(action.container, limits=action.limits)
            case act.StopContainer():
                self.now += _COST
                self._change(action.container, state="exited", exit_code=0, pid=0)
            case act.RemoveContainer() | act.EndRehearsal():
                left = tuple(c for c in self.observed.engine.containers if c.id != action.container)
                self._engine(replace(self.observed.engine, containers=left))
            case act.SetName():
                self._name(action.app, action.addresses)
            case act.SetSlots():
                for slot, addresses in action.slots:
                    self._name(slot, addresses)
                target = self.wanted.targets.get(action.app)
                if target is not None and target.desired is not None and slots.wants(target.desired.app):
                    self.wanted = replace(self.wanted, split=self.wanted.split | {action.app})  # nginx is told so
            case act.ForgetSlots():
                self._unname(slots.names_of(action.app))
            case act.LoadSite():
                resolve = self.observed.site.resolve if self.observed.site else False
                self.observed = replace(self.observed, site=SiteState(action.generation, action.generation, resolve))
            case act.RecordApplied():
                self._applied(action)
            case act.AfterDeployDone():
                due = {name: one for name, one in self.memory.due.items() if name != action.app}
                self.memory = replace(self.memory, due=due)
            case act.AfterDeployFailed():
                failed = replace(self.memory.due[action.app], cause=action.cause, message=action.message)
                self.memory = replace(self.memory, due={**self.memory.due, action.app: failed})
            case act.RecordPruned() | act.RemoveLeftovers() | act.CollectImage():
                self._forget(action)
            case act.Rehearse():
                self._start(action.desired, claim_of(action.desired, "rehearsal"), action.name, action.address)
            case act.RecordRehearsal():
                self.memory = replace(self.memory, rehearsed={**self.memory.rehearsed, action.app: action.answer})
            case act.Quarantine():
                # It has failed already, before anything is done on paper; what then goes on is another plan.
                given_up = Target(action.app, None, Blocked(action.cause, action.message))
                self.wanted = replace(self.wanted, targets={**self.wanted.targets, action.app: given_up})
            case _:
                assert_never(action)

    def _applied(self, action: act.RecordApplied) -> None:
        desired, memory = action.desired, self.memory
        applied = Applied(desired.revision, desired.fingerprint, self.now)
        known = memory.versions.get(action.app, ())
        others = [v for v in known if v.fingerprint != desired.fingerprint]
        place = next((v.place for v in known if v not in others), max((v.place for v in known), default=0) + 1)
        before = desired.app.before_deploy
        ran = before.words if before else ""
        reference = desired.app.image
        version = Version(desired.fingerprint, desired.spec.image, self.now, desired.revision, place, reference, ran)
        was = memory.applied.get(action.app)
        due, after = dict(memory.due), in_words(desired.app.after_deploy)
        if was is None or was.fingerprint != desired.fingerprint:
            due.pop(action.app, None)
            if desired.app.after_deploy is not None and not action.adopted:
                due[action.app] = Due(desired.fingerprint, action.way, self.now, task=after)
        elif (owed := due.get(action.app)) is not None and owed.task not in {"", after}:
            due[action.app] = Due(desired.fingerprint, owed.way, self.now, task=after)
        self.memory = replace(
            memory,
            due=due,
            applied={**memory.applied, action.app: applied},
            versions={**memory.versions, action.app: (version, *others)},
        )

    def _forget(self, action: act.RecordPruned | act.RemoveLeftovers | act.CollectImage) -> None:
        if isinstance(action, act.RemoveLeftovers):
            self.observed = replace(self.observed, present=self.observed.present & action.keep)
            return
        if isinstance(action, act.CollectImage):
            left = {name: image for name, image in self.observed.engine.images.items() if image != action.image}
            self._engine(replace(self.observed.engine, images=left))
            brought = {image: known for image, known in self.memory.brought.items() if image != action.image}
            self.memory = replace(self.memory, brought=brought)
            return
        self._unname((action.app, *slots.names_of(action.app)))
        applied = {name: entry for name, entry in self.memory.applied.items() if name != action.app}
        versions = tuple(replace(version, at=self.now) for version in self.memory.versions.get(action.app, ()))
        self.memory = replace(self.memory, applied=applied, versions={**self.memory.versions, action.app: versions})

    def _pulled(self, action: act.PullImage) -> None:
        target = self.wanted.targets[action.app]
        if target.pull is not None:
            fresh = Target(action.app, target.pull.desired)
            self.wanted = replace(self.wanted, targets={**self.wanted.targets, action.app: fresh})

    def _present(self, directory: str) -> None:
        self.observed = replace(self.observed, present=self.observed.present | {directory})

    def _start(self, desired: DesiredApp, claim: Claim, name: str, address: str) -> None:
        """A replica serves; a task has ended well at once."""
        self.now += _COST
        spec, role, task = desired.spec, claim.role, claim.role in ROLES
        container = Container(
            id=f"paper:{name}",
            name=name,
            state="exited" if task else "running",
            image=spec.image,
            created_at=self.now,
            claim=claim,
            owned=True,
            address=address,
            started_at=self.now,
            finished_at=self.now if task else 0.0,
            engine_health="none" if spec.health is None else "healthy",
            exit_code=0 if task else None,
            pid=1,
            limits=Limits(spec.cpus, spec.memory, spec.pids, spec.restart) if role == "replica" else None,
            writes=frozenset(mount.source for mount in spec.mounts if not mount.read_only),
            host_ports=tuple((port.protocol, port.host) for port in spec.ports) if role == "replica" else (),
            stop_grace_period=spec.stop_grace_period,
        )
        self._engine(replace(self.observed.engine, containers=(*self.observed.engine.containers, container)))
        self._healthy(container.id)

    def _change(self, container: str, **changes: object) -> None:
        changed = tuple(
            replace(c, **changes) if c.id == container else c  # type: ignore[arg-type]  # names checked by replace
            for c in self.observed.engine.containers
        )
        self._engine(replace(self.observed.engine, containers=changed))
        self._healthy(container)

    def _healthy(self, container: str) -> None:
        self.observed = replace(
            self.observed,
            probes={**self.observed.probes, container: ProbeResult(True, self.now)},
        )

    def _engine(self, engine: EngineState) -> None:
        self.observed = replace(self.observed, engine=engine)

    def _unname(self, gone: tuple[str, ...]) -> None:
        names = {name: state for name, state in self.observed.names.names.items() if name not in gone}
        self.observed = replace(self.observed, names=replace(self.observed.names, names=names))

    def _name(self, app: str, addresses: tuple[str, ...]) -> None:
        names = {**self.observed.names.names, app: NameState(addresses, self.now, addresses)}
        self.observed = replace(self.observed, names=NamesState(self.observed.names.up_since, names))


def _known(observed: Observed, container: str) -> bool:
    probe = observed.probes.get(container)
    return probe is not None and probe.healthy is not None


def empty_host(*, site: bool = True) -> Observed:
    """A host with an engine, a names service and nginx, and nothing on it."""
    return Observed(
        engine=EngineState((), {}, network=True),
        names=NamesState(0.0),
        site=SiteState(None, None, resolve=False) if site else None,
    )


def by_app(events: tuple[Event, ...]) -> Iterator[tuple[str, list[Event]]]:
    """Events of one app together, in the order in which the apps come first."""
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.action.app, []).append(event)
    yield from grouped.items()
