"""Requests a second through nginx to an app, in both forms of the configuration, beside a direct connection.

The app is an nginx in a container, which answers three bytes; it has one process, and so has the nginx before it. wrk
asks: 32 connections that are kept alive; 32 that end after each answer; and a single one, which shows what a request
costs when nobody else is there. All ways in turns, round after round. Client, nginx and app share the machine's cores,
so a direct connection has more of them for itself: that is what the ratio says. Nothing may fail.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.engine import PrivateEngine
from harness.host import Host
from harness.nginx import program
from harness.python_image import libraries

from bench import lab
from bench.measure import say, table

_ROUNDS = 5
_SECONDS = 3
_WAYS = {
    "32 kept alive": ("--connections", "32"),
    "32, one request each": ("--connections", "32", "--header", "Connection: close"),
    "1 kept alive": ("--connections", "1"),
}
_DIRECT = "direct"
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_NGINX = b"""\
daemon off;
pid /tmp/pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path /tmp/1;
    proxy_temp_path /tmp/2;
    fastcgi_temp_path /tmp/3;
    uwsgi_temp_path /tmp/4;
    scgi_temp_path /tmp/5;
    keepalive_requests 1000000;
    server {
        listen 8080 backlog=1024;
        location / { return 200 "ok\\n"; }
    }
}
"""


_Target = tuple[str, str, str]
"""What it is, its URL, its Host header."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What wrk says."""

    rate: float
    """Requests a second."""
    median: float
    """Milliseconds."""
    p99: float


def main() -> None:
    """Print the table."""
    measured: dict[tuple[str, str], list[_Measured]] = defaultdict(list)
    with lab.engine() as private, ExitStack() as stack:
        _make_image(private)
        old, newer = (stack.enter_context(_served(private, kind)) for kind in ("distribution", "newer"))
        for number in range(_ROUNDS + 1):
            for connections, options in _WAYS.items():
                for way, url, name in (*old, newer[1]):
                    found = _wrk(url, name, options, 1 if number == 0 else _SECONDS)
                    if number:  # the first is for warming up
                        measured[connections, way].append(found)
            say(f"round {number} of {_ROUNDS}")
    rows = [
        _row(connections, way, found, measured[connections, _DIRECT]) for (connections, way), found in measured.items()
    ]
    head = ("connections", "way", "requests/s", "of direct", "median, ms", "of direct", "p99, ms", "of direct")
    table(f"Throughput of the proxied path (medians of {_ROUNDS} rounds)", head, rows)


def _row(connections: str, way: str, found: list[_Measured], direct: list[_Measured]) -> tuple[object, ...]:
    cells: list[object] = []
    for read in (lambda each: each.rate, lambda each: each.median, lambda each: each.p99):
        value, floor = (statistics.median(map(read, each)) for each in (found, direct))
        cells += [f"{value:.0f}" if value > 1000 else value, f"{value / floor:.2f}"]
    return connections, way, *cells


def _make_image(private: PrivateEngine) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        raise SystemExit("bench: nginx is missing: ./scripts/setup test")
    files = {path: Path(path).read_bytes() for path in (nginx, *libraries([nginx]))}
    command = f'CMD ["{nginx}", "-e", "stderr", "-p", "/tmp", "-c", "/etc/fast.conf"]'
    private.import_image("fast:1", changes=(command, "USER app"), files={**files, "/etc/fast.conf": _NGINX})


@contextmanager
def _served(private: PrivateEngine, kind: str) -> Iterator[list[_Target]]:
    """The app, behind nginx and by itself."""
    nginx = program(kind)
    version = subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True, timeout=10).stderr.split()[2]
    name = f"app-{kind}"
    with tempfile.TemporaryDirectory(prefix="rec-bench-") as root:
        host = Host(private, Path(root, "host"), nginx)
        host.nginx.start()
        try:
            revision = host.commit({"fleet.yaml": lab.FLEET, **lab.apps([name], image="fast:1")})
            with lab.agent(host):
                host.wait_synced(revision)  # converged it never is: it sees the other host's container
            form = "an upstream" if "resolve" in _upstreams(host) else "a variable"
            (container,) = host.containers(name)
            address = container.attrs["NetworkSettings"]["Networks"][host.network]["IPAddress"]
            proxied = (f"{version}, {form}", f"http://127.0.0.1:{host.http}/", f"{name}.example.com")
            yield [(_DIRECT, f"http://{address}:8080/", f"{name}.example.com"), proxied]
        finally:
            host.destroy()


def _upstreams(host: Host) -> str:
    files = (host.state / "nginx" / "current").glob("*.conf")
    return "".join(line for path in files for line in path.read_text().splitlines() if line.startswith("    server "))


def _wrk(url: str, name: str, options: tuple[str, ...], seconds: int) -> _Measured:
    command = ["wrk", "--threads", "1", "--latency", "--duration", f"{seconds}s", *options]
    command += ["--header", f"Host: {name}", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"bench: requests failed:\n{said}")
    return _Measured(float(rate[1]), _milliseconds(said, "50%"), _milliseconds(said, "99%"))


def _milliseconds(said: str, share: str) -> float:
    found = re.search(rf"^\s+{share}\s+([0-9.]+)(us|ms|s)$", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"bench: wrk says nothing of {share}:\n{said}")
    return float(found[1]) * _UNITS[found[2]]


if __name__ == "__main__":
    main()
