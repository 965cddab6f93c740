"""What one app should become on this host. All values are frozen; durations are seconds, sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.core.model import App, Credentials, PublishedPort, Secret


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container."""

    kind: Literal["volume", "bind"]
    source: str
    """A volume's name, or an absolute path of the host."""
    target: str
    read_only: bool
    filled: bool = True
    """An empty volume gets what the image has at this place, and its owner: also one that is mounted read-only."""


@dataclass(frozen=True, slots=True)
class HealthCommand:
    """A HEALTHCHECK that the engine runs."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that makes a container what it is, but for its name, address and owner labels."""

    image: str
    """The image id (``sha256:...``), never a tag."""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    working_dir: str | None = None
    environment: Mapping[str, str | Secret] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory: int = 512 * 1024 * 1024
    pids: int = 512
    cap_add: tuple[str, ...] = ()
    read_only: bool = False
    health: HealthCommand | None = None
    stop_signal: str | None = None
    stop_grace_period: float = 10.0
    restart: bool = True
    """The engine restarts it when it ends; False for a Task."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file to be mounted, with its bytes."""

    target: str
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class DesiredApp:
    """One app as this host should have it."""

    app: App
    revision: str
    fingerprint: str
    """16 hexadecimal digits."""
    trial: str
    """Like the fingerprint, with all that decides whether this version becomes healthy: health and before_deploy.
    What failed is given up by this, so that mending a wrong health check is another try."""
    fields: Mapping[str, str]
    """Field name -> short keyed hash; two of these name what changed."""
    spec: ContainerSpec
    files: tuple[FileContent, ...] = ()
    files_directory: str = ""
    """Where ``files`` are written, named after their content; empty when there are none."""
    secret_files: Mapping[str, Secret] = field(default_factory=dict)
    secrets_directory: str = ""
    """Where ``secret_files`` are written, on tmpfs, named after their content; empty when there are none."""

    @property
    def name(self) -> str:
        """The app's name."""
        return self.app.name


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why the tip of the repository is not followed for an app."""

    reason: str
    """CamelCase: ``InvalidManifest``, ``Quarantined``, ``DecryptNoKey``, ``PolicyViolation`` ..."""
    message: str


@dataclass(frozen=True, slots=True)
class Pull:
    """An image that must be fetched before the tip's version can start."""

    reference: str
    revision: str
    credentials: Credentials | None
    forbidden: bool
    """``pull_policy: never``: a person must bring the image."""
    desired: DesiredApp
    """The tip's version; provisional, because its fingerprint is not known before the image is."""


@dataclass(frozen=True, slots=True)
class WayBack:
    """The version that served before the applied one, to be rehearsed; there is no answer for these two yet."""

    applied: str
    """Fingerprint of the version that serves."""
    previous: str
    """Fingerprint of the version before it."""
    revision: str
    """At which that one was applied last; empty where nobody knows."""
    desired: DesiredApp | None
    """As its rehearsal runs. None: it cannot be had."""
    obstacle: str = ""
    """Why it cannot be had any more."""
    passing: bool = False
    """The obstacle may go away by itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one app should become: the tip's version, or the last applied one while the tip's cannot be followed."""

    name: str
    desired: DesiredApp | None
    """None: neither version is known; the app is left exactly as it is."""
    blocked: Blocked | None = None
    """Set when ``desired`` is not what the tip says."""
    pull: Pull | None = None
    """Set when the tip's image is not here. Without ``blocked``, ``desired`` is then as provisional as the pull's."""
    previous: DesiredApp | None = None
    """The version that was applied last, where ``desired`` is another: looked after until it is replaced."""
    failed: str = ""
    """The fingerprint that was given up, where there is no version to fall back to: its containers may go."""
    app: App | None = None
    """The manifest of what runs, where no more than that is known because a secret cannot be read: its routes stay."""
    way_back: WayBack | None = None
    """Set while nobody knows whether the version before could serve again, and the manifest asks."""
