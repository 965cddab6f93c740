"""The agent's own settings, out of the repository's reach: ``/etc/reconciler/agent.yaml``."""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reconciler import schema
from reconciler.core.convert import as_bool, as_int, as_seconds, as_text, as_texts, given
from reconciler.core.model import Problem
from reconciler.core.node import Node, in_order
from reconciler.core.policy import Policy
from reconciler.errors import InvalidSettings

_SCP_LIKE = re.compile(r"[^/:]+:")  # user@host:path, as git tells it from a path
_LAST_PORT = 65_535
_SUBNETS = range(8, 29)  # prefix lengths that leave room for apps


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


def load_settings(path: Path) -> Settings:
    """Read agent.yaml (or .json). Relative paths in it become absolute from the directory it stands in.

    Raises:
        InvalidSettings: With everything that is wrong, one ``file:line:column: problem`` on each line.
    """
    # jsonschema and PyYAML take 80 ms and 13 MB, and most importers of this module want the dataclasses only.
    from reconciler.core.document import read  # noqa: PLC0415
    from reconciler.core.validation import Validator  # noqa: PLC0415

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(
            f"the agent's settings cannot be read: {path}: {error.strerror}",
            reason="SettingsUnreadable",
            remedy="Write them there, or name their file with --config",
        ) from error
    document = read(str(path), content)
    if document.root is None:
        raise _invalid(path, document.problems)
    schemas = {f"{name}.schema.json": schema.load(name) for name in ("agent", "app")}
    findings = Validator(schemas["agent.schema.json"], schemas).check(document.root, told=document.problems)
    problems = [*document.problems, *findings.problems, *_further_problems(_without(document.root, findings.damaged))]
    if problems:
        raise _invalid(path, in_order(problems))
    return _settings(document.root, path.resolve().parent)


def _without(root: Node, damaged: Collection[tuple[str, ...]]) -> Node:
    """The settings without those that the schema does not accept."""
    sound = root.without({path[0] for path in damaged if len(path) == 1})
    for section, *keys in damaged:
        if keys and section in sound.fields:
            sound.fields[section] = sound.fields[section].without({keys[0]})
    return sound


def _invalid(path: Path, problems: tuple[Problem, ...]) -> InvalidSettings:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return InvalidSettings(f"the agent's settings in {path} cannot be used:{lines}", reason="InvalidSettings")


def _settings(root: Node, base: Path) -> Settings:
    def as_path(node: Node) -> Path:
        return base / node.text

    def as_program(node: Node) -> str:
        return str(base / node.text) if "/" in node.text else node.text

    def as_command(node: Node) -> tuple[str, ...]:
        program, *arguments = as_texts(node) if isinstance(node.value, list) else shlex.split(node.text)
        return (str(base / program) if "/" in program else program, *arguments)

    def as_url(node: Node) -> str:
        return node.text if _is_remote(node.text) else str((base / node.text).resolve())

    sections: dict[str, Callable[[Node], object]] = {
        "repository": lambda node: Repository(
            **given(
                node,
                url=as_url,
                branch=as_text,
                directory=as_text,
                interval=as_seconds,
                timeout=as_seconds,
                ssh_key=as_path,
                known_hosts=as_path,
                token_file=as_path,
                username=as_text,
            )
        ),
        "docker": lambda node: Docker(**given(node, socket=as_path, network=as_text, subnet=as_text)),
        "nginx": lambda node: (
            None
            if node.value is None
            else Nginx(
                **given(
                    node,
                    command=as_command,
                    config=as_path,
                    http=as_int,
                    https=as_int,
                    address=as_text,
                    default_server=as_bool,
                    certificates=as_path,
                    reload_timeout=as_seconds,
                )
            )
        ),
        "names": lambda node: NamesService(**given(node, command=as_program, start=as_bool, upstream=as_texts)),
        "sops": lambda node: Sops(**given(node, command=as_program, age_key=as_path)),
        "policy": lambda node: Policy(**given(node, registries=as_texts, bind_sources=as_texts, capabilities=as_texts)),
    }
    return Settings(
        **{"host": socket.gethostname(), **given(root, host=as_text, state=as_path, runtime=as_path, listen=as_text)},
        **given(root, **sections),
    )


def _is_remote(url: str) -> bool:
    return "://" in url or bool(_SCP_LIKE.match(url))


def _further_problems(root: Node) -> Iterator[Problem]:
    """What no schema can say."""
    url = root.at("repository", "url")
    if url is not None:
        yield from _url_problems(url, root)
    subnet = root.at("docker", "subnet")
    if subnet is not None and not _is_subnet(subnet.text):
        yield subnet.problem(
            f"'subnet' must be an IPv4 network from /{_SUBNETS[0]} to /{_SUBNETS[-1]}, written with its first address, "
            "such as 10.201.0.0/16"
        )
    address = root.at("nginx", "address")
    if address is not None and address.text and not _is_address(address.text):
        yield address.problem("'address' must be an IP address, or empty for all")
    command = root.at("nginx", "command")
    if command is not None and isinstance(command.value, str) and not _is_command(command.text):
        yield command.problem("'command' must be a command; a quote in it is not closed, or it is empty")
    ports = root.at("nginx", "http"), root.at("nginx", "https")
    http, https = (as_int(port) if port else default for port, default in zip(ports, (80, 443), strict=True))
    node = ports[1] or ports[0]
    if node is not None and http == https:
        yield node.problem("'http' and 'https' must be different ports")
    for node in root.each("names", "upstream"):
        resolver, _, port = node.text.partition("#")
        if not _is_address(resolver) or not 1 <= int(port or 53) <= _LAST_PORT:
            yield node.problem("a resolver must be an IP address, with #PORT where it is not 53")
    listen = root.at("listen")
    if listen is not None:
        host, _, port = listen.text.rpartition(":")
        if not (host == "localhost" or _is_address(host.strip("[]"))) or not 1 <= int(port) <= _LAST_PORT:
            yield listen.problem("'listen' must be ADDRESS:PORT such as 127.0.0.1:9465")


def _url_problems(url: Node, root: Node) -> Iterator[Problem]:
    """The words of the URL are not repeated: what is wrong with it may be the password in it."""
    try:
        parts = urllib.parse.urlsplit(url.text if "://" in url.text else "")
        scheme, password = parts.scheme, parts.password
    except ValueError:
        yield url.problem("'url' is no address that can be understood")
        return
    if password is not None:
        yield url.problem(
            "'url' holds a password, which logs would show: write it to a file, and name that as 'token_file'"
        )
    elif "://" in url.text and scheme not in {"ssh", "https", "http", "file"}:
        yield url.problem("'url' must begin with ssh://, https:// or file://, or be user@host:path or a local path")
    token = root.at("repository", "token_file")
    if token is not None and scheme not in {"https", "http"}:
        yield token.key_problem("'token_file' has no meaning here: 'url' is not an https:// address")
    key = root.at("repository", "ssh_key")
    if key is not None and scheme != "ssh" and ("://" in url.text or not _is_remote(url.text)):
        yield key.key_problem("'ssh_key' has no meaning here: 'url' is not an ssh address")


def _is_subnet(text: str) -> bool:
    try:
        return ipaddress.IPv4Network(text).prefixlen in _SUBNETS
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text) is not None
    except ValueError:
        return False


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:
        return False
