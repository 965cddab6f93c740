"""nginx's configuration for the apps of this host: names only, so that a deploy reloads nothing.

Two forms, by what nginx can do. Every version takes a name from a variable and asks the resolver again each second;
from 1.27.3 an upstream does so by itself (``server ... resolve``) and keeps connections to the apps open. A new one has
no address for some milliseconds, so slots are loaded before they are used, and an app's own name stays.

A path is a prefix that ends at a segment: ``/api`` (or ``/api/``, which is the same) takes ``/api`` and ``/api/x`` but
not ``/apix``; the longest prefix of a host wins, whichever apps they belong to.

Every value has been through the schema, and through ``routes.py`` once more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from reconciler.core.model import App
from reconciler.core.observed import SiteState
from reconciler.core.routes import Clash, Route, check_frontend, checked_digest, claim
from reconciler.core.slots import SIZES, names_of

GENERATION_HOST = "generation.reconciler.invalid"
"""nginx answers the loaded generation's id to this host name, and only to the host itself."""
FILE = "reconciler.conf"
"""The one file of a generation."""

_HTTP2_DIRECTIVE = (1, 25, 1)
_KEEPALIVE_MIN_TIMEOUT = (1, 27, 4)
_RETRY_AFTER = 2  # seconds; a replica that is replaced takes about so long
_ACME = "/.well-known/acme-challenge"
_ID_PLACE = "0" * 16  # stands where the id will be, which is a hash over all the rest
_APP_MARKER = "# app "
_NO_APP_MARKER = "# no app"
_SLOT_UPSTREAM = re.compile(r"^upstream reconciler\.([a-z0-9-]+)_1\.", re.MULTILINE)
_HASHED_SERVER_NAME = 46  # nginx's default server_names_hash_bucket_size takes no longer name, and refuses to start


@dataclass(frozen=True, slots=True)
class Frontend:
    """What the host's settings say about its nginx."""

    resolver: str
    """The names service: our network's gateway."""
    http: int = 80
    https: int = 443
    address: str = ""
    """Address to listen on; empty: all."""
    default_server: bool = True
    """Answer 404 for host names that no app claims."""
    certificates: str = "/etc/reconciler/certificates"
    """Directory with NAME.crt and NAME.key."""
    tally: str = ""
    """Directory that is there while the agent counts answers, with the socket in it; empty: it never does."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A complete configuration, named after its bytes."""

    id: str
    """16 hexadecimal digits."""
    files: tuple[tuple[str, str], ...]
    """(file name, content), in order."""
    clashes: tuple[Clash, ...] = ()
    split: frozenset[str] = frozenset()
    """Apps whose requests are dealt out to slots."""


def render(
    apps: Iterable[App], site: SiteState, frontend: Frontend, split: Collection[str] = frozenset()
) -> Generation:
    """Render nginx's configuration for the apps of this host.

    Args:
        apps: All that should have routes, healthy or not; of two that claim the same path the first has it.
        site: What this nginx can do, and which certificates there are.
        frontend: From the settings.
        split: Names of apps whose requests should be dealt out to their slots.

    Raises:
        InvalidInput: reason ``UnsafeRoute``; a value is not what the schema lets through.
    """
    directories = (frontend.certificates, *filter(None, (frontend.tally,)))
    check_frontend(frontend.resolver, frontend.address, directories, frontend.http, frontend.https)
    hosts, clashes = claim(apps)
    routed = {route.app for routes in hosts.values() for route in routes}
    early = routed - site.slots if site.resolve else frozenset[str]()
    used = frozenset(split) - early
    text = "".join(f"{line}\n" for line in _configuration(hosts, site, frontend, split, used))
    identity = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Generation(identity, ((FILE, text.replace(_ID_PLACE, identity)),), tuple(clashes), used)


def slots_in(text: str) -> frozenset[str]:
    """Apps whose slots a rendered file has as upstreams."""
    return frozenset(_SLOT_UPSTREAM.findall(text))


def app_at(text: str, line: int) -> str | None:
    """The app to which a line (from 1) of a rendered file belongs; None where it belongs to no single one."""
    for above in reversed(text.splitlines()[:line]):
        marker = above.strip()
        if marker.startswith(_APP_MARKER):
            return marker.removeprefix(_APP_MARKER)
        if marker == _NO_APP_MARKER or not above.startswith("    "):
            return None
    return None


