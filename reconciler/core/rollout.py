"""The next steps of one app: a pure function of what should be, what is, and the time.

A rollout is not a procedure. Each call looks at the containers that exist and answers only what can be done now and
when to look again; whoever was interrupted in the middle starts from here and notices nothing. The order is

    files and secrets are there -> before_deploy has run -> new is started -> new is healthy
    -> the name answers new, and resolvers have heard of it -> nobody is connected to old -> old is stopped

and for ``recreate`` old is stopped (and kept) before new is started, so that it can be put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from reconciler.core import actions as act
from reconciler.core.addresses import AddressPool
from reconciler.core.desired import changed_fields
from reconciler.core.model import (
    App,
    Applied,
    Blocked,
    Container,
    DesiredApp,
    Limits,
    NamesState,
    NameState,
    Observed,
    Target,
    Task,
)
from reconciler.core.status import HealthWord

CRASH_LOOP = 3
"""So many restarts before it was ever healthy are a crash loop. One or two are an app that came before its database."""

_RESTARTING = 5.0  # seconds; Docker's event comes long before


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, measured with nginx 1.22 to 1.30 and dnsmasq 2.90."""

    settle: float = 2.2
    """After the name answers the new set. ``valid=1s`` lets nginx keep a name for almost two: it counts whole seconds,
    and what it asked for at 10.0 it still uses at 11.9."""
    names_warm: float = 4.0
    """A switch is not complete before the names service has been up for so long: nginx asks again within two."""
    drain_poll: float = 0.25
    """How often connections to a retiring replica are counted."""
    blind: float = 1.0
    """Answer and file may differ for so long before the names service is taken to be blind."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known about one app."""

    target: Target
    containers: tuple[Container, ...]
    """Owned ones of this app."""
    observed: Observed
    applied: Applied | None
    pool: AddressPool
    now: float
    timing: Timing
    waits_for: str = ""
    """Why a new version may not start yet: a dependency that is not healthy."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Volume, host directory or ``protocol/port`` -> the running container of another app that has it."""
    since: float = 0.0
    """Unix time at which the store was made."""
    pending: str = ""
    """The fingerprint of a version that is being made ready while the target is the one before it."""


@dataclass(slots=True)
class Step:
    """What one app needs now."""

    actions: list[act.Action] = field(default_factory=list)
    wake_at: float | None = None
    reason: str = "Applied"
    message: str = ""
    done: bool = False
    """Nothing to do and nothing to wait for: observed equals desired."""
    stalled: bool = False
    """Only a person or a commit can help."""
    next_retry: float | None = None
    """Unix time until which something waits that has failed."""

    def wait(self, until: float, reason: str, message: str) -> Step:
        """Look again at ``until``; the first reason given is the one that people see."""
        self.wake_at = until if self.wake_at is None else min(self.wake_at, until)
        return self.say(reason, message)

    def say(self, reason: str, message: str) -> Step:
        """Set the reason unless there is one."""
        if message and not self.message:
            self.reason, self.message = reason, message
        return self


def strategy_of(app: App) -> tuple[Literal["blue_green", "recreate"], str]:
    """The strategy and why, in words."""
    if app.rollout.strategy is not None:
        return app.rollout.strategy, "asked for by the manifest"
    if any(not volume.read_only for volume in app.volumes):
        return "recreate", "old and new would write to the same volume"
    if app.ports:
        return "recreate", "old and new would need the same port of the host"
    return "blue_green", "nothing is shared between old and new"


def is_ready(container: Container, app: App, observed: Observed, now: float) -> tuple[bool, float | None, str]:
    """Whether a replica may take traffic; else when to look again (None: an event will tell) and why not.

    One that takes traffic already has shown long ago that it stays healthy; it need not do so again for an agent that
    has just started.
    """
    if container.state != "running" or container.address is None:
        return False, None, f"{container.name} is {container.state}" if container.state != "running" else "no address"
    if app.health.kind in {"http", "tcp"}:
        probe = observed.probes.get(container.id)
        if probe is None or not probe.healthy:
            return False, None, probe.message if probe else ""
        since = max(probe.since, container.started_at)
    else:
        if container.engine_health in {"starting", "unhealthy"}:
            return False, None, f"its HEALTHCHECK says {container.engine_health}"
        since = container.started_at
    name = observed.names.names.get(app.name)
    stable_at = since + app.health.min_healthy_time
    proven = name is not None and container.address in name.written
    return proven or now >= stable_at, stable_at, "healthy, but not yet for long enough"


