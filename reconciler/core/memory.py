"""What nobody but the store (and, for retries, the running agent) knows. All values are frozen; times are Unix time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Applied:
    """The last version of an app that was healthy."""

    revision: str
    fingerprint: str
    at: float


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an app that was healthy once, and the image that it ran from."""

    fingerprint: str
    image: str
    """Image id."""
    at: float
    """Unix time at which it was applied last; of an app that was removed, at which that was done."""
    revision: str = ""
    """At which it was applied last; empty where an older agent wrote it down."""
    place: int = 0
    """In the order in which versions served here for the first time: going back leads to a smaller one."""
    reference: str = ""
    """The image, as the manifest called it; empty where an older agent wrote it down."""
    before: str = ""
    """The command of before_deploy that ran for it, in words; empty where none did."""


@dataclass(frozen=True, slots=True)
class Way:
    """From which version an app comes to another one, and whether that is forward or back."""

    direction: Literal["forward", "back"] = "forward"
    """``back``: to a version that served here for the first time before the one it comes from did."""
    revision: str = ""
    """Of the version it comes from; empty at the first deployment, like ``image``."""
    image: str = ""
    """Reference, as that version's manifest had it."""


NOWHERE = Way()
"""Of the first deployment."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What is remembered of a version that was applied, beside the version itself."""

    reference: str = ""
    """What its manifest calls the image."""
    before: str = ""
    """The command of its before_deploy, in words."""
    due: Way | None = None
    """It has an after_deploy, which is due where the version was not applied already, and is told this."""
    after: str = ""
    """That after_deploy, as in ``Due.task``."""


@dataclass(frozen=True, slots=True)
class Due:
    """An after_deploy that is to run, or that has failed."""

    fingerprint: str
    way: Way
    at: float
    """Unix time at which it became due: at the deployment, or when a person asked for it once more."""
    cause: str = ""
    """CamelCase, of a failure; empty: it has not failed."""
    message: str = ""
    logs: str = ""
    task: str = ""
    """What is due, in words: where a commit changes that, it is another run. Empty where nobody wrote it down."""

    @property
    def run(self) -> str:
        """Tells its container from one of an earlier deployment of the same version.

        Only ever compared for equality, so that a clock that jumps neither repeats it nor skips it.
        """
        return f"{self.at:.3f}"


@dataclass(frozen=True, slots=True)
class Brought:
    """An image that was not on this host before the agent pulled it."""

    names: frozenset[str]
    """Normalised references that it was pulled by."""
    at: float
    """Unix time of the first pull."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A version that failed to become healthy."""

    fingerprint: str
    """Its ``trial``: the fingerprint with the health check and before_deploy that it failed by."""
    reason: str
    message: str
    revision: str
    at: float
    logs: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Whether an app could go back, as a replica of the version before has shown."""

    fingerprint: str
    """The version that served meanwhile."""
    previous: str
    """The version that was tried."""
    ready: bool
    reason: str
    """``RehearsalPassed``, ``RehearsalFailed``: it was tried; ``RehearsalImpossible``: it cannot be had any more."""
    message: str
    revision: str
    """Of ``previous``."""
    at: float
    logs: str = ""
    """What it said last, where it was not ready."""
    asked: str = ""
    """A digest of the question, for a manifest may ask another one of the same two versions; empty: it is no matter."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """An app that a person asked us to leave alone."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Why the next attempt at an app waits."""

    not_before: float
    attempts: int
    reason: str
    message: str
    fingerprint: str = ""
    """What was tried; another version need not wait. Empty: it concerns every version."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What nobody but the store (and, for retries, the running agent) knows."""

    since: float = 0.0
    """Unix time at which the store was made. An older container was there before: an earlier store is lost."""
    applied: Mapping[str, Applied] = field(default_factory=dict)
    quarantined: Mapping[str, Quarantined] = field(default_factory=dict)
    suspended: Mapping[str, Suspended] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    """Revisions whose mass removal a person accepted."""
    versions: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)
    """App -> its applied versions, the last one first; also of apps that were removed."""
    rehearsed: Mapping[str, Rehearsed] = field(default_factory=dict)
    """App -> the last answer to whether it could go back."""
    brought: Mapping[str, Brought] = field(default_factory=dict)
    """Image id -> how it came here; none that anybody but the agent brought."""
    retries: Mapping[str, Retry] = field(default_factory=dict)
    pulled: frozenset[tuple[str, str]] = frozenset()
    """(image reference, revision) pairs that this agent has pulled, for ``pull_policy: always``."""
    due: Mapping[str, Due] = field(default_factory=dict)
    """App -> its after_deploy, where that has not ended well yet."""
    urged: Mapping[str, float] = field(default_factory=dict)
    """App -> Unix time at which a person said to go on although before_deploy broke the version that runs."""
    swept: bool = True
    """This agent has looked once for what earlier ones left behind on disk."""
    busy: Mapping[str, str] = field(default_factory=dict)
    """Lane -> what is being done in it right now."""
    reserved: frozenset[str] = frozenset()
    """Addresses that containers in the making will have."""