def _configuration(
    hosts: Mapping[str, list[Route]],
    site: SiteState,
    frontend: Frontend,
    split: Collection[str],
    used: Collection[str],
) -> Iterator[str]:
    encrypted = {host for host, routes in hosts.items() if host in site.certificates and any(map(_wants_tls, routes))}
    yield "# Made by reconciler from the manifests; changes are overwritten."
    yield from _maps(site)
    if any(route.app in used for routes in hosts.values() for route in routes):
        yield from _slots(frontend)
    yield from _generation_server(frontend, site)
    if frontend.default_server:
        yield from _default_servers(frontend, site, encrypted=bool(encrypted))
    if site.resolve:
        yield from _upstreams(hosts, frontend, split)
    for host, routes in hosts.items():
        yield from _host(host, routes, site, frontend, used, encrypted=host in encrypted)


def _wants_tls(route: Route) -> bool:
    return route.ingress.tls == "auto"


def _maps(site: SiteState) -> Iterator[str]:
    yield ""
    # Not whatever a client asks for: an app that speaks h2c would open a tunnel past nginx's routes.
    yield "map $http_upgrade $reconciler_upgrade {"
    yield "    default '';"
    yield "    '~*^websocket$' websocket;"
    yield "}"
    yield "map $reconciler_upgrade $reconciler_connection {"
    yield "    default upgrade;"
    # An empty value keeps the connection to the app open, which only upstream blocks can use again. In the variable
    # form nginx would close first, and TIME_WAIT would eat all local ports toward one replica within seconds.
    yield "    '' '';" if site.resolve else "    '' close;"
    yield "}"
    yield "# The client's port as it said it; the host name is the one by which nginx chose the server."
    yield "map $http_host $reconciler_port {"
    yield "    default '';"
    yield "    '~(?<reconciler_said_port>:[0-9]{1,5})$' $reconciler_said_port;"
    yield "}"
    yield "# No replica was reached: none is healthy, or none answers."
    yield "map $upstream_connect_time $reconciler_unreached {"
    yield "    default '';"
    yield "    '' 1;"  # regular expressions are not tried on nothing
    yield "    '~^[-, :]*$' 1;"
    yield "}"
    yield "# A replica was reached and took too long."
    yield "map $upstream_status $reconciler_late {"
    yield "    default '';"
    yield "    '~504$' 1;"
    yield "}"


def _generation_server(frontend: Frontend, site: SiteState) -> Iterator[str]:
    yield ""
    yield "# Which generation is loaded, for this host alone: a connection to itself has the same address on both ends."
    yield "# ('return' comes before allow and deny.)"
    yield "server {"
    yield from _listen(frontend, site, frontend.http)
    yield f"    server_name {GENERATION_HOST};"
    yield "    server_tokens off;"
    yield "    access_log off;"
    yield "    default_type text/plain;"
    yield "    keepalive_timeout 0;"
    yield "    location / {"
    yield "        if ($remote_addr != $server_addr) {"
    yield "            return 404 'no app here\\n';"
    yield "        }"
    yield f"        return 200 '{_ID_PLACE}\\n';"
    yield "    }"
    yield "}"


def _default_servers(frontend: Frontend, site: SiteState, *, encrypted: bool) -> Iterator[str]:
    nothing = ["    location / {", "        return 404 'no app here\\n';", "    }", "}"]
    yield ""
    yield "server {"
    yield from _listen(frontend, site, frontend.http, " default_server")
    yield "    server_name default.reconciler.invalid;"
    yield "    server_tokens off;"
    yield "    default_type text/plain;"
    yield from nothing
    if encrypted:
        yield ""
        yield "# Without it a client that asks for an unknown name would be shown the first app's certificate."
        yield "server {"
        yield from _listen(frontend, site, frontend.https, " ssl", " default_server")
        yield "    server_name default.reconciler.invalid;"
        yield "    ssl_reject_handshake on;"
        yield from _tls(site)
        yield "    server_tokens off;"
        yield "    default_type text/plain;"
        yield from nothing


def _listen(frontend: Frontend, site: SiteState, port: int, *options: str) -> Iterator[str]:
    if " ssl" in options and site.version < _HTTP2_DIRECTIVE:
        options = (*options, " http2")
    suffix = "".join(options)
    if frontend.address:
        yield f"    listen {_bracketed(frontend.address)}:{port}{suffix};"
        return
    yield f"    listen {port}{suffix};"
    if site.ipv6:
        yield f"    listen [::]:{port}{suffix};"


def _tls(site: SiteState) -> Iterator[str]:
    """Mozilla's intermediate settings, without what OpenSSL 3.0 lacks and without DHE, which needs parameters."""
    if site.version >= _HTTP2_DIRECTIVE:
        yield "    http2 on;"
    yield "    ssl_protocols TLSv1.2 TLSv1.3;"
    yield "    ssl_ecdh_curve X25519:prime256v1:secp384r1;"
    yield (
        "    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
        "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;"
    )
    yield "    ssl_prefer_server_ciphers off;"
    yield "    ssl_session_timeout 1d;"
    yield "    ssl_session_cache shared:reconciler_tls:10m;"
    yield "    ssl_session_tickets off;"


