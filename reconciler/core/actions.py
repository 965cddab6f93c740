"""What the plan can ask for. Each action is one call of ``apply.py`` and says why it is needed.

Actions of one app run one after another, those of different apps side by side. When one fails the app's later ones
are dropped: the next plan starts from what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.core.memory import NOWHERE, Rehearsed, Way
from reconciler.core.model import Credentials
from reconciler.core.observed import Limits, Role
from reconciler.core.target import ContainerSpec, DesiredApp


@dataclass(frozen=True, slots=True)
class _Action:
    app: str
    """The app; empty for the host itself."""
    reason: str
    """Why, for people: ``image changed``, ``container shop.1.3fa9c2d1 is gone``."""
    drift: bool = field(default=False, kw_only=True)
    """No commit asked for this: the host moved away from what was applied."""


@dataclass(frozen=True, slots=True)
class EnsureNetwork(_Action):
    """Make our network."""


@dataclass(frozen=True, slots=True)
class StartNames(_Action):
    """Start the names service, detached, so that it outlives the agent."""


@dataclass(frozen=True, slots=True)
class PullImage(_Action):
    """Fetch an image from its registry."""

    reference: str
    credentials: Credentials | None
    revision: str


@dataclass(frozen=True, slots=True)
class WriteFiles(_Action):
    """Write the files of the repository that the app mounts."""

    desired: DesiredApp


@dataclass(frozen=True, slots=True)
class WriteSecrets(_Action):
    """Write the app's secret files to tmpfs."""

    desired: DesiredApp


@dataclass(frozen=True, slots=True)
class StartReplica(_Action):
    """Create and start one container."""

    desired: DesiredApp
    slot: int
    address: str
    name: str


@dataclass(frozen=True, slots=True)
class RunTask(_Action):
    """Create and start the container of a task."""

    desired: DesiredApp
    address: str
    name: str
    spec: ContainerSpec
    role: Role = "task"
    run: str = ""
    """As in ``Claim``; likewise ``well``."""
    well: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StartContainer(_Action):
    """Start a container that exists but does not run."""

    container: str
    name: str


@dataclass(frozen=True, slots=True)
class Unpause(_Action):
    """Let a paused container go on."""

    container: str
    name: str


@dataclass(frozen=True, slots=True)
class Reconnect(_Action):
    """Connect a container to our network again."""

    container: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class UpdateLimits(_Action):
    """Set the limits back to what the manifest says."""

    container: str
    name: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class StopContainer(_Action):
    """Send the stop signal and wait for the end, as long as the container was created to be waited for."""

    container: str
    name: str
    grace: float
    """Seconds before SIGKILL."""


@dataclass(frozen=True, slots=True)
class RestartContainer(_Action):
    """Stop a container that is not healthy any more, and start it again."""

    container: str
    name: str
    grace: float
    """Seconds before SIGKILL."""


