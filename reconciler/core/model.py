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


# --- desired --------------------------------------------------------------------------------------------------------


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


# --- observed -------------------------------------------------------------------------------------------------------

Role = Literal["replica", "task", "check", "after", "rehearsal"]
"""``task`` runs before_deploy, ``check`` asks whether another host has, ``after`` runs after_deploy, and ``rehearsal``
tries whether the version before could serve again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a container's labels say it is; true only where the signature was made with this host's key."""

    app: str
    fingerprint: str
    slot: int
    """1 to ``replicas``; 0 for everything that is no replica."""
    role: Role
    manifest: str
    revision: str
    image: str
    """The image reference of the manifest."""
    fields: Mapping[str, str] = field(default_factory=dict)
    files_directory: str = ""
    secrets_directory: str = ""
    run: str = ""
    """Of after_deploy: which deployment it is for, as ``Due.run``; else which try, as ``DesiredApp.trial``."""
    well: tuple[str, ...] = ()
    """Of before_deploy: the replicas that were healthy when it was made. It must not make them sick."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of a container that ``docker update`` can change."""

    cpus: float | None
    memory: int
    pids: int
    restart: bool


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine describes it."""

    id: str
    name: str
    state: Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
    image: str
    """Image id."""
    created_at: float
    claim: Claim | None
    """None when it carries none of our labels."""
    owned: bool
    """The claim is signed with this host's key for this very name, app and fingerprint."""
    address: str | None
    """In our network; None when it is not connected to it."""
    started_at: float = 0.0
    """Of the current run; 0 when it never ran."""
    finished_at: float = 0.0
    """Of the last run; 0 when it never ended."""
    engine_health: Literal["none", "starting", "healthy", "unhealthy"] = "none"
    exit_code: int | None = None
    oom_killed: bool = False
    restarts: int = 0
    error: str = ""
    """Why the engine could not start it."""
    pid: int = 0
    limits: Limits | None = None
    host_ports: tuple[tuple[str, int], ...] = ()
    """Published (protocol, port) pairs."""
    writes: frozenset[str] = frozenset()
    """Named volumes and host directories that it may write to."""
    stop_grace_period: float = 10.0
    """Seconds between its stop signal and SIGKILL, as it was created."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the Docker Engine has, in two list calls (plus an inspect of containers that changed)."""

    containers: tuple[Container, ...]
    """All of the host, foreign ones too: they may hold a name, an address or a port."""
    images: Mapping[str, str]
    """Reference (``name:tag`` and ``name@digest``) -> image id."""
    network: bool
    """Our network exists and has our subnet."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Image id -> ``name@sha256:...`` as the registry calls it, where it was pulled."""


@dataclass(frozen=True, slots=True)
class NameState:
    """One name as the names service has it."""

    written: tuple[str, ...]
    """Addresses in the file, sorted."""
    written_at: float
    """Unix time of the last change."""
    answered: tuple[str, ...] | None
    """What dnsmasq answered, sorted; None when it does not answer at all."""
    answered_since: float = 0.0
    """Unix time at which the answer was first seen to be what is written; 0 where nobody saw it change."""


@dataclass(frozen=True, slots=True)
class NamesState:
    """The names service."""

    up_since: float | None
    """Unix time; None when it does not answer."""
    names: Mapping[str, NameState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SiteState:
    """What nginx has loaded."""

    loaded: str | None
    """Generation id that nginx answers with; None when nginx does not answer."""
    written: str | None
    """Generation that ``current`` points to on disk."""
    resolve: bool
    """nginx has ``server ... resolve`` in upstreams (1.27.3 and later)."""
    certificates: frozenset[str] = frozenset()
    """Host names for which a certificate and key exist and fit each other."""
    certificate_digests: Mapping[str, str] = field(default_factory=dict)
    """Host name -> short hash of its certificate: a renewal changes the configuration and so reloads nginx."""
    version: tuple[int, ...] = (0, 0, 0)
    """nginx's."""
    slots: frozenset[str] = frozenset()
    """Apps whose slots the loaded configuration has as upstreams."""
    since: float = 0.0
    """Unix time at which ``written`` was written."""
    ipv6: bool = False
    """The host can listen on IPv6."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the agent's own probe says about one replica."""

    healthy: bool | None
    """None: not known yet."""
    since: float
    """Unix time of the last change of ``healthy``."""
    message: str = ""
    """Why it is not healthy: ``GET /healthz: 500``, ``connection refused``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What nginx saw of one address since we began to count."""

    requests: int
    errors: int
    """Those that ended with 5xx, or broke off."""
    since: float
    """Unix time at which counting began."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The host as it is, read in one pass."""

    engine: EngineState
    names: NamesState
    site: SiteState | None
    """None when the settings name no nginx."""
    probes: Mapping[str, ProbeResult] = field(default_factory=dict)
    """By container id."""
    connections: Mapping[str, int] = field(default_factory=dict)
    """Container id -> established connections to its listening ports, for retiring replicas."""
    present: frozenset[str] = frozenset()
    """Files and secrets directories (as in DesiredApp) that are on disk and complete."""
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    """By address, of replicas that take part in a canary; empty while there is none."""


# --- memory of the store and of the agent ---------------------------------------------------------------------------


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
