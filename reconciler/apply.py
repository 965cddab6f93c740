"""Carries out actions: one action, one call. The only writer.

Actions of one lane run one after another; lanes run side by side, so that a slow app never holds up another. What is
under way lives only here, in memory; whoever dies in the middle leaves nothing that the next observation cannot see.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from reconciler.chronicle import Chronicle
from reconciler.core import actions as act
from reconciler.core import slots
from reconciler.core.model import Secret
from reconciler.core.ownership import claim_of
from reconciler.core.target import DesiredApp
from reconciler.errors import ReconcilerError, Refused, Unavailable
from reconciler.protocols import Engine, Files, Meter, Names, Site

log = logging.getLogger(__name__)

_GUESSABLE = 4  # a shorter value hides nothing, and striking out every "1" would hide the log
LOG_LINES = 50
"""So much of a failed container's output is kept for people."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What actions are done to."""

    engine: Engine
    names: Names
    site: Site | None
    files: Files
    chronicle: Chronicle
    meter: Meter


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended."""

    action: act.Action
    error: ReconcilerError | None
    seconds: float


def perform(action: act.Action, hands: Hands) -> None:  # noqa: C901, PLR0912, PLR0915  (one flat table)
    """Do one action.

    Raises:
        ReconcilerError: As the world's rooms raise them.
    """
    engine = hands.engine
    match action:
        case act.EnsureNetwork():
            engine.ensure_network()
        case act.StartNames():
            hands.names.start()
        case act.PullImage():
            before = engine.images()
            image = engine.pull(action.reference, action.credentials)
            hands.chronicle.pulled(action, image, fresh=image not in before)
        case act.WriteFiles():
            hands.files.write(action.desired.files_directory, action.desired.files)
        case act.WriteSecrets():
            _write_secrets(action.desired, hands)
        case act.StartReplica():
            if not action.drift:
                hands.chronicle.began(action.app, action.desired.fingerprint, action.reason)
            claim = claim_of(action.desired, "replica", action.slot)
            engine.start(engine.create(action.name, action.address, claim, action.desired.spec))
        case act.RunTask():
            claim = claim_of(action.desired, action.role, run=action.run, well=action.well)
            engine.start(engine.create(action.name, action.address, claim, action.spec))
        case act.StartContainer():
            engine.start(action.container)
        case act.Unpause():
            engine.unpause(action.container)
        case act.Reconnect():
            engine.connect(action.container, action.address)
        case act.UpdateLimits():
            engine.update(action.container, action.limits)
        case act.StopContainer():
            engine.stop(action.container, action.grace)
        case act.RestartContainer():
            engine.stop(action.container, action.grace)
            engine.start(action.container)
            hands.chronicle.restarted(action)
        case act.RemoveContainer():
            engine.remove(action.container)
        case act.SetName():
            hands.names.set(action.app, action.addresses)
        case act.SetSlots():
            for slot, addresses in action.slots:
                hands.names.set(slot, addresses)
        case act.ForgetSlots():
            _forget_slots(action.app, hands)
        case act.LoadSite():
            _load_site(action, hands)
        case act.Quarantine():
            hands.chronicle.failed(action, _last_words(action.container, action.desired, engine))
        case act.RecordApplied():
            hands.chronicle.applied(action)
        case act.AfterDeployDone():
            hands.chronicle.after_done(action)
        case act.AfterDeployFailed():
            hands.chronicle.after_failed(action, _last_words(action.container, action.desired, engine))
        case act.RecordPruned():
            _forget_slots(action.app, hands)
            hands.names.forget(action.app)
            hands.chronicle.pruned(action)
        case act.RemoveLeftovers():
            hands.files.remove_except(action.keep)
        case act.CollectImage():
            _collect_image(action, hands)
        case act.Rehearse():
            _rehearse(action, hands)
        case act.RecordRehearsal():
            container = None if action.answer.ready else action.container
            hands.chronicle.rehearsed(action, _last_words(container, action.desired, engine))
        case act.EndRehearsal():
            engine.stop(action.container, action.grace)
            engine.remove(action.container)
        case _:
            assert_never(action)
    if action.drift:
        hands.chronicle.repaired(action)


def _forget_slots(app: str, hands: Hands) -> None:
    for slot in slots.names_of(app):
        hands.names.forget(slot)


def _write_secrets(desired: DesiredApp, hands: Hands) -> None:
    owner = hands.engine.resolve_user(desired.spec.image, desired.app.user)
    hands.files.write_secrets(desired.secrets_directory, desired.secret_files, owner)


def _rehearse(action: act.Rehearse, hands: Hands) -> None:
    """All in one: its files are of no other use, and what is written already is not written again."""
    desired = action.desired
    if desired.files_directory:
        hands.files.write(desired.files_directory, desired.files)
    if desired.secrets_directory:
        _write_secrets(desired, hands)
    claim = claim_of(desired, "rehearsal")
    hands.engine.start(hands.engine.create(action.name, action.address, claim, desired.spec))


def _load_site(action: act.LoadSite, hands: Hands) -> None:
    if hands.site is None:
        return
    try:
        hands.site.load(action.generation, action.files)
    except ReconcilerError:
        hands.meter.nginx_reload("failure")
        raise
    hands.meter.nginx_reload("success")


def _collect_image(action: act.CollectImage, hands: Hands) -> None:
    try:
        hands.engine.collect_image(action.image, action.names)
    except Refused as error:  # no fault: somebody was faster, so it is his now, and stays
        log.info("%s", error)
    hands.chronicle.collected(action)


def _last_words(container: str | None, desired: DesiredApp | None, engine: Engine) -> str:
    if container is None or desired is None:
        return ""
    try:
        words = engine.logs(container, LOG_LINES)
        if desired.app.health.kind in {"command", "engine"}:  # its output is not in the log
            checked = engine.checked(container)
            words = f"{words.rstrip()}\n{checked}".lstrip() if checked else words
    except ReconcilerError as error:
        return f"(its log could not be read: {error})"
    # An app that prints its own secrets tells them to Docker's log; ours must not repeat them.
    variables = [value for value in desired.spec.environment.values() if isinstance(value, Secret)]
    for secret in [*desired.secret_files.values(), *variables]:
        for line in secret.reveal().decode(errors="replace").splitlines():
            if len(line.strip()) >= _GUESSABLE:
                words = words.replace(line.strip(), "***")
    return words


@dataclass(slots=True)
class _Chain:
    lane: str
    actions: deque[act.Action]


@dataclass(slots=True)
class _Pool:
    """Daemon threads, made when there is work and nobody is free; they never keep a process from ending."""

    limit: int
    work: Callable[[_Chain], None]
    chains: deque[_Chain] = field(default_factory=deque)
    threads: int = 0
    free: int = 0
    ready: threading.Condition = field(default_factory=threading.Condition)

    def add(self, chain: _Chain) -> None:
        with self.ready:
            self.chains.append(chain)
            self.ready.notify()
            if self.free >= len(self.chains) or self.threads >= self.limit:
                return
            self.threads += 1
        threading.Thread(target=self._serve, name="apply", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self.ready:
                self.free += 1
                self.ready.wait_for(lambda: self.chains)
                self.free -= 1
                chain = self.chains.popleft()
            self.work(chain)


class Apply:
    """Runs chains of actions in the background.

    Args:
        hands: What actions are done to.
        wake: Called with the lane's name when a chain has ended.
    """

    def __init__(self, hands: Hands, wake: Callable[[str], None]) -> None:
        self._hands = hands
        self._wake = wake
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._busy: dict[str, str] = {}
        self._reserved: dict[str, list[str]] = {}
        self._outcomes: list[Outcome] = []
        self._stopped = False
        # Four at a time is what the engine rewards; waiting for a registry or for an app to stop costs it nothing.
        self._quick = _Pool(4, self._advance)
        self._slow = _Pool(32, self._advance)

    @property
    def busy(self) -> Mapping[str, str]:
        """Lane -> what is being done in it."""
        with self._lock:
            return dict(self._busy)

    def start(self, actions: Iterable[act.Action]) -> None:
        """Begin with these. A lane that is still at work takes nothing new: its next plan will say what is left."""
        chains: dict[str, _Chain] = {}
        for action in actions:
            lane = act.lane(action)
            chains.setdefault(lane, _Chain(lane, deque())).actions.append(action)
        with self._lock:
            fresh = [chain for chain in chains.values() if chain.lane not in self._busy and not self._stopped]
            self._busy.update({chain.lane: chain.actions[0].reason for chain in fresh})
            self._reserved.update({chain.lane: _addresses(chain.actions) for chain in fresh})
        # What people wait for comes first; that all other apps are fine at a new revision too is written down after it.
        for chain in sorted(fresh, key=lambda chain: isinstance(chain.actions[0], act.RecordApplied)):
            self._enqueue(chain)

    @property
    def reserved(self) -> frozenset[str]:
        """Addresses that containers in the making will have."""
        with self._lock:
            return frozenset(address for addresses in self._reserved.values() for address in addresses)

    def outcomes(self) -> list[Outcome]:
        """What has ended since the last call."""
        with self._lock:
            ended, self._outcomes = self._outcomes, []
        return ended

    def stop(self, timeout: float) -> bool:
        """Begin nothing more; wait for what is under way. True when everything has ended in time."""
        with self._lock:
            self._stopped = True
            return self._idle.wait_for(lambda: not self._busy, timeout)

    def _enqueue(self, chain: _Chain) -> None:
        stops = act.StopContainer | act.RestartContainer | act.EndRehearsal
        slow = isinstance(chain.actions[0], act.PullImage | act.CollectImage | stops)
        (self._slow if slow else self._quick).add(chain)

    def _advance(self, chain: _Chain) -> None:
        outcome = None if self._stopped else self._do(chain.actions.popleft())
        with self._lock:
            if outcome is not None:
                self._outcomes.append(outcome)
            more = bool(chain.actions) and outcome is not None and outcome.error is None and not self._stopped
            if more:
                self._busy[chain.lane] = chain.actions[0].reason
            else:
                self._busy.pop(chain.lane, None)
                self._reserved.pop(chain.lane, None)
                self._idle.notify_all()
        if more:
            self._enqueue(chain)
        else:
            self._wake(chain.lane)

    def _do(self, action: act.Action) -> Outcome:
        started = time.monotonic()
        error: ReconcilerError | None = None
        name = type(action).__name__
        try:
            perform(action, self._hands)
        except ReconcilerError as failure:
            error = failure
        except Exception as failure:
            log.exception("%s for %s: unexpected error", name, action.app or "the host")
            error = Unavailable(f"{name} failed unexpectedly: {type(failure).__name__}", reason="InternalError")
        seconds = time.monotonic() - started
        if error is None:
            log.info("%s: %s (%s) in %.2f s", action.app or "host", name, action.reason, seconds)
        else:
            log.warning("%s: %s failed: %s", action.app or "host", name, error)
        return Outcome(action, error, seconds)


def _addresses(actions: Iterable[act.Action]) -> list[str]:
    return [a.address for a in actions if isinstance(a, act.StartReplica | act.RunTask | act.Reconnect | act.Rehearse)]