def is_sick(container: Container, app: App, observed: Observed) -> bool:
    """Known to be unfit, as opposed to not known yet."""
    if container.state != "running":
        return True
    if app.health.kind in {"http", "tcp"}:
        probe = observed.probes.get(container.id)
        return probe is not None and probe.healthy is False
    return container.engine_health == "unhealthy"


def next_steps(facts: Facts) -> Step:
    """The next steps toward ``facts.target.desired``, which must be known and its image present."""
    return _Rollout(facts).step()


def removal(facts: Facts, why: str) -> Step:
    """The next steps of an app that should not be here any more. Volumes stay."""
    step = Step()
    name = facts.observed.names.names.get(facts.target.name)
    if name is not None and name.written:
        step.actions.append(act.SetName(facts.target.name, why, ()))
        return step.say("Pruning", f"{why}; the name is taken out of use")
    for container in sorted(facts.containers, key=lambda c: c.name):
        gone_at = _retire(facts, step, container, name, 30.0, why)
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
    serving = name.written if name else ()
    for container in sorted(facts.containers, key=lambda c: c.name):
        claim = container.claim
        if claim is None or claim.fingerprint != facts.target.failed or container.address in serving:
            continue
        if container.state in {"running", "paused", "restarting"}:
            step.actions.append(
                act.StopContainer(claim.app, why, container.id, container.name, container.stop_grace_period)
            )
        step.actions.append(act.RemoveContainer(claim.app, why, container.id, container.name, claim.fingerprint))
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
    return step


