"""The walk, top to bottom. READ THIS FIRST.

    tip       = source.trusted()               the config repository; ``fetch`` moves it, ls-remote first
    catalog   = read_catalog(tree)             pure: manifests and every problem with file:line:column
    targets   = targets.build(...)             secrets revealed, images known: what each app should become
    observed  = observe()                      containers, names as answered, nginx's loaded generation
    plan      = plan(targets, observed, now)   pure: the next steps only
    apply     = apply.start(plan)              the only writer, in the background
    report                                     status, metrics, one sentence

A cycle is quick: nothing slow happens in it. ``validate``, ``render`` and ``plan`` on the command line are prefixes
of it; ``sync`` and ``run`` repeat it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from reconciler.apply import Apply, Outcome
from reconciler.chronicle import Chronicle
from reconciler.core import actions as act
from reconciler.core.backoff import Backoff
from reconciler.core.canary import counted
from reconciler.core.memory import Memory
from reconciler.core.model import App, Catalog, Commit
from reconciler.core.observed import Container, EngineState, Observed, SiteState
from reconciler.core.ownership import by_app, is_rehearsal
from reconciler.core.plan import Plan, plan
from reconciler.core.policy import belongs
from reconciler.core.removals import PRUNE_BLOCKED, refused_removals
from reconciler.core.rollout import strategy_of
from reconciler.core.routing import route
from reconciler.core.site import Generation
from reconciler.core.status import HostStatus
from reconciler.core.step import Timing
from reconciler.core.target import Blocked, Target
from reconciler.core.wanted import Wanted
from reconciler.core.watch import retiring, watch_list
from reconciler.errors import Failed, InvalidInput, ReconcilerError, Unavailable
from reconciler.protocols import Clock, Engine, Files, Meter, Names, Prober, Site, Source, Store, Tally
from reconciler.report import Report, Seen
from reconciler.targets import ReadCatalog, Targets

log = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPTS_WHILE_DOWN = 6
"""So often, within about a minute, a version is tried for which the old one had to stop."""
_QUIET = 3600.0  # seconds; images of apps that are gone go after days
_GONE_WHILE_SUSPENDED = "the repository no longer names it, but it is suspended and stays"

RenderSite = Callable[[Sequence[App], SiteState, frozenset[str]], Generation]


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside, as the walk sees it."""

    source: Source
    engine: Engine
    names: Names
    site: Site | None
    prober: Prober
    files: Files
    store: Store
    meter: Meter
    clock: Clock
    tally: Tally | None = None
    """None where there is no nginx that could tell."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about the walk."""

    host: str
    subnet: str
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class View:
    """One look at everything, before anything is done."""

    commit: Commit
    wanted: Wanted
    observed: Observed
    memory: Memory
    plan: Plan


