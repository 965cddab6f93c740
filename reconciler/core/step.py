"""What is known about one app, and what it needs now: the values that the rooms of a rollout share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core import actions as act
from reconciler.core.addresses import AddressPool
from reconciler.core.memory import Applied, Due, Version
from reconciler.core.observed import Container, Observed
from reconciler.core.target import DesiredApp, Target

_SUBNET_FULL = 60.0  # seconds until somebody may have made room


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
    host: str = ""
    """This host's name."""
    versions: tuple[Version, ...] = ()
    """Those that served here."""
    due: Due | None = None
    """The after_deploy that has not ended well yet."""
    urged_at: float = 0.0
    """Unix time at which a person said to go on although before_deploy broke the version that runs."""
    pending: str = ""
    """The fingerprint of a version that is being made ready while the target is the one before it."""
    splits: bool | None = False
    """Whether the configuration that nginx has loaded deals the app's requests out to slots; None: not known."""


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

    def subnet_full(self, now: float) -> None:
        """There is no address for what is to be started."""
        self.stalled = True
        message = "no address of docker.subnet is free; remove containers or make the subnet larger"
        self.wait(now + _SUBNET_FULL, "SubnetFull", message)

    def give_up(self, desired: DesiredApp, cause: str, message: str, container: Container) -> None:
        """This version has failed: nothing else is done for it."""
        self.actions = [act.Quarantine(desired.name, message, desired, cause, message, container.id)]
        self.reason, self.message = cause, message

    def say(self, reason: str, message: str) -> Step:
        """Set the reason unless there is one."""
        if message and not self.message:
            self.reason, self.message = reason, message
        return self