class _Rollout:
    """One look at one app. Split into methods only for reading; each method may add actions or a reason to wait."""

    def __init__(self, facts: Facts) -> None:
        desired = facts.target.desired
        if desired is None:
            raise ValueError(f"{facts.target.name}: no desired state")
        self.facts = facts
        self.desired: DesiredApp = desired
        self.app = desired.app
        self.step_ = Step()
        replicas = [c for c in facts.containers if c.claim and c.claim.role == "replica"]
        self.tasks = [c for c in facts.containers if c.claim and c.claim.role == "task"]
        self.current = {
            c.claim.slot: c
            for c in replicas
            if c.claim and c.claim.fingerprint == desired.fingerprint and c.claim.slot <= self.app.replicas
        }
        self.retiring = [c for c in replicas if self.current.get(c.claim.slot if c.claim else 0) is not c]
        self.old_versions = [c for c in self.retiring if c.claim and c.claim.fingerprint != desired.fingerprint]
        # What we fall back to, and what takes traffic, was healthy once, even if the store that knew it is lost.
        self.name_state = facts.observed.names.names.get(self.app.name) or NameState((), 0.0, None)
        self.is_applied = (
            facts.target.blocked is not None
            or (facts.applied is not None and facts.applied.fingerprint == desired.fingerprint)
            or any(container.address in self.name_state.written for container in self.current.values())
        )
        self.drift = self.is_applied and not self.retiring
        self.ready = {slot: is_ready(c, self.app, facts.observed, facts.now) for slot, c in self.current.items()}
        self.all_ready = len(self.ready) == self.app.replicas and all(ready for ready, *_ in self.ready.values())

    def step(self) -> Step:
        step = self.step_
        self._put_files()
        if not self._may_start():
            return self._look_after_previous()
        recreate = strategy_of(self.app)[0] == "recreate" and bool(self.old_versions)
        if recreate and any(c.state in {"running", "paused", "restarting"} for c in self.old_versions):
            self._stop_old_first()
            return step
        self._start_missing()
        self._repair()
        if self._failed():
            return step
        self._switch_name()
        self._retire_old()
        self._finish()
        return step

    # -- before anything starts ------------------------------------------------------------------------------------

    def _put_files(self) -> None:
        desired, present = self.desired, self.facts.observed.present
        drift = self.drift and bool(self.current)
        if desired.files_directory and desired.files_directory not in present:
            reason = f"the files of {self.app.name} are not on disk"
            self.step_.actions.append(act.WriteFiles(self.app.name, reason, desired, drift=drift))
        if desired.secrets_directory and desired.secrets_directory not in present:
            reason = f"the secrets of {self.app.name} are not in memory"
            self.step_.actions.append(act.WriteSecrets(self.app.name, reason, desired, drift=drift))

    def _may_start(self) -> bool:
        """Whether new replicas may be started now: dependencies are healthy and before_deploy has run."""
        if self.is_applied or self.current:
            return True
        if self.facts.waits_for:
            self.step_.say("WaitingForDependency", self.facts.waits_for)
            return False
        holder = self._holder()
        if holder:
            self.step_.say("WaitingForRelease", holder)
            return False
        return self.app.before_deploy is None or self._before_deploy()

    def _look_after_previous(self) -> Step:
        """While this version may not start, the one that runs is kept as if nothing had been committed."""
        previous = self.facts.target.previous
        if previous is None or any(isinstance(action, act.Quarantine) for action in self.step_.actions):
            self._keep_name()
            return self.step_
        target = Target(self.app.name, previous, Blocked(self.step_.reason, self.step_.message))
        kept = next_steps(replace(self.facts, target=target, pending=self.desired.fingerprint))
        self.step_.actions += kept.actions
        if kept.wake_at is not None:
            self.step_.wait(kept.wake_at, "", "")
        return self.step_

    def _before_deploy(self) -> bool:
        """Whether it has run to a good end for this fingerprint. Its container, kept until then, is the proof."""
        task = self.app.before_deploy
        if task is None:
            return True
        ours = [c for c in self.tasks if c.claim and c.claim.fingerprint == self.desired.fingerprint]
        others = [c for c in self.tasks if c not in ours and c.state == "running"]
        if others:  # two migrations at once would be worse than a wait
            until = others[0].started_at + task.timeout
            if self.facts.now < until:
                self.step_.wait(until, "BeforeDeploy", "waiting for before_deploy of another version to end")
            else:
                self._end_task(others[0], "before_deploy of another version does not end")
            return False
        return self._task_has_ended_well(task, ours[0]) if ours else self._run_task(task)

    def _run_task(self, task: Task) -> bool:
        name = f"{self.app.name}.before.{self.desired.fingerprint[:8]}"
        address = self.facts.pool.take()
        if address is None:
            self._subnet_full()
            return False
        spec = replace(self.desired.spec, command=task.command, ports=(), health=None, restart=False)
        why = "before_deploy runs once for each version"
        self.step_.actions.append(act.RunTask(self.app.name, why, self.desired, address, name, spec))
        self.step_.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")
        return False

    def _task_has_ended_well(self, task: Task, container: Container) -> bool:
        where = (container.id, container.name)
        until = container.started_at + task.timeout
        if container.state == "created" and container.error:
            self._end_task(container, f"before_deploy could not be started: {container.error}")
        elif container.state == "created":
            why = "before_deploy was created but not started"
            self.step_.actions.append(act.StartContainer(self.app.name, why, *where))
            self.step_.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")
        elif container.state == "running" and self.facts.now < until:
            self.step_.wait(until, "BeforeDeploy", "before_deploy is running; no traffic has moved")
        elif container.state == "running":
            self._fail("BeforeDeployTimeout", f"before_deploy did not end within {task.timeout:g} s", container)
        elif container.state != "exited" or container.exit_code != 0:
            end = "ran out of memory" if container.oom_killed else f"ended with exit code {container.exit_code}"
            self._fail("BeforeDeployFailed", f"before_deploy {container.error or end}", container)
        else:
            return True
        return False

    # -- replicas --------------------------------------------------------------------------------------------------

    def _stop_old_first(self) -> None:
        """Recreate: everything new needs is there, so old makes room. It is kept, so that it can be put back."""
        why = f"{strategy_of(self.app)[1]}: the old version stops before the new one starts"
        leaving = {container.address for container in self.old_versions}
        staying = tuple(address for address in self.name_state.written if address not in leaving)
        if staying != self.name_state.written:
            self.step_.actions.append(act.SetName(self.app.name, why, staying))
        for container in self.old_versions:
            if container.state in {"running", "paused", "restarting"}:
                self.step_.actions.append(
                    act.StopContainer(self.app.name, why, container.id, container.name, container.stop_grace_period)
                )
        self.step_.say("RollingOut", f"replacing {self._change()}; {why}")

    def _end_task(self, container: Container, why: str) -> None:
        if container.state in {"running", "paused"}:
            self.step_.actions.append(
                act.StopContainer(self.app.name, why, container.id, container.name, container.stop_grace_period)
            )
        fingerprint = container.claim.fingerprint if container.claim else ""
        self.step_.actions.append(act.RemoveContainer(self.app.name, why, container.id, container.name, fingerprint))
        self.step_.say("BeforeDeploy", why)

    def _holder(self) -> str:
        """Who has what this app wants for itself alone: an app that was renamed, or one that gives it up."""
        wanted = [mount.source for mount in self.desired.spec.mounts if not mount.read_only]
        wanted += [f"{port.protocol}/{port.host}" for port in self.app.ports]
        for resource in wanted:
            if resource in self.facts.held:
                return f"waiting until {self.facts.held[resource]} lets go of {resource}"
        return ""

    def _start_missing(self) -> None:
        for slot in range(1, self.app.replicas + 1):
            if slot in self.current:
                continue
            name = f"{self.app.name}.{slot}.{self.desired.fingerprint[:8]}"
            address = self.facts.pool.take()
            if address is None:
                self._subnet_full()
                return
            applied = self.facts.applied
            drift = self.drift and applied is not None and applied.revision == self.desired.revision
            reason = f"container {name} is gone" if drift else self._why_start(name)
            self.step_.actions.append(
                act.StartReplica(self.app.name, reason, self.desired, slot, address, name, drift=drift)
            )
            self.step_.say("Repairing" if drift else "RollingOut", reason)

    def _subnet_full(self) -> None:
        self.step_.stalled = True
        self.step_.wait(
            self.facts.now + 60,
            "SubnetFull",
            "no address of docker.subnet is free; remove containers or make the subnet larger",
        )

    def _repair(self) -> None:
        """Bring existing current replicas back to what the manifest says, with the gentlest means."""
        for _, container in sorted(self.current.items()):
            repair = self._mend(container)
            if repair is not None:
                self.step_.actions.append(repair)
                self.step_.say("Repairing", repair.reason)

    def _mend(self, container: Container) -> act.Action | None:
        app, drift = self.app.name, self.drift
        where = (container.id, container.name)
        match container.state:
            case "created" | "exited":
                if container.error and container.state == "created":
                    reason = f"{container.name} could not be started: {container.error}"
                    return act.RemoveContainer(app, reason, *where, self.desired.fingerprint)
                reason = f"{container.name} was stopped" if container.state == "exited" else "it was not started yet"
                return act.StartContainer(app, reason, *where, drift=drift and container.state == "exited")
            case "dead":
                reason = f"the engine lost {container.name}"
                return act.RemoveContainer(app, reason, *where, self.desired.fingerprint, drift=drift)
            case "paused":
                return act.Unpause(app, f"{container.name} was paused", *where, drift=drift)
            case "running":
                return self._mend_running(container)
            case "restarting" | "removing":
                return None

    def _mend_running(self, container: Container) -> act.Action | None:
        app, drift = self.app.name, self.drift
        if container.address is None:
            address = self.facts.pool.take()
            if address is None:
                self._subnet_full()
                return None
            reason = f"{container.name} was disconnected from the network"
            return act.Reconnect(app, reason, container.id, container.name, address, drift=drift)
        spec = self.desired.spec
        limits = Limits(spec.cpus, spec.memory, spec.pids, spec.restart)
        if container.limits is not None and container.limits != limits:
            reason = f"limits of {container.name} were changed by hand"
            return act.UpdateLimits(app, reason, container.id, container.name, limits, drift=drift)
        return None

    def _failed(self) -> bool:
        """Whether a version that was never healthy has failed for good."""
        if self.is_applied:
            return False
        health = self.app.health
        for slot, container in sorted(self.current.items()):
            if self.ready[slot][0]:
                continue
            if container.oom_killed and container.restarts:
                self._fail("OutOfMemory", f"{container.name} ran out of memory ({_size(self.desired)})", container)
                return True
            if container.restarts >= CRASH_LOOP:
                code = "" if container.exit_code is None else f", last exit code {container.exit_code}"
                message = f"{container.name} ended {container.restarts} times before it was healthy{code}"
                self._fail("CrashLoop", message, container)
                return True
            if container.state == "restarting":  # and then it has its time; until then this is no standstill
                self.step_.wait(self.facts.now + _RESTARTING, *self._starting(slot, container))
            if container.state != "running":
                continue
            until = container.started_at + health.deadline
            if self.facts.now < until:
                self.step_.wait(until, *self._starting(slot, container))
            elif is_sick(container, self.app, self.facts.observed):
                message = f"{container.name} was not healthy within {health.deadline:g} s: {self.ready[slot][2]}"
                self._fail("DeadlineExceeded", message, container)
                return True
        return False

    def _starting(self, slot: int, container: Container) -> tuple[str, str]:
        detail = self.ready[slot][2]
        still = "; the old version goes on serving" if any(c.state == "running" for c in self.retiring) else ""
        return "RollingOut", f"waiting until {container.name} is healthy{f' ({detail})' if detail else ''}{still}"

    def _fail(self, cause: str, message: str, container: Container) -> None:
        self.step_.actions = [act.Quarantine(self.app.name, message, self.desired, cause, message, container.id)]
        self.step_.reason, self.step_.message = cause, message

    # -- the name --------------------------------------------------------------------------------------------------

    def _switch_name(self) -> None:
        """The name answers current replicas once they can carry the traffic, and healthy ones only."""
        for slot, (ready, look_at, _) in self.ready.items():
            if not ready and look_at is not None:
                self.step_.wait(look_at, *self._starting(slot, self.current[slot]))
        old_serving = [c for c in self.retiring if c.state == "running" and c.address in self.name_state.written]
        if old_serving and not self.all_ready:
            self._keep_name()
            return
        wanted = {c.address for slot, c in self.current.items() if self._serves(slot, c) and c.address}
        if not wanted:
            # A limping answer beats none: the last ones stay while they exist at all.
            there = {c.address for c in self.current.values() if c.address and c.state == "running"}
            wanted = there & set(self.name_state.written)
        self._set_name(sorted(wanted), "healthy replicas changed" if self.is_applied else "the new version is healthy")

    def _serves(self, slot: int, container: Container) -> bool:
        """Ready, or in the name already and not known to be sick (an agent that has just started knows nothing)."""
        if self.ready[slot][0]:
            return True
        known = container.address in self.name_state.written
        return known and not is_sick(container, self.app, self.facts.observed)

    def _keep_name(self) -> None:
        """While old serves: the name answers what is there and not known to be sick, new ones not yet."""
        previous = self.facts.target.previous
        manifest = previous.app if previous is not None else self.app
        there = [c for c in self.retiring if c.state == "running" and c.address]
        well = {c.address for c in there if is_ready(c, manifest, self.facts.observed, self.facts.now)[0]}
        unknown = {c.address for c in there if not is_sick(c, manifest, self.facts.observed)}
        written = set(self.name_state.written)
        kept = well | (unknown & written) or {c.address for c in there} & written
        self._set_name(sorted(address for address in kept if address), "healthy replicas changed")

    def _set_name(self, addresses: Sequence[str | None], reason: str) -> None:
        wanted = tuple(address for address in addresses if address)
        if wanted != self.name_state.written or self.name_state.written_at > self.facts.now + 1:
            # Before anything else of this look: starting a replica takes time, and whoever is gone must not be asked.
            self.step_.actions.insert(0, act.SetName(self.app.name, reason, wanted))
            self.step_.say("RollingOut" if not self.is_applied else "Switching", reason)

    def _switched(self) -> bool:
        """Every current replica is in the name, and everyone who asked before has asked again."""
        wanted = tuple(sorted(c.address for c in self.current.values() if c.address))
        if len(wanted) != self.app.replicas or self.name_state.written != wanted:
            return False
        return _settled(self.facts, self.name_state, self.step_)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def _retire_old(self) -> None:
        if not self.retiring:
            return
        stopped_recreate = all(c.state in {"exited", "created", "dead"} for c in self.retiring)
        if not self.all_ready or not (stopped_recreate or self._switched()):
            return
        for container in sorted(self.retiring, key=lambda c: c.name):
            why = "fewer replicas are asked for"
            if container in self.old_versions:
                blocked = self.facts.target.blocked is not None
                why = "the version before it goes on" if blocked else "the new version has taken over"
            look_at = _retire(self.facts, self.step_, container, self.name_state, self.app.rollout.drain, why)
            if look_at is not None:
                message = f"waiting until nobody is connected to {container.name}"
                self.step_.wait(look_at, "Draining", message)
            else:
                self.step_.say("Retiring", f"{container.name} is stopped and removed: {why}")

    def _finish(self) -> None:
        needed = {self.desired.fingerprint, self.facts.pending}
        for task in self.tasks:
            if task.claim and task.claim.fingerprint not in needed and not self.step_.actions:
                self._end_task(task, "its version is not wanted any more")
        if self.step_.actions or self.retiring or not self.all_ready:
            if not self.all_ready:
                sick = [self.ready[slot][2] or c.name for slot, c in self.current.items() if not self.ready[slot][0]]
                self.step_.say("Unhealthy", f"not healthy: {'; '.join(sick)}")
            return
        applied, desired = self.facts.applied, self.desired
        # "Synced" promises answers: who asked while nobody was there asks again by then. At first nobody has asked.
        heard_at = self.name_state.written_at + self.facts.timing.settle
        if applied is not None and self.facts.now < heard_at:
            self.step_.wait(heard_at, "Switching", "waiting until everyone has heard of the new addresses")
            return
        recorded = applied is not None and (applied.fingerprint, applied.revision) == (
            desired.fingerprint,
            desired.revision,
        )
        if not recorded and self.facts.target.blocked is None:
            # Docker tells whole seconds. A store from the future, made before the clock was set right, says nothing.
            since = int(self.facts.since) if self.facts.since <= self.facts.now else 0
            adopted = applied is None and all(c.created_at < since for c in self.current.values())
            why = "it ran before this store was made" if adopted else self._change()
            self.step_.actions.append(act.RecordApplied(self.app.name, why, desired, adopted))
        self.step_.done = True
        self.step_.say("Applied", "runs as the repository says")

    def _why_start(self, name: str) -> str:
        """For a replica that no commit of the applied revision explains: another revision may ask for more of them."""
        if self.old_versions or not (self.is_applied or self.current):
            return self._change()
        return f"{name} is missing ({self.app.replicas} replicas are asked for)"

    def _change(self) -> str:
        """What differs from the version that runs, in words."""
        claims = [c.claim for c in self.old_versions if c.claim]
        if not claims:
            scaled = self.current or self.is_applied
            return f"replicas: {self.app.replicas}" if scaled else "first deployment"
        changed = changed_fields(claims[0].fields, self.desired.fields)
        words = [name for name in changed if name != "image"]
        if "image" in changed:
            was, now = claims[0].image, self.app.image
            words.insert(0, f"image {was} -> {now}" if was != now else f"{now} is another image now")
        return f"{', '.join(words)} changed" if words and "image" not in changed else ", ".join(words) or "new version"


