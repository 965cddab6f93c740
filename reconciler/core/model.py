"""The values that travel through the walk. All are frozen; durations are seconds, sizes are bytes.

Words: see the package's door, ``reconciler/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

# --- config repository ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commit:
    """A revision of the config repository, with what people want to know about it."""

    sha: str
    author: str
    subject: str
    committed_at: float
    """Unix time, as the committer's clock had it."""

    @property
    def short(self) -> str:
        """The eight digits that people see."""
        return self.sha[:8]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree."""

    blob: str
    """Git's object id: equal ids mean equal bytes."""
    size: int
    link: bool = False
    """A symbolic link stands here; ``blob`` is what it leads to."""


LARGEST_FILE = 1024 * 1024
"""Bytes. A ``Tree`` lists larger files, but reads none."""


class Tree(Protocol):
    """The files of one revision, below the configured directory; paths are relative to it and use ``/``."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every regular file."""

    def read(self, path: str) -> bytes:
        """The bytes of one file; KeyError when there is none."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong with what a person wrote, and where. Never contains a secret."""

    path: str
    line: int
    """From 1; 0 when the whole file is meant."""
    column: int
    message: str
    """What is wrong, what is allowed, did you mean."""
    app: str | None = None
    """The app that stays as it is because of this; None when no single app is meant."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class Secret:
    """Bytes that must not be printed, compared in a log or sent anywhere but into the container."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The plaintext. Every caller of this is a place to review."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


Credentials = tuple[str, Secret]
"""User and password of a private registry."""


# --- manifests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """How an app shows that it can take traffic."""

    kind: Literal["http", "tcp", "command", "engine"]
    """``http`` and ``tcp`` are probed by the agent at the container's address; ``command`` becomes the container's
    HEALTHCHECK; ``engine`` takes the image's HEALTHCHECK, and "it runs" where the image has none."""
    path: str = "/"
    port: int = 0
    command: tuple[str, ...] = ()
    interval: float = 5.0
    timeout: float = 2.0
    retries: int = 3
    """So many failures in a row make a healthy replica unhealthy."""
    start_period: float = 0.0
    """Failures in so many seconds after the start do not count."""
    min_healthy_time: float = 1.0
    """A replica takes traffic once it has been healthy for so long."""
    deadline: float = 120.0
    """A version that is not healthy so long after its start has failed."""


@dataclass(frozen=True, slots=True)
class Ingress:
    """One host and path that nginx sends to the app."""

    host: str
    path: str
    port: int
    tls: Literal["off", "auto"] = "off"
    """``auto``: HTTPS with the certificate that the host has for this name, and HTTP redirected to it."""
    max_body: int = 1024 * 1024
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume, or a directory of the host when ``source`` begins with ``/``."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the host that leads to the container."""

    host: int
    container: int
    protocol: Literal["tcp", "udp"] = "tcp"
    address: str = "0.0.0.0"  # noqa: S104  (Compose's default; host policy may narrow it)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the config repository, mounted read-only."""

    source: str
    """Path in the tree, already resolved against the manifest's folder."""
    target: str
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class SecretsFile:
    """The app's SOPS file: the keys named in ``environment`` become variables, the rest files in /run/secrets."""

    file: str
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """Where the user and password of a private registry stand in a SOPS file."""

    file: str
    username: str = "username"
    password: str = "password"  # noqa: S105  (the key's name, not its value)


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one replica."""

    cpus: float | None = None
    memory: int = 512 * 1024 * 1024
    pids: int = 512


@dataclass(frozen=True, slots=True)
class Task:
    """A command that runs to its end in a container of its own."""

    command: tuple[str, ...]
    timeout: float = 300.0
    on: str = ""
    """The only host that runs it; empty: each host does."""
    check: tuple[str, ...] = ()
    """How every other host finds out that it has run: this ends with 0 then."""

    @property
    def words(self) -> str:
        """The command, for people."""
        return " ".join(self.command)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """After a deploy one replica of the version before is tried, off the traffic: could we go back?"""

    command: tuple[str, ...] = ()
    """Run in that replica; its end with 0 is the answer. Empty: its own health check is."""


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """The new version has so many percent of the requests for so long."""

    weight: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """How one version follows another."""

    strategy: Literal["blue_green", "rolling", "recreate", "canary"] | None = None
    """None: chosen by what the app needs."""
    max_parallel: int = 1
    """So many replicas are replaced at a time by ``rolling``."""
    drain: float = 30.0
    """Connections to a retiring replica are waited for so long."""
    steps: tuple[CanaryStep, ...] = ()
    """Of ``canary``."""
    bake: float = 0.0
    """After ``canary`` has given the new version everything, the old one stays up for so long."""
    max_errors: float = 5.0
    """Percent of 5xx among the answers of the new version, above which ``canary`` takes it back."""


@dataclass(frozen=True, slots=True)
class App:
    """A checked manifest with all defaults filled in."""

    name: str
    manifest: str
    """Path of the manifest in the tree."""
    image: str
    replicas: int = 1
    hosts: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    working_dir: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: SecretsFile | None = None
    files: tuple[File, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    health: Health = Health("engine")
    resources: Resources = Resources()
    cap_add: tuple[str, ...] = ()
    read_only: bool = False
    ingress: tuple[Ingress, ...] = ()
    rollout: Rollout = Rollout()
    depends_on: tuple[str, ...] = ()
    before_deploy: Task | None = None
    rehearse_rollback: Rehearsal | None = None
    after_deploy: Task | None = None
    stop_grace_period: float = 10.0
    stop_signal: str | None = None
    pull_policy: Literal["missing", "always", "never"] = "missing"
    registry_credentials: RegistryCredentials | None = None

    @property
    def folder(self) -> str:
        """The manifest's folder in the tree; empty at the root."""
        return self.manifest.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class FleetHost:
    """A VM of the fleet."""

    name: str
    address: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokenManifest:
    """A manifest that cannot be used, and the app that must therefore stay as it is."""

    path: str
    app: str | None
    """The claimed name where it could be read, else None: nobody knows which app this was."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the manifests of one revision say, for all hosts."""

    apps: Mapping[str, App]
    """Usable apps by name."""
    problems: tuple[Problem, ...] = ()
    broken: tuple[BrokenManifest, ...] = ()
    fleet: Mapping[str, FleetHost] | None = None
    """None when the repository has no fleet.yaml."""
    fleet_broken: bool = False
    """fleet.yaml exists but cannot be used: no app's defaults are known, so nothing may change."""
