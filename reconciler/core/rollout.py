"""The next steps of one app: a pure function of what should be, what is, and the time.

A rollout is not a procedure. Each call looks at the containers that exist and answers only what can be done now and
when to look again; whoever was interrupted in the middle starts from here and notices nothing. The order is

    files and secrets are there -> before_deploy has run -> new is started -> new is healthy
    -> the name answers new, and resolvers have heard of it -> nobody is connected to old -> old is stopped
    -> it is recorded as applied -> after_deploy has run

and for ``recreate`` old is stopped (and kept) before new is started, so that it can be put back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from reconciler.core import actions as act
from reconciler.core.afterwards import after_deploy, record
from reconciler.core.canary import Canary
from reconciler.core.desired import changed_fields
from reconciler.core.guarding import has_held, is_stopped
from reconciler.core.mending import SUBNET_FULL, mend, restart_sick
from reconciler.core.model import App
from reconciler.core.observed import Container, NameState
from reconciler.core.readiness import is_ready, is_sick
from reconciler.core.retiring import is_up, retire, settled, stop
from reconciler.core.step import Facts, Step
from reconciler.core.target import Blocked, DesiredApp, Target
from reconciler.core.tasks import ROLES, before_deploy, end_unneeded

CRASH_LOOP = 3
"""So many restarts before it was ever healthy are a crash loop. One or two are an app that came before its database."""

_RESTARTING = 5.0  # seconds; Docker's event comes long before


Strategy = Literal["blue_green", "rolling", "recreate", "canary"]


def strategy_of(app: App) -> tuple[Strategy, str]:
    """The strategy and why, in words."""
    if app.rollout.strategy is not None:
        return app.rollout.strategy, "asked for by the manifest"
    if any(not volume.read_only for volume in app.volumes):
        return "recreate", "old and new would write to the same volume"
    if app.ports:
        return "recreate", "old and new would need the same port of the host"
    if app.replicas > 1 and not app.ingress:
        return "rolling", "it has several replicas and no ingress"
    return "blue_green", "nothing is shared between old and new"


def next_steps(facts: Facts) -> Step:
    """The next steps toward ``facts.target.desired``, which must be known and its image present."""
    return _Rollout(facts).step()


class _Rollout:
    """One look at one app. Split into methods only for reading; each method may add actions or a reason to wait."""

    def __init__(self, facts: Facts) -> None:
        desired = facts.target.desired
        if desired is None:
            raise ValueError(f"{facts.target.name}: no desired state")
        self.facts = facts
        self.desired: DesiredApp = desired
        self.app = desired.app
        self.strategy = strategy_of(self.app)[0]
        before = facts.target.previous
        if self.strategy in {"rolling", "canary"} and before is not None and _ports(before.app) != _ports(self.app):
            self.strategy = "blue_green"  # nginx knows one port of an app at a time
        self.step_ = Step()
        replicas = [c for c in facts.containers if c.claim and c.claim.role == "replica"]
        self.tasks = [c for c in facts.containers if c.claim and c.claim.role in ROLES]
        self.current = {
            c.claim.slot: c
            for c in replicas
            if c.claim and c.claim.fingerprint == desired.fingerprint and c.claim.slot <= self.app.replicas
        }
        self.retiring = [c for c in replicas if self.current.get(c.claim.slot if c.claim else 0) is not c]
        self.old_versions = [c for c in self.retiring if c.claim and c.claim.fingerprint != desired.fingerprint]
        # What we fall back to, and what takes traffic, was healthy once, even if the store that knew it is lost.
        self.name_state = facts.observed.names.names.get(self.app.name) or NameState((), 0.0, None)
        serves = any(container.address in self.name_state.written for container in self.current.values())
        self.is_applied = (
            facts.target.blocked is not None
            or (facts.applied is not None and facts.applied.fingerprint == desired.fingerprint)
            or (serves and not self.old_versions)  # it may fall over as soon as it serves
        )
        self.drift = self.is_applied and not self.retiring
        self.ready = {slot: is_ready(c, self.app, facts.observed, facts.now) for slot, c in self.current.items()}
        well = sum(ready for ready, *_ in self.ready.values())
        self.all_ready = well == self.app.replicas
        # How many old ones must stay until more of the new ones are ready.
        places = 0 if self.all_ready else len(self.retiring)
        if self.strategy == "rolling" and (well or not self.old_versions):
            places = self.app.replicas - well
        self.kept = self._kept()
        new = self.strategy == "canary" and not self.is_applied and bool(self.old_versions)
        self.canary = Canary(facts, self.step_, desired, self.current.values(), self.retiring, self.kept, new)
        first = sorted(self.retiring, key=lambda c: (c.address not in self.kept, *self._replaced(c)))
        self.staying, self.leaving = first[:places], first[places:]
        self.wanted_name: tuple[str, ...] = self.name_state.written

    def _replaced(self, container: Container) -> tuple[bool, int]:
        """Whether a new replica is ready in its slot: of the old ones these go first."""
        slot = container.claim.slot if container.claim else 0
        return slot in self.ready and self.ready[slot][0], slot

    def step(self) -> Step:
        step = self.step_
        self._put_files()
        if not self._may_start():
            return self._look_after_previous()
        if self.canary.failed():
            return step
        if self.current and not (self.is_applied or self.all_ready) and self._is_stopped():
            self._switch_name()  # for the new ones that were started already nothing else is done
            return step
        if self.strategy == "recreate" and any(map(is_up, self.old_versions)):
            self._stop_old_first()
            return step
        self._start_missing()
        self._repair(self.current.values(), self.desired, well=self.is_applied)
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
        task, known = self.app.before_deploy, (self.tasks, self.old_versions)
        if task is None:
            return True
        stopped = self._is_stopped()
        ran = before_deploy(self.step_, self.facts, self.desired, task, *known)
        return ran and not stopped and has_held(self.step_, self.facts, self.desired, *known)

    def _is_stopped(self) -> bool:
        return is_stopped(self.step_, self.facts, self.desired, self.tasks, self.old_versions)

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

    # -- replicas --------------------------------------------------------------------------------------------------

    def _stop_old_first(self) -> None:
        """Recreate: everything new needs is there, so old makes room. It is kept, so that it can be put back."""
        why = f"{strategy_of(self.app)[1]}: the old version stops before the new one starts"
        leaving = {container.address for container in self.old_versions}
        staying = tuple(address for address in self.name_state.written if address not in leaving)
        if staying != self.name_state.written:
            self.step_.actions.append(act.SetName(self.app.name, why, staying))
        self.canary.deal(staying)
        for container in self.old_versions:
            stop(self.step_, self.app.name, container, why)
        self.step_.say("RollingOut", f"replacing {self._change()}; {why}")

    def _holder(self) -> str:
        """Who has what this app wants for itself alone: an app that was renamed, or one that gives it up."""
        wanted = [mount.source for mount in self.desired.spec.mounts if not mount.read_only]
        wanted += [f"{port.protocol}/{port.host}" for port in self.app.ports]
        for resource in wanted:
            if resource in self.facts.held:
                return f"waiting until {self.facts.held[resource]} lets go of {resource}"
        return ""

    def _start_missing(self) -> None:
        for slot in self._missing():
            name = f"{self.app.name}.{slot}.{self.desired.fingerprint[:8]}"
            address = self.facts.pool.take()
            if address is None:
                self.step_.subnet_full(self.facts.now)
                return
            applied = self.facts.applied
            drift = self.drift and applied is not None and applied.revision == self.desired.revision
            reason = f"container {name} is gone" if drift else self._why_start(name)
            self.step_.actions.append(
                act.StartReplica(self.app.name, reason, self.desired, slot, address, name, drift=drift)
            )
            self.step_.say("Repairing" if drift else "RollingOut", reason)

    def _missing(self) -> list[int]:
        """Slots to fill now. ``rolling`` has at most ``max_parallel`` on their way in or out while old ones serve."""
        missing = [slot for slot in range(1, self.app.replicas + 1) if slot not in self.current]
        if self.strategy != "rolling" or not self.old_versions or not self.kept:
            return missing
        under_way = len(self.leaving) + sum(not ready for ready, *_ in self.ready.values())
        return missing[: max(0, self.app.rollout.max_parallel - under_way)]

    def _repair(self, containers: Collection[Container], version: DesiredApp, *, well: bool) -> None:
        """Bring replicas back to what their manifest says, with the gentlest means.

        ``well``: they have been; who is not any more is started anew.
        """
        for container in sorted(containers, key=lambda c: c.name):
            repair = mend(container, version, self.facts.pool, drift=self.drift)
            if repair is SUBNET_FULL:
                self.step_.subnet_full(self.facts.now)
            elif repair is not None:
                self.step_.actions.append(repair)
                self.step_.say("Repairing", repair.reason)
        if well and not self.step_.actions:
            restart_sick(self.step_, self.facts, version.app, containers)

    def _failed(self) -> bool:
        """Whether a version that was never healthy has failed for good."""
        if self.is_applied:
            return False
        health = self.app.health
        for slot, container in sorted(self.current.items()):
            if self.ready[slot][0]:
                continue
            if container.oom_killed and container.restarts:
                message = f"{container.name} ran out of memory (limit {self.desired.spec.memory // 2**20} MiB)"
                self.step_.give_up(self.desired, "OutOfMemory", message, container)
                return True
            # Not while it runs once more: how it ended Docker tells only until then. It ends again soon, or is well.
            if container.restarts >= CRASH_LOOP and container.state != "running":
                code = "" if container.exit_code is None else f", last exit code {container.exit_code}"
                message = f"{container.name} ended {container.restarts} times before it was healthy{code}"
                self.step_.give_up(self.desired, "CrashLoop", message, container)
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
                self.step_.give_up(self.desired, "DeadlineExceeded", message, container)
                return True
        return False

    def _starting(self, slot: int, container: Container) -> tuple[str, str]:
        detail = self.ready[slot][2]
        still = "; the old version goes on serving" if any(c.state == "running" for c in self.retiring) else ""
        return "RollingOut", f"waiting until {container.name} is healthy{f' ({detail})' if detail else ''}{still}"

    # -- the name --------------------------------------------------------------------------------------------------

    def _switch_name(self) -> None:
        """The name answers current replicas once they can carry the traffic, and healthy ones only."""
        for slot, (ready, look_at, _) in self.ready.items():
            if not ready and look_at is not None:
                self.step_.wait(look_at, *self._starting(slot, self.current[slot]))
        old_serving = [c for c in self.retiring if c.state == "running" and c.address in self.name_state.written]
        waits = old_serving and (self.canary.holds(ready=self.all_ready) or not self.all_ready)
        if waits and self.strategy != "rolling":
            self._keep_name()
            return
        wanted = {c.address for slot, c in self.current.items() if self._serves(slot, c) and c.address}
        if self.strategy == "rolling":
            wanted |= {c.address for c in self.staying if c.address} & self.kept
        if not wanted:
            # A limping answer beats none: the last ones stay while they exist at all, and then an old one will do.
            there = {c.address for c in self.current.values() if c.address and c.state == "running"}
            wanted = there & set(self.name_state.written) or self.kept
        self._set_name(sorted(wanted), "healthy replicas changed" if self.is_applied else "the new version is healthy")

    def _serves(self, slot: int, container: Container) -> bool:
        """Ready, or in the name already and not known to be sick (an agent that has just started knows nothing)."""
        if self.ready[slot][0]:
            return True
        known = container.address in self.name_state.written
        return known and not is_sick(container, self.app, self.facts.observed)

    def _keep_name(self) -> None:
        """While old serves: the name answers what is there and not known to be sick, new ones not yet."""
        there = [(slot, c.address) for slot, c in self.current.items() if c.address in self.name_state.written]
        also = {address for slot, address in there if address and self._serves(slot, self.current[slot])}
        self._set_name(sorted(self.kept | also), "healthy replicas changed")

    def _kept(self) -> set[str]:
        """Addresses of old replicas that can serve; of the last ones where none is well.

        One that is out of the name comes back only if it is of the version before: another may never have been healthy.
        """
        previous = self.facts.target.previous
        manifest = previous.app if previous is not None else self.app
        before = previous.fingerprint if previous is not None else ""
        there = [c for c in self.retiring if c.state == "running" and c.address]
        back = [c for c in there if c.claim and c.claim.fingerprint == before]
        well = {c.address for c in back if is_ready(c, manifest, self.facts.observed, self.facts.now)[0]}
        unknown = {c.address for c in there if not is_sick(c, manifest, self.facts.observed)}
        written = set(self.name_state.written)
        # A limping answer beats none, but not a good one.
        better = self.strategy == "rolling" and any(ready for ready, *_ in self.ready.values())
        kept = well | (unknown & written) or (set() if better else {c.address for c in there} & written)
        return {address for address in kept if address}

    def _set_name(self, addresses: Sequence[str | None], reason: str) -> None:
        wanted = self.wanted_name = tuple(address for address in addresses if address)
        if wanted != self.name_state.written or self.name_state.written_at > self.facts.now + 1:
            # Before anything else of this look: starting a replica takes time, and whoever is gone must not be asked.
            self.step_.actions.insert(0, act.SetName(self.app.name, reason, wanted))
            self.step_.say("RollingOut" if not self.is_applied else "Switching", reason)
        self.canary.deal(wanted)

    def _switched(self) -> bool:
        """The name answers whom it should, and everyone who asked before has asked again."""
        nobody = bool(self.app.replicas) and not self.wanted_name
        if nobody or self.name_state.written != self.wanted_name or self.canary.is_dealing:
            return False
        return settled(self.facts, self.name_state, self.step_)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def _retire_old(self) -> None:
        self.leaving, old = self.canary.may_go(self.leaving), self.leaving
        before = self.facts.target.previous
        if before is not None:  # a canary may take hours, in which the version before has most of the requests
            stay = [c for c in old if c not in self.leaving and c.claim and c.claim.fingerprint == before.fingerprint]
            self._repair(stay, before, well=True)
        if not self.leaving:
            return
        stopped_recreate = self.all_ready and all(c.state in {"exited", "created", "dead"} for c in self.leaving)
        if not (stopped_recreate or self._switched()):
            return
        for container in sorted(self.leaving, key=lambda c: c.name):
            why = "fewer replicas are asked for"
            if container in self.old_versions:
                blocked = self.facts.target.blocked is not None
                why = "the version before it goes on" if blocked else "the new version has taken over"
            look_at = retire(self.facts, self.step_, container, self.name_state, self.app.rollout.drain, why)
            if look_at is not None:
                message = f"waiting until nobody is connected to {container.name}"
                self.step_.wait(look_at, "Draining", message)
            else:
                self.step_.say("Retiring", f"{container.name} is stopped and removed: {why}")

    def _finish(self) -> None:
        end_unneeded(self.step_, self.facts, self.desired, self.tasks)
        if self.step_.actions or self.retiring or not self.all_ready:
            if not self.all_ready:
                sick = [self.ready[slot][2] or c.name for slot, c in self.current.items() if not self.ready[slot][0]]
                last = any(ready for ready, *_ in self.ready.values()) or not self.name_state.written
                limping = "" if last else "; nobody is, so the last ones stay in the name"
                self.step_.say("Unhealthy", f"not healthy: {'; '.join(sick)}{limping}")
            return
        # "Synced" promises answers: who asked while nobody was there asks again by then. At first nobody has asked.
        heard_at = self.name_state.written_at + self.facts.timing.settle
        if self.facts.applied is not None and self.facts.now < heard_at:
            self.step_.wait(heard_at, "Switching", "waiting until everyone has heard of the new addresses")
            return
        recorded = record(self.step_, self.facts, self.desired, self.current.values(), self._change())
        if recorded and after_deploy(self.step_, self.facts, self.desired, self.tasks):
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


def _ports(app: App) -> set[int]:
    return {ingress.port for ingress in app.ingress}