# --- from a route to the app ----------------------------------------------------------------------------------------
# One target for each app and port; seven more, its slots, where requests are dealt out.


def _slots(frontend: Frontend) -> Iterator[str]:
    yield ""
    yield "# Which of an app's slots a request goes to; whom each leads to, the names service answers."
    yield "split_clients $request_id $reconciler_slot {"
    for number, size in enumerate(SIZES[:-1], 1):
        yield f"    {size}% {number};"
    yield f"    * {len(SIZES)};"
    yield "}"
    if not frontend.tally:
        return
    yield "# What became of it is told to the agent while it listens. The host's own access log goes on beside this."
    for name in ("counts", "counted"):
        yield f"map $request_method $reconciler_{name} {{"  # else nginx would warn of a variable that nobody has set
        yield "    default '';"
        yield "}"
    yield "log_format reconciler_tally '$upstream_addr|$upstream_status';"
    server = f"syslog:server=unix:{frontend.tally}/socket,nohostname,tag=reconciler"
    yield f"access_log {server} reconciler_tally if=$reconciler_counted;"


def _targets(hosts: Mapping[str, list[Route]], split: Collection[str]) -> list[tuple[str, int, str]]:
    """App, port and the name that nginx asks for."""
    wanted = {(route.app, route.ingress.port) for routes in hosts.values() for route in routes}
    return sorted((app, port, name) for app, port in wanted for name in (app, *(names_of(app) if app in split else ())))


def _upstreams(hosts: Mapping[str, list[Route]], frontend: Frontend, split: Collection[str]) -> Iterator[str]:
    for app, port, name in _targets(hosts, split):
        yield ""
        yield f"upstream {_upstream(name, port)} {{"
        yield f"    {_APP_MARKER}{app}"
        # 64k take some 60 replicas, and nginx quietly does without the others.
        yield f"    zone {_upstream(name, port)} 256k;"
        # No request waits for this one. After a failure nginx looks again only when as long has passed once more: with
        # 30 s it was blind for 28 s after an outage of 33.
        yield from _resolver(frontend, 1)
        # max_fails=0: who takes traffic is decided by health checks; one poisonous request to each replica must not
        # take them all away from everybody.
        yield f"    server {name}:{port} resolve max_fails=0;"
        yield "    keepalive 32;"
        # Shorter than what any server we know has: one that closes first would lose a POST sent at that moment.
        yield "    keepalive_timeout 1s;"
        yield "}"


def _upstream(name: str, port: int) -> str:
    return f"reconciler.{name}.{port}"


def _proxy_pass(route: Route, site: SiteState, frontend: Frontend, split: Collection[str]) -> Iterator[str]:
    name = route.app
    if route.app in split:
        name = f"{route.app}_$reconciler_slot"
        if frontend.tally:
            yield "        set $reconciler_counted $reconciler_counts;"
    if site.resolve:
        yield f"        proxy_pass http://{_upstream(name, route.ingress.port)};"
    else:
        yield f"        set $reconciler_app {name};"
        yield f"        proxy_pass http://$reconciler_app:{route.ingress.port};"


def _resolver(frontend: Frontend, timeout: int) -> Iterator[str]:
    # valid counts whole seconds: an answer is used for one to two.
    yield f"    resolver {frontend.resolver} valid=1s ipv6=off;"
    yield f"    resolver_timeout {timeout}s;"


# --- hosts ----------------------------------------------------------------------------------------------------------


def _host(
    host: str, routes: list[Route], site: SiteState, frontend: Frontend, split: Collection[str], *, encrypted: bool
) -> Iterator[str]:
    plain = [route for route in routes if not (encrypted and _wants_tls(route))]
    yield ""
    yield "server {"
    yield from _listen(frontend, site, frontend.http)
    yield from _server(host, plain, site, frontend, split)
    for route in routes:
        if route not in plain:
            port = "" if frontend.https == 443 else f":{frontend.https}"  # noqa: PLR2004  (what https:// means)
            yield from _locations(route, (f"        return 308 https://{host}{port}$request_uri;",))
    yield from _rest(routes, challenge=any(map(_wants_tls, routes)))
    if not encrypted:
        return
    yield ""
    yield "server {"
    yield from _listen(frontend, site, frontend.https, " ssl")
    yield from _tls(site)
    yield f"    # certificate {checked_digest(host, site.certificate_digests)}"
    yield f'    ssl_certificate "{frontend.certificates}/{host}.crt";'
    yield f'    ssl_certificate_key "{frontend.certificates}/{host}.key";'
    yield from _server(host, routes, site, frontend, split)
    yield from _rest(routes, challenge=False)