def _settled(facts: Facts, name: NameState, step: Step) -> bool:
    """Whether everyone who resolves the name has heard of its last change."""
    service: NamesState = facts.observed.names
    if service.up_since is None or name.answered != name.written:
        step.wait(facts.now + 0.1, "Switching", "waiting until the names service answers the new addresses")
        return False
    heard_at = max(name.written_at, name.answered_since)
    complete_at = max(heard_at + facts.timing.settle, service.up_since + facts.timing.names_warm)
    if facts.now < complete_at:
        step.wait(complete_at, "Switching", "waiting until everyone has heard of the new addresses")
        return False
    return True


def _retire(
    facts: Facts, step: Step, container: Container, name: NameState | None, drain: float, why: str
) -> float | None:
    """Stop and remove a container nobody talks to; else when to look again."""
    claim = container.claim
    if claim is None:
        return None
    app = facts.target.name
    if container.state in {"running", "paused", "restarting"}:
        since = name.written_at if name else container.started_at
        if name is not None and not _settled(facts, name, step):
            return None
        connected = facts.observed.connections.get(container.id, 0)
        if connected and facts.now < since + facts.timing.settle + drain:
            return facts.now + facts.timing.drain_poll
        step.actions.append(act.StopContainer(app, why, container.id, container.name, container.stop_grace_period))
    step.actions.append(act.RemoveContainer(app, why, container.id, container.name, claim.fingerprint))
    return None


def _size(desired: DesiredApp) -> str:
    return f"limit {desired.spec.memory // (1024 * 1024)} MiB"


def health_of(facts: Facts, *, moving: bool) -> tuple[HealthWord, int, int]:
    """The health word, running replicas and healthy replicas."""
    replicas = [c for c in facts.containers if c.claim and c.claim.role == "replica"]
    running = [c for c in replicas if c.state == "running"]
    app = facts.target.desired.app if facts.target.desired else None
    if app is None:
        return ("Healthy" if running else "Missing"), len(running), len(running)
    healthy = [c for c in running if is_ready(c, app, facts.observed, facts.now)[0]]
    if moving:
        return "Progressing", len(running), len(healthy)
    if not running:
        return "Missing", 0, 0
    return ("Healthy" if len(healthy) >= app.replicas else "Degraded"), len(running), len(healthy)
