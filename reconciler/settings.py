"""The agent's own settings, out of the repository's reach: ``/etc/reconciler/agent.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Repository:
    """Where the config repository is and how to get in."""

    url: str
    branch: str = "main"
    directory: str = "."
    interval: float = 30.0
    timeout: float = 30.0
    """For one git command; a stalled server costs no more."""
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    token_file: Path | None = None
    username: str = "git"
    """For https with a token; forges ignore it or say which they want."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The engine and our network in it."""

    socket: Path = Path("/var/run/docker.sock")
    network: str = "reconciler"
    subnet: str = "10.201.0.0/16"


@dataclass(frozen=True, slots=True)
class Nginx:
    """The host's nginx."""

    command: tuple[str, ...] = ("nginx",)
    config: Path = Path("/etc/nginx/nginx.conf")
    http: int = 80
    https: int = 443
    address: str = ""
    """Address to listen on; empty: all."""
    default_server: bool = True
    """Answer 404 for host names that no app claims."""
    certificates: Path = Path("/etc/reconciler/certificates")
    """NAME.crt (full chain) and NAME.key for apps with ``tls: auto``."""
    reload_timeout: float = 5.0
    """nginx must answer with a new generation within so many seconds, or it has refused it."""


@dataclass(frozen=True, slots=True)
class NamesService:
    """dnsmasq."""

    command: str = "dnsmasq"
    start: bool = True
    """Start it when it does not answer; False where systemd does (reconciler-names.service)."""
    upstream: tuple[str, ...] = ()
    """Resolvers for outside names; empty: those of /etc/resolv.conf."""


@dataclass(frozen=True, slots=True)
class Sops:
    """How secrets are decrypted."""

    command: str = "sops"
    age_key: Path | None = None
    """None: the systemd credential ``age.key`` where there is one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What this host permits, whatever the repository says."""

    registries: tuple[str, ...] = ()
    """Allowed registries; empty: any."""
    bind_sources: tuple[str, ...] = ()
    """Host directories that apps may mount; empty: none."""
    capabilities: tuple[str, ...] = ()
    """Capabilities beyond Docker's default set that apps may add."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of agent.yaml, with paths made absolute."""

    host: str
    repository: Repository
    docker: Docker = field(default_factory=Docker)
    nginx: Nginx | None = field(default_factory=Nginx)
    """None (``nginx: null``): this host serves no ingress."""
    names: NamesService = field(default_factory=NamesService)
    sops: Sops = field(default_factory=Sops)
    state: Path = Path("/var/lib/reconciler")
    runtime: Path = Path("/run/reconciler")
    listen: str = "127.0.0.1:9465"
    policy: Policy = field(default_factory=Policy)