def _server(
    host: str, routes: list[Route], site: SiteState, frontend: Frontend, split: Collection[str]
) -> Iterator[str]:
    """What all routes of a host share, and the routes that lead to apps."""
    if len(host) <= _HASHED_SERVER_NAME:
        yield f"    server_name {host};"
    else:  # a regular expression is not hashed
        yield f"    server_name ~^{re.escape(host)}$;"
    yield "    server_tokens off;"
    if site.version >= _KEEPALIVE_MIN_TIMEOUT:
        yield "    keepalive_min_timeout 2s;"  # a reload then waits for the next request of a kept-alive connection
    if not routes:
        return
    if frontend.tally and any(route.app in split for route in routes):
        # One look for a directory; without the agent nothing is logged, and nobody waits or complains.
        yield f"    if (-d {frontend.tally}) {{"
        yield "        set $reconciler_counts 1;"
        yield "    }"
    if not site.resolve:
        yield from _resolver(frontend, 30)  # requests wait for a names service that is being restarted
    yield "    proxy_http_version 1.1;"
    yield "    proxy_redirect off;"
    yield "    proxy_connect_timeout 1s;"
    # Not non_idempotent; and a GET that was slow once is not tried on every other replica too.
    yield "    proxy_next_upstream error timeout;"
    yield "    proxy_next_upstream_timeout 10s;"
    yield "    proxy_set_header Host $host$reconciler_port;"
    yield "    proxy_set_header Upgrade $reconciler_upgrade;"
    yield "    proxy_set_header Connection $reconciler_connection;"
    # nginx is the edge: what a client claims about itself is not passed on.
    yield "    proxy_set_header X-Real-IP $remote_addr;"
    yield "    proxy_set_header X-Forwarded-For $remote_addr;"
    yield "    proxy_set_header X-Forwarded-Proto $scheme;"
    yield "    proxy_set_header X-Forwarded-Host $host$reconciler_port;"
    yield "    proxy_set_header X-Forwarded-Port $server_port;"
    yield "    proxy_set_header Forwarded '';"
    yield "    proxy_set_header Proxy '';"
    for route in routes:
        seconds = _duration(route.ingress.timeout)
        yield from _locations(
            route,
            (
                *_proxy_pass(route, site, frontend, split),
                f"        client_max_body_size {route.ingress.max_body};",
                f"        proxy_read_timeout {seconds};",
                f"        proxy_send_timeout {seconds};",
                f"        error_page 502 504 = @reconciler.{route.app};",
            ),
        )
    for app in sorted({route.app for route in routes}):
        yield from _failed(app)


def _locations(route: Route, body: Iterable[str]) -> Iterator[str]:
    body = tuple(body)
    for location in ("/",) if route.path == "/" else (f"= {route.path}", f"{route.path}/"):
        yield f"    {_APP_MARKER}{route.app}"
        yield f"    location {location} {{"
        yield from body
        yield "    }"


def _failed(app: str) -> Iterator[str]:
    """Errors of nginx itself. What the app itself answers passes unchanged, 502, 503 and 504 too."""
    yield f"    {_APP_MARKER}{app}"
    yield f"    location @reconciler.{app} {{"
    yield "        default_type text/plain;"
    yield "        if ($reconciler_unreached) {"
    yield f"            add_header Retry-After {_RETRY_AFTER} always;"
    yield f"            return 503 '{app} has no healthy replica right now\\n';"
    yield "        }"
    yield "        if ($reconciler_late) {"
    yield f"            return 504 '{app} did not answer in time\\n';"
    yield "        }"
    yield f"        return 502 '{app} broke off its answer\\n';"
    yield "    }"


def _rest(routes: list[Route], *, challenge: bool) -> Iterator[str]:
    """Paths that no app has, and the end of the server."""
    nothing = ["        default_type text/plain;", "        return 404 'no app here\\n';", "    }"]
    if challenge and all(route.path != _ACME for route in routes):
        yield f"    {_NO_APP_MARKER}"
        yield f"    location {_ACME}/ {{"
        yield from nothing
    if all(route.path != "/" for route in routes):
        yield f"    {_NO_APP_MARKER}"
        yield "    location / {"
        yield from nothing
    yield "}"


def _duration(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{max(1, round(seconds * 1000))}ms"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
