"""Where the benchmarks run: a Docker Engine, nginx and a config repository of their own, in a network of their own."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.engine import PrivateEngine
from harness.host import Host
from harness.isolation import isolate

from bench.measure import wait

IMAGE = "app:1"
_ADDRESSES = itertools.count(1)

FLEET = "kind: Fleet\nhosts: {web-1: {}, web-2: {}}\n"


@contextmanager
def engine() -> Iterator[PrivateEngine]:
    """An engine with the image of a small web server (2 MB)."""
    isolate()
    private = PrivateEngine()
    private.start()
    try:
        private.import_image(
            IMAGE, changes=('CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]',), files={"www/healthz": b"ok"}
        )
        yield private
    finally:
        private.destroy()


@contextmanager
def host(private: PrivateEngine, interval: str = "10m") -> Iterator[Host]:
    """A host with nginx running, and no agent yet."""
    with tempfile.TemporaryDirectory(prefix="rec-bench-") as root:
        made = Host(private, Path(root, "host"))
        made.settings["repository"]["interval"] = interval
        made.nginx.start()
        try:
            yield made
        finally:
            made.destroy()


def manifest(name: str, **fields: Any) -> str:  # noqa: ANN401  (as a manifest has them)
    """An app with an ingress and a health check, as most have."""
    app = {
        "kind": "App",
        "name": name,
        "image": IMAGE,
        "health": {"http": "/healthz", "port": 8080},
        "ingress": [{"host": f"{name}.example.com", "port": 8080}],
        **fields,
    }
    return json.dumps({key: value for key, value in app.items() if value is not None}, indent=1)


def apps(names: Iterator[str] | list[str], **fields: Any) -> dict[str, str | bytes | None]:  # noqa: ANN401  (likewise)
    """Their manifests by path."""
    return {f"apps/{name}/app.json": manifest(name, **fields) for name in names}


@contextmanager
def agent(on: Host) -> Iterator[int]:
    """The agent as a service has it: a process of its own that logs what it does. Yields its pid."""
    on.write_settings()
    with on.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "reconciler", "--config", str(on.config), "run"], stdout=log, stderr=log
        )
    on.process = process
    try:
        wait("the agent has walked", lambda: (on.status() or {}).get("commit") is not None)
        yield process.pid
    finally:
        on.stop_agent()


def push(on: Host, *commit: str) -> float:
    """Commit what was written (or as told: a git command), and push; Unix time at which ``git push`` was done."""
    on.repository.git("add", "--all")
    on.repository.git(*(commit or ("commit", "--quiet", "-m", "Change")))
    on.repository.git("push", "--quiet", "origin", "HEAD:refs/heads/main")
    return time.time()


def converged(on: Host, revision: str) -> None:
    """Wait until the agent has nothing to do any more at this revision."""

    def over() -> bool:
        status = on.status() or {}
        return status.get("result") == "converged" and (status.get("commit") or {}).get("sha") == revision

    wait(f"{revision[:8]} is converged", over, every=0.3)


@contextmanager
def still(pid: int) -> Iterator[None]:
    """Let a process stand still, so that it does not take part in what is measured now."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class RawEngine:
    """What a person with curl would send, on one connection that stays open."""

    def __init__(self, private: PrivateEngine) -> None:
        self._connection = http.client.HTTPConnection("docker", timeout=120)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(str(private.socket))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  (JSON)
        """One call."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, f"/v1.41{path}", json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"bench: {method} {path}: {answer.status} {content.decode()}")
        return json.loads(content) if content else None

    def create_and_start(self, body: Mapping[str, Any]) -> str:
        """The two calls that are needed, and its id."""
        created: str = self.ask("POST", "/containers/create", body)["Id"]
        self.ask("POST", f"/containers/{created}/start")
        return created

    def times(self, container: str) -> tuple[float, float]:
        """When it was created and when it ran, as the engine says."""
        found = self.ask("GET", f"/containers/{container}/json")
        return _unix(found["Created"]), _unix(found["State"]["StartedAt"])

    def twin(self, container: str, network: str) -> dict[str, Any]:
        """What makes a container just like this one, with an address of its own, and not ours."""
        found = self.ask("GET", f"/containers/{container}/json")
        config = {key: value for key, value in found["Config"].items() if key not in {"Hostname", "Labels"}}
        labels = {f"bench.{name}": value for name, value in found["Config"]["Labels"].items()}
        own = found["NetworkSettings"]["Networks"][network]["IPAMConfig"]["IPv4Address"].split(".")
        address = ".".join([*own[:2], *map(str, divmod(200 * 256 + next(_ADDRESSES), 256))])
        where = {network: {"IPAMConfig": {"IPv4Address": address}}}
        return {
            **config,
            "Labels": labels,
            "HostConfig": found["HostConfig"],
            "NetworkingConfig": {"EndpointsConfig": where},
        }

    def removed_at(self, container: str, since: float) -> float:
        """When it was removed, as the engine says."""
        filters = json.dumps({"container": [container], "event": ["destroy"]})
        until = time.time()
        self._connection.request("GET", f"/v1.41/events?since={since:.3f}&until={until:.3f}&filters={quote(filters)}")
        return float(json.loads(self._connection.getresponse().read().splitlines()[0])["timeNano"]) / 1e9

    def remove(self, container: str) -> None:
        """By force."""
        self.ask("DELETE", f"/containers/{container}?force=true&v=true")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