@dataclass(slots=True)
class _Phases:
    """How long each phase of a cycle took, in seconds."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, call: Callable[[], T]) -> T:
        started = self.clock()
        try:
            return call()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - started


class Cycle:
    """One walk after another.

    Args:
        world: Everything outside.
        read_catalog: Parses a tree; caches what has not changed.
        targets: Resolves apps.
        render_site: nginx's configuration for the targets.
        apply: Carries out actions.
        chronicle: Writes down what happened.
        rules: From the settings.
    """

    def __init__(
        self,
        world: World,
        read_catalog: ReadCatalog,
        targets: Targets,
        render_site: RenderSite,
        apply: Apply,
        chronicle: Chronicle,
        rules: Rules,
    ) -> None:
        self._world = world
        self._read_catalog = read_catalog
        self._targets = targets
        self._render_site = render_site
        self._apply = apply
        self._chronicle = chronicle
        self._rules = rules
        self._backoff = Backoff()
        self._pulled: set[tuple[str, str]] = set()
        self._site_fault: tuple[str, str] | None = None
        self._swept = False
        self._fingerprints: dict[str, str] = {}
        self._fetch_fault: tuple[str, str] | None = None
        self._last_fetch_at: float | None = None
        self._quiet: tuple[tuple[Wanted, Observed, Memory], Plan, float] | None = None
        self._report = Report(rules.host, world.store, world.meter, world.clock)

    @property
    def status(self) -> HostStatus | None:
        """Where everything stands, after the last cycle."""
        return self._report.status

    # -- the walk ---------------------------------------------------------------------------------------------------

    def fetch(self) -> bool:
        """Ask the remote for a newer tip. May take as long as the network pleases, so the agent does it off the loop.

        Returns:
            Whether the remote answered with something that can be used. If not, the last trusted revision goes on
            and the status says why.
        """
        error: ReconcilerError | None = None
        try:
            self._world.source.fetch()
        except ReconcilerError as failure:
            error = failure
        except Exception as failure:
            log.exception("fetching found an error in the agent itself")
            error = _internal(failure)
        if error is not None:
            self._world.meter.record_fetch("failure")
            if self._fetch_fault != (error.reason, str(error)):
                log.warning("config repository: %s", error)
            self._fetch_fault = (error.reason, str(error))
            return False
        self._world.meter.record_fetch("success")
        self._fetch_fault = None
        self._last_fetch_at = self._world.clock()
        return True

    def run(self) -> Plan:
        """Walk once, at the last trusted revision."""
        phases = _Phases()
        commit: Commit | None = None
        try:
            self._settle(self._apply.outcomes())
            commit = self.tip()
            view = self.look(commit, phases)
        except ReconcilerError as error:
            return self._fail(error, commit, phases)
        except Exception as error:
            # Nothing that stands in a repository may stop the agent; the next commit may mend it.
            log.exception("the walk found an error in the agent itself")
            return self._fail(_internal(error), commit, phases)
        phases.time("apply", lambda: self._apply.start(view.plan.actions))
        self._told(view, phases)
        return view.plan

    def tip(self) -> Commit:
        """The last trusted revision.

        Raises:
            Unavailable: There is none yet; says why the remote could not be read.
        """
        commit = self._world.source.trusted()
        if commit is None:
            reason, message = self._fetch_fault or ("NotFetched", "the config repository has not been fetched yet")
            raise Unavailable(message, reason=reason)
        return commit

    def look(self, commit: Commit, phases: _Phases | None = None) -> View:
        """Everything up to the plan; changes nothing."""
        phases = phases or _Phases()
        world = self._world
        # Before anything is observed: what ends while we look would otherwise be planned again from what it was.
        memory = self._memory()
        catalog = phases.time("parse", lambda: self._catalog(commit.sha))
        engine = phases.time("observe", world.engine.observe)
        targets = phases.time("resolve", lambda: self._targets.build(commit.sha, catalog, engine, memory))
        before = self._before(targets, engine, memory)
        refused = refused_removals(Wanted(commit.sha, catalog, targets, "", before=before), engine.containers, memory)
        if refused is not None:  # with all that belongs to them: their routes, and repairs
            targets |= self._targets.held(refused[0], Blocked(PRUNE_BLOCKED, refused[1]), engine, memory)
        left_alone = memory.suspended.keys() - targets.keys()
        if left_alone:
            left_alone &= by_app(engine.containers)[0].keys()
        targets |= self._targets.held(left_alone, Blocked("Suspended", _GONE_WHILE_SUSPENDED), engine, memory)
        observed = phases.time("observe", lambda: self._observe(targets, engine))
        routing = route(targets, observed, memory)
        generation, site = Generation("", ()), observed.site
        unknown = routing.lost_on(site) if site is not None else ()
        if site is not None and not unknown and not routing.is_early:
            generation = phases.time("resolve", lambda: self._render_site(routing.apps, site, routing.split))
        wanted = Wanted(
            commit.sha,
            catalog,
            targets,
            generation.id,
            generation.files,
            before,
            generation.clashes,
            split=generation.split,
            routes_unknown=unknown,
            host=self._rules.host,
        )
        made = phases.time("plan", lambda: self._plan(wanted, observed, memory))
        return View(commit, wanted, observed, memory, made)

    def _plan(self, wanted: Wanted, observed: Observed, memory: Memory) -> Plan:
        """The next steps. Where none was left and none was waited for, an hour alone brings no new one."""
        looked, now = (wanted, observed, memory), self._world.clock()
        if self._quiet is not None and 0 <= now - self._quiet[2] < _QUIET and self._quiet[0] == looked:
            return self._quiet[1]
        made = plan(*looked, self._rules.subnet, now, self._rules.timing)
        self._quiet = (looked, made, now) if made.converged and not made.actions and made.wake_at is None else None
        return made

    def _catalog(self, revision: str) -> Catalog:
        catalog = self._read_catalog(self._world.source.tree(revision))
        if catalog.fleet is not None and self._rules.host not in catalog.fleet:
            known = ", ".join(sorted(catalog.fleet))
            raise InvalidInput(
                f"this host calls itself {self._rules.host!r}, which fleet.yaml does not list; nothing is changed",
                reason="HostUnknown",
                remedy=f"Add it to fleet.yaml, or set host in the agent's settings to one of: {known}",
            )
        return catalog

    def _before(self, targets: Mapping[str, Target], engine: EngineState, memory: Memory) -> dict[str, tuple[str, ...]]:
        """The apps that this host had when those that are to go were applied last, and what each depended on."""
        own = (c for c in engine.containers if c.owned and c.claim and c.claim.app not in targets)
        gone = {c.claim.app: c.claim.revision for c in own if c.claim and not is_rehearsal(c)}
        revisions = {name: memory.applied[name].revision if name in memory.applied else gone[name] for name in gone}
        before: dict[str, tuple[str, ...]] = {}
        needs: dict[str, tuple[str, ...]] = {}
        for revision in sorted(set(revisions.values())):
            try:
                catalog = self._read_catalog(self._world.source.tree(revision))
            except ReconcilerError as error:
                log.warning("revision %s cannot be read: %s", revision[:8], error)
                continue
            here = {n: a.depends_on for n, a in catalog.apps.items() if belongs(a, self._rules.host, catalog.fleet)}
            before |= here
            needs |= {name: here.get(name, ()) for name in gone if revisions[name] == revision}
        return before | needs  # of each that goes, what it needed at its own revision

    def _memory(self) -> Memory:
        return replace(
            self._world.store.memory(),
            retries=self._backoff.retries,
            pulled=frozenset(self._pulled),
            busy=self._apply.busy,
            swept=self._swept,
            reserved=self._apply.reserved,
        )

    def _observe(self, targets: Mapping[str, Target], engine: EngineState) -> Observed:
        world = self._world
        owned = [container for container in engine.containers if container.owned and container.claim]
        # A rehearsal has no name: one that outlives its app would be taken for something left of it to remove.
        names = set(targets) | {c.claim.app for c in owned if c.claim and not is_rehearsal(c)}
        world.prober.watch(watch_list(targets, owned))
        if world.tally is not None:
            world.tally.watch(counted(targets, owned))
        return Observed(
            engine=engine,
            names=world.names.observe(names),
            site=self._site(),
            probes=world.prober.results(),
            connections={container: world.engine.connections(container) for container in retiring(targets, owned)},
            present=world.files.present(),
            traffic=world.tally.results() if world.tally is not None else {},
        )

    def _site(self) -> SiteState | None:
        """What nginx has loaded. One that is not even installed is a fault of the host; apps do not wait for it."""
        self._site_fault = None
        try:
            return self._world.site.observe() if self._world.site else None
        except ReconcilerError as error:
            self._site_fault = (error.reason, str(error))
            return None

    # -- what came of the actions ------------------------------------------------------------------------------------

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        """Failures wait longer each time; a failure that repeating cannot help is quarantined."""
        now = self._world.clock()
        for outcome in outcomes:
            action, lane = outcome.action, act.lane(outcome.action)
            if outcome.error is None:
                self._swept = self._swept or isinstance(action, act.RemoveLeftovers)
                if isinstance(action, act.PullImage):
                    self._pulled.add((action.reference, action.revision))
                if isinstance(action, act.RestartContainer):
                    self._backoff.restarted(act.retry_lane(action), action.name, now)
                elif action.drift:
                    self._backoff.repaired(action.app, getattr(action, "name", lane), now)
                elif isinstance(action, act.RecordApplied | act.PullImage) or lane in act.HOST_LANES:
                    self._backoff.succeeded(lane)
                elif isinstance(action, act.RecordRehearsal | act.EndRehearsal):
                    self._rehearsed(action, now)
                continue
            versioned = act.is_attempt(action) or isinstance(action, act.PullImage)
            tried = self._fingerprints.get(action.app, "") if versioned else ""
            attempts = self._backoff.failed(
                act.retry_lane(action), outcome.error.reason, str(outcome.error), now, tried
            )
            if isinstance(action, act.StartReplica | act.RunTask):
                self._judge(action, outcome.error, attempts)

    def _rehearsed(self, action: act.RecordRehearsal | act.EndRehearsal, now: float) -> None:
        """An answer settles all attempts; a replica that came to nothing counts as one that could not be started."""
        self._backoff.succeeded(act.retry_lane(action))
        lane = act.rehearsal_lane(action.app)
        if isinstance(action, act.RecordRehearsal):
            self._backoff.succeeded(lane)
        elif action.unclear:
            tried = self._fingerprints.get(action.app, "")
            self._backoff.failed(lane, "RehearsalInterrupted", action.reason, now, tried)

    def _judge(self, action: act.StartReplica | act.RunTask, error: ReconcilerError, attempts: int) -> None:
        # A taken port is found after the old version has stopped to make room: it must come back.
        hopeless = isinstance(error, Failed) or error.reason == "PortTaken"
        makes_room = strategy_of(action.desired.app)[0] == "recreate"
        if isinstance(action, act.RunTask) and action.role == "after":
            if hopeless:
                self._fail_after(action, str(error))
        elif hopeless or (makes_room and attempts >= _ATTEMPTS_WHILE_DOWN):
            self._give_up(action, error)

    def _give_up(self, action: act.StartReplica | act.RunTask, error: ReconcilerError) -> None:
        """The engine will not run this version; give it up where an older one can come back."""
        applied = self._world.store.memory().applied.get(action.app)
        if applied is None or applied.fingerprint == action.desired.fingerprint:
            return
        failure = act.Quarantine(action.app, str(error), action.desired, error.reason, str(error), None)
        try:
            self._chronicle.failed(failure, "")
        except ReconcilerError as unwritten:  # then it waits and is tried again, which finds the same
            log.warning("%s: the failure cannot be written down: %s", action.app, unwritten)
        else:
            self._backoff.succeeded(action.app)

    def _fail_after(self, action: act.RunTask, message: str) -> None:
        """The engine will not run this after_deploy; the version serves all the same."""
        failure = act.AfterDeployFailed(action.app, message, action.desired, "AfterDeployFailed", message, None)
        try:
            self._chronicle.after_failed(failure, "")
        except ReconcilerError as unwritten:  # as above
            log.warning("%s: the failure cannot be written down: %s", action.app, unwritten)
        else:
            self._backoff.succeeded(act.retry_lane(action))

    # -- report -----------------------------------------------------------------------------------------------------

    def _told(self, view: View, phases: _Phases) -> None:
        """What came right is forgotten, what happened is written down, and where everything stands is said."""
        world, made = self._world, view.plan
        self._backoff.forget_except({*view.wanted.targets, *made.statuses, made.rehearsing}, world.clock())
        for lane in set(act.HOST_LANES) - made.needs:
            self._backoff.succeeded(lane)  # it came right by itself
        for name, target in view.wanted.targets.items():
            if target.pull is None:
                self._backoff.succeeded(act.pull_lane(name))
        versions = {name: target.desired for name, target in view.wanted.targets.items()}
        self._fingerprints = {name: version.fingerprint for name, version in versions.items() if version is not None}
        self._pulled = {pulled for pulled in self._pulled if pulled[1] == view.commit.sha}
        at_work = {action.app for action in made.actions}
        for name, status in made.statuses.items():
            if status.sync == "Synced" and status.next_retry is None and name not in at_work:
                self._backoff.recovered(name)
        self._chronicle.saw(view.wanted.targets)
        self._chronicle.watched(made.statuses)
        fetch_fault = (self._fetch_fault,) if self._fetch_fault else ()
        site_fault = (self._site_fault,) if self._site_fault else ()
        faults = (*fetch_fault, *site_fault, *world.store.faults(), *made.faults, *made.notices)
        busy = any(not act.is_rehearsal_lane(lane) for lane in (*self._apply.busy, *view.memory.busy))
        seen = Seen(view.commit, view.wanted.catalog.problems, faults, self._last_fetch_at)
        told = self._report.walked(made, seen, busy=busy)
        world.meter.record_cycle(told.result, phases.seconds)
        world.meter.set_containers(_pids(view.observed.engine.containers))

    def _fail(self, error: ReconcilerError, commit: Commit | None, phases: _Phases) -> Plan:
        """Nothing could be planned."""
        faults = [(error.reason, str(error))]
        if self._fetch_fault and self._fetch_fault not in faults:
            faults.append(self._fetch_fault)
        told = self._report.failed(error, commit, tuple(faults), self._last_fetch_at)
        self._world.meter.record_cycle(told.result, phases.seconds)
        return Plan(faults=tuple(faults))


def _internal(error: Exception) -> Unavailable:
    """An error that nobody foresaw. Its text is not told: nobody has checked that it holds no secret."""
    return Unavailable(
        f"the agent found an error in itself ({type(error).__name__}); apps go on as they are",
        reason="InternalError",
        remedy="Its log has the details; please report them",
    )


def _pids(containers: Iterable[Container]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for container in containers:
        own = container.owned and not is_rehearsal(container)
        if own and container.claim and container.state == "running" and container.pid:
            found.setdefault(container.claim.app, []).append(container.pid)
    return found