@dataclass(frozen=True, slots=True)
class RemoveContainer(_Action):
    """Remove a container that we own. Never its volumes."""

    container: str
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SetName(_Action):
    """Let the app's name answer these addresses; none removes the name."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetSlots(_Action):
    """Let some slots of the app answer these addresses, one after another."""

    slots: tuple[tuple[str, tuple[str, ...]], ...]
    """(slot's name, addresses), in the order in which they are written."""
    weight: int = 0
    """Percent of nginx's requests that a new version then gets; 0: all slots answer what the app's name does."""


@dataclass(frozen=True, slots=True)
class ForgetSlots(_Action):
    """Remove the slots' names: nginx does not ask for them any more."""


@dataclass(frozen=True, slots=True)
class LoadSite(_Action):
    """Make nginx load a generation: write, test, switch, reload, confirm; put back when it does not load."""

    generation: str
    files: tuple[tuple[str, str], ...]
    """(file name, content), in order."""


@dataclass(frozen=True, slots=True)
class Quarantine(_Action):
    """Record that a fingerprint failed, with the last log lines of the container that shows it."""

    desired: DesiredApp
    cause: str
    """CamelCase: ``CrashLoop``, ``Unhealthy``, ``DeadlineExceeded``, ``BeforeDeployFailed``."""
    message: str
    container: str | None


@dataclass(frozen=True, slots=True)
class RecordApplied(_Action):
    """Record that an app is healthy at a revision."""

    desired: DesiredApp
    adopted: bool = False
    """Nothing was done for it: it ran before there was a store that could have known it."""
    way: Way = NOWHERE
    """From where it came here; after_deploy is told."""


@dataclass(frozen=True, slots=True)
class AfterDeployDone(_Action):
    """Record that after_deploy has ended well: nothing is due any more."""

    desired: DesiredApp


@dataclass(frozen=True, slots=True)
class AfterDeployFailed(_Action):
    """Record that after_deploy has failed, with the last log lines of its container. The version goes on serving."""

    desired: DesiredApp
    cause: str
    """CamelCase: ``AfterDeployFailed``, ``AfterDeployTimeout``."""
    message: str
    container: str | None


@dataclass(frozen=True, slots=True)
class RecordPruned(_Action):
    """Record that nothing of an app is left."""


@dataclass(frozen=True, slots=True)
class RemoveLeftovers(_Action):
    """Remove files and secrets directories that no container and no desired app uses."""

    keep: frozenset[str]


@dataclass(frozen=True, slots=True)
class CollectImage(_Action):
    """Remove an image that we brought to this host and that nothing here needs, unless somebody else uses it."""

    image: str
    """Image id."""
    names: frozenset[str]
    """What we pulled it by; one that has another name is somebody else's too."""


@dataclass(frozen=True, slots=True)
class Rehearse(_Action):
    """Start one replica of the version before, with its own files and secrets, off the traffic."""

    desired: DesiredApp
    address: str
    name: str


@dataclass(frozen=True, slots=True)
class RecordRehearsal(_Action):
    """Record whether the app could go back; where not, with the last log lines of the container that shows it."""

    answer: Rehearsed
    """``at`` is when it is written down."""
    desired: DesiredApp | None
    container: str | None


@dataclass(frozen=True, slots=True)
class EndRehearsal(_Action):
    """Stop and remove the replica of a rehearsal."""

    container: str
    name: str
    grace: float
    """Seconds before SIGKILL."""
    unclear: bool = False
    """Through no fault of its version it has shown nothing; it is tried again, but not for ever."""


Action = (
    EnsureNetwork
    | StartNames
    | PullImage
    | WriteFiles
    | WriteSecrets
    | StartReplica
    | RunTask
    | StartContainer
    | Unpause
    | Reconnect
    | UpdateLimits
    | StopContainer
    | RestartContainer
    | RemoveContainer
    | SetName
    | SetSlots
    | ForgetSlots
    | LoadSite
    | Quarantine
    | RecordApplied
    | AfterDeployDone
    | AfterDeployFailed
    | RecordPruned
    | RemoveLeftovers
    | CollectImage
    | Rehearse
    | RecordRehearsal
    | EndRehearsal
)


def pull_lane(app: str) -> str:
    """A pull may take minutes; it must not keep the app's other actions waiting."""
    return f"pull:{app}"


def rehearsal_lane(app: str) -> str:
    """Nothing of the app waits until the replica of a rehearsal has started, or ended."""
    return f"{_REHEARSAL}{app}"


def is_rehearsal_lane(lane: str) -> bool:
    """What is done here is nothing that people wait for."""
    return lane.startswith(_REHEARSAL)


NETWORK, NAMES, NGINX, FILES = "host:network", "host:names", "host:nginx", "host:files"
IMAGES = "host:images"
HOST_LANES = (NETWORK, NAMES, NGINX, FILES, IMAGES)
_RESTART = "restart:"
_REHEARSAL = "rehearsal:"


def lane(action: Action) -> str:
    """Actions of one lane run one after another, in order; lanes run side by side. What ails one holds up no other."""
    match action:
        case PullImage():
            return pull_lane(action.app)
        case EnsureNetwork():
            return NETWORK
        case StartNames():
            return NAMES
        case LoadSite():
            return NGINX
        case RemoveLeftovers():
            return FILES
        case CollectImage():
            return IMAGES
        case Rehearse() | RecordRehearsal() | EndRehearsal():
            return rehearsal_lane(action.app)
        case _:
            return action.app


def retry_lane(action: Action) -> str:
    """Where its failures are counted. What fails holds up its like only: the name is looked after all the same."""
    if isinstance(action, SetName | SetSlots | ForgetSlots):
        return name_lane(action.app)
    if isinstance(action, RestartContainer):
        return f"{_RESTART}{action.app}/{action.name}"
    if isinstance(action, RecordRehearsal | EndRehearsal):
        return f"rehearsed:{action.app}"
    if isinstance(action, RunTask) and action.role == "after":
        return task_lane(action.app)
    own = lane(action)
    return own if own != action.app or is_attempt(action) else upkeep_lane(action.app)


def name_lane(app: str) -> str:
    """Where failures to write a name are counted."""
    return f"name:{app}"


def upkeep_lane(app: str) -> str:
    """Where failures are counted of what clears away and writes down."""
    return f"upkeep:{app}"


def task_lane(app: str) -> str:
    """Where failures to start after_deploy are counted: what serves is looked after all the same."""
    return f"task:{app}"


def drift_lane(app: str) -> str:
    """Where repairs are counted that are needed again and again."""
    return f"drift:{app}"


def is_restart_lane(lane: str) -> bool:
    """Restarts of one container are counted here."""
    return lane.startswith(_RESTART)


def app_of(lane: str) -> str | None:
    """Whose lane it is; None for the host's own."""
    if lane in HOST_LANES:
        return None
    _, kind, rest = lane.partition(":")
    return rest.partition("/")[0] if kind else lane


def is_attempt(action: Action) -> bool:
    """It tries to bring a version up, so another version need not wait for it."""
    kinds = WriteFiles | WriteSecrets | StartReplica | RunTask | StartContainer | Unpause | Reconnect | UpdateLimits
    return isinstance(action, kinds | Rehearse)
