"""Which app has which host and path, and a second lock on what may stand in nginx's configuration.

nginx knows no quoting that is safe for every value: one with ``;`` or ``{`` in it could write directives of its own.
The schema lets none through. Here each is checked again, and one that is not harmless raises.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.core.appfile import NAME
from reconciler.core.model import App, Ingress
from reconciler.errors import InvalidInput

_LONGEST_HOST = 253  # RFC 1035
_LONGEST_PATH = 250  # nginx counts the length of a location in one byte
_LONGEST_TIMEOUT = 10_000_000.0  # seconds, four months
_LAST_PORT = 65_535

_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*\Z")
_DIRECTORY = re.compile(r"/[^\x00-\x1f\x7f\"'\\$;{}]*\Z")
_DIGEST = re.compile(r"[0-9a-f]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Route:
    """A path of a host that leads to an app."""

    app: str
    path: str
    """Without a slash at the end, but for ``/`` itself."""
    ingress: Ingress


@dataclass(frozen=True, slots=True)
class Clash:
    """Two apps claim the same host and path; the first has it."""

    host: str
    path: str
    app: str
    loser: str


def claim(apps: Iterable[App]) -> tuple[dict[str, list[Route]], tuple[Clash, ...]]:
    """Give each host and path to the first app that claims it.

    Two apps of one revision cannot claim the same. But while one of them stays at its last good version because its
    manifest is broken, the other may already want its path.

    Raises:
        InvalidInput: reason ``UnsafeRoute``.
    """
    claimed: dict[tuple[str, str], Route] = {}
    clashes = []
    for app in apps:
        for ingress in app.ingress:
            _check(app.name, ingress)
            path = ingress.path.rstrip("/") or "/"
            route = claimed.setdefault((ingress.host, path), Route(app.name, path, ingress))
            if route.app != app.name:
                clashes.append(Clash(ingress.host, path, route.app, app.name))
    hosts: dict[str, list[Route]] = {}
    for (host, _), route in sorted(claimed.items(), key=lambda item: item[0]):
        hosts.setdefault(host, []).append(route)
    return hosts, tuple(clashes)


def check_frontend(resolver: str, address: str, directories: Iterable[str], *ports: int) -> None:
    """Check what comes from the settings. Raises InvalidInput, reason ``UnsafeRoute``."""
    for value in filter(None, (resolver, address)):
        _demand("the settings", "address", value, fine=_is_address(value))
    for directory in directories:
        _demand("the settings", "directory", directory, fine=bool(_DIRECTORY.match(directory)))
    for port in ports:
        _demand("the settings", "port", port, fine=_is_port(port))


def checked_digest(host: str, digests: Mapping[str, str]) -> str:
    """The digest of a host's certificate. Raises InvalidInput, reason ``UnsafeRoute``."""
    digest = digests.get(host, "0")
    _demand(host, "certificate digest", digest, fine=bool(_DIGEST.match(digest)))
    return digest


def _check(app: str, ingress: Ingress) -> None:
    host, path = ingress.host, ingress.path
    _demand(app, "name", app, fine=bool(NAME.fullmatch(app)))
    _demand(app, "host", host, fine=len(host) <= _LONGEST_HOST and bool(_HOST.match(host)))
    fine = len(path) <= _LONGEST_PATH and bool(_PATH.match(path)) and ".." not in path
    _demand(app, "path", path, fine=fine)
    _demand(app, "port", ingress.port, fine=_is_port(ingress.port))
    _demand(app, "tls", ingress.tls, fine=ingress.tls in {"off", "auto"})
    _demand(app, "max_body", ingress.max_body, fine=type(ingress.max_body) is int and ingress.max_body > 0)
    fine = type(ingress.timeout) in {int, float} and 0 < ingress.timeout < _LONGEST_TIMEOUT
    _demand(app, "timeout", ingress.timeout, fine=fine)


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value  # a zone index may be anything


def _is_port(port: object) -> bool:
    return type(port) is int and 0 < port <= _LAST_PORT


def _demand(owner: str, field: str, value: object, *, fine: bool) -> None:
    if not fine:
        raise InvalidInput(
            f"{owner!r}: {field} {value!r} cannot stand in nginx's configuration",
            reason="UnsafeRoute",
            remedy="Mend it; nginx goes on with the routes it has",
        )
