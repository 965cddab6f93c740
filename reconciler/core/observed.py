"""The host as it is. All values are frozen; times are Unix time, durations seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
