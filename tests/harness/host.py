"""A whole host: engine, names service, nginx, config repository, and the real agent as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from harness.engine import PrivateEngine
from harness.git import ConfigRepository
from harness.load import Ask, Load
from harness.secrets import SecretSmith
from harness.waiting import eventually

_CGI = b"""#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "version=$VERSION greeting=$GREETING env_secret=$API_TOKEN file_secret=$(cat /run/secrets/password 2>/dev/null)"
"""
_FLAKY = b"""#!/bin/sh
[ "$VERSION" = 3 ] && printf 'Status: 500 Internal Server Error\\r\\n'
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "$VERSION"
"""
"""Version 3 is well, as far as its health check can tell, and answers 500."""
_NAMES = iter(range(1, 200))


def make_app_images(engine: PrivateEngine, name: str = "shop", versions: tuple[str, ...] = ("1", "2", "3")) -> None:
    """Images of a small web app that tells its version, its environment and its secrets."""
    for version in versions:
        engine.import_image(
            f"{name}:{version}",
            changes=('CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]', f"ENV VERSION={version}", "USER app"),
            files={
                "www/cgi-bin/show": _CGI,
                "www/cgi-bin/flaky": _FLAKY,
                "www/version": version.encode(),
                "www/healthz": b"ok",
            },
        )


class Nginx:
    """A private nginx under its own prefix that includes what the agent writes."""

    def __init__(self, root: Path, sites: Path, command: tuple[str, ...] = ("nginx",)) -> None:
        self.prefix = root
        self.config = root / "nginx.conf"
        (root / "logs").mkdir(parents=True)
        self._sites = sites
        self.configure()
        self.command = (*command, "-p", str(root))

    def start(self) -> None:
        subprocess.run([*self.command, "-c", str(self.config)], check=True, timeout=20, capture_output=True)

    @property
    def pid(self) -> int | None:
        try:
            return int((self.prefix / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def stop(self) -> None:
        pid = self.pid
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{pid}").exists(), what="nginx ends")

    def kill(self) -> None:
        """Master and workers at once, as when memory runs out; the pid file stays."""
        master = self.pid
        assert master is not None
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for pid in (master, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{master}").exists(), what="nginx is gone")

    def configure(self, more: str = "") -> None:
        """Write the host's own configuration; ``more`` stands in its http block, before what the agent writes."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # nginx would give the host's own to root
        temporary = "".join(f"  {kind}_temp_path {self.prefix}/{kind};\n" for kind in kinds)
        self.config.write_text(
            f"user root;\npid {self.prefix}/pid;\nerror_log {self.prefix}/logs/error.log notice;\nevents {{}}\n"
            f"http {{\n  access_log {self.prefix}/logs/access.log;\n{temporary}  {more}\n"
            f"  include {self._sites}/current/*.conf;\n}}\n"
        )

    @property
    def reloads(self) -> int:
        """How often it was reloaded."""
        return (self.prefix / "logs" / "error.log").read_text().count(": reconfiguring")


class Host:
    """One VM. ``commit`` and ``agent`` are what a team does; everything else looks on."""

    def __init__(self, engine: PrivateEngine, root: Path, nginx: str = "nginx") -> None:
        number = next(_NAMES)
        self.engine = engine
        self.client = engine.client()
        self.network = f"rec{number}"
        self.state = root / "state"
        self.runtime = Path(tempfile.mkdtemp(prefix="rec-run-", dir="/dev/shm"))
        root.mkdir(mode=0o755, parents=True)
        self.runtime.chmod(0o755)
        self.smith = SecretSmith(root / "keys")
        self.repository = ConfigRepository(root / "git")
        self.nginx = Nginx(root / "nginx", self.state / "nginx", (nginx,))
        self.http, self.https, self.listen = _free_port(), _free_port(), _free_port()
        self.config = root / "agent.yaml"
        self.log = root / "agent.log"
        self.settings: dict[str, Any] = {
            "host": "web-1",
            "repository": {"url": str(self.repository.bare), "interval": "1s"},
            "docker": {"socket": str(engine.socket), "network": self.network, "subnet": f"10.{number}.0.0/16"},
            "nginx": {
                "command": list(self.nginx.command),
                "config": str(self.nginx.config),
                "http": self.http,
                "https": self.https,
                "certificates": str(root / "certificates"),
            },
            "sops": {"age_key": str(self.smith.key)},
            "state": str(self.state),
            "runtime": str(self.runtime),
            "listen": f"127.0.0.1:{self.listen}",
        }
        self.environment: dict[str, str] = {}
        """More variables for the agent."""
        self.program: tuple[str, ...] = (sys.executable, "-m", "reconciler")
        """How the agent is started."""
        self.process: subprocess.Popen[bytes] | None = None

    # -- what a team does -------------------------------------------------------------------------------------------

    def manifest(self, name: str = "shop", **fields: Any) -> str:
        """A manifest in YAML; ``None`` leaves a field out."""
        content = {
            "kind": "App",
            "image": "shop:1",
            "health": {
                "http": "/healthz",
                "port": 8080,
                "interval": "1s",
                "min_healthy_time": "0.2s",
                "deadline": "20s",
            },
            "stop_grace_period": "1s",
            "rollout": {"drain": "2s"},
            "ingress": [{"host": f"{name}.example.com", "port": 8080}],
            **fields,
        }
        return yaml.safe_dump({key: value for key, value in content.items() if value is not None})

    def commit(self, files: Mapping[str, str | bytes | None] | None = None, message: str = "Change") -> str:
        return self.repository.commit(files, message)

    def deploy(self, name: str = "shop", message: str = "Change", **fields: Any) -> str:
        """Commit one app's manifest."""
        return self.commit({f"apps/{name}/app.yaml": self.manifest(name, **fields)}, message)

    # -- reconciler ---------------------------------------------------------------------------------------------------

    def write_settings(self) -> None:
        self.config.write_text(yaml.safe_dump(self.settings))

    def reconciler(self, *arguments: str, expect: int | None = 0, timeout: float = 90) -> str:
        """Run one verb and return what it printed."""
        self.write_settings()
        done = subprocess.run(
            [*self.program, "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self._environment(),
        )
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"reconciler {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def sync(self, expect: int = 0) -> str:
        return self.reconciler("sync", "--timeout", "60", expect=expect)

    def start_agent(self, *arguments: str) -> None:
        """Start it, and wait until it has looked once."""
        self.launch_agent(*arguments)
        self.wait(lambda: self.status() is not None, what="the agent answers")

    def launch_agent(self, *arguments: str) -> None:
        """Start it, and wait for nothing."""
        self.write_settings()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--config", str(self.config), "--verbose", "run", *arguments],
                stdout=log,
                stderr=log,
                env=self._environment(),
            )

    def stop_agent(self, number: int = signal.SIGTERM) -> float:
        """Stop it; returns how many seconds that took."""
        if self.process is None:
            return 0.0
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None
        return time.monotonic() - began

    def _environment(self) -> dict[str, str]:
        # Without COLUMNS, which pytest's workers have: what is printed into a pipe is not cut.
        inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        return {**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), **self.environment}

    # -- looking on -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """What the running agent says, or None."""
        try:
            code, body = self.get("/status", port=self.listen)
        except OSError:
            return None
        return dict(json.loads(body)) if code == http.client.OK else None

    def app(self, name: str = "shop") -> dict[str, Any]:
        status = self.status()
        assert status is not None, "no agent answers"
        return dict(status["apps"].get(name, {}))

    def wait(self, check: Any, *, within: float = 60.0, what: str = "") -> Any:
        try:
            return eventually(check, within=within, every=0.1, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._story()}") from None

    def _story(self) -> str:
        """Where everything stands and how it came to that, for whoever reads a failed test."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        log = [line for line in lines if "DEBUG" not in line][-60:]
        status = self.status() or {"verdict": "no agent answers", "apps": {}}
        apps = [
            f"  {name}: {app['sync']} {app['health']} {app['reason']}: {app['message']} {app['revisions']}"
            for name, app in status["apps"].items()
        ]
        containers = [f"  {c['Names']} {c['Status']}" for c in self.client.api.containers(all=True)]
        return "\n".join(["", status["verdict"], *apps, "containers:", *containers, "log:", *log])

    def wait_synced(self, revision: str, *names: str, within: float = 60.0) -> None:
        """Wait until the agent has applied a revision for these apps (default: all)."""

        def synced() -> bool:
            status = self.status() or {"apps": {}}
            apps = {n: a for n, a in status["apps"].items() if not names or n in names}
            good = [a["sync"] == "Synced" and a["revisions"]["applied"] == revision for a in apps.values()]
            return bool(good) and all(good) and set(names) <= set(apps)

        self.wait(synced, within=within, what=f"{names or 'all apps'} synced at {revision[:8]}")

    def wait_reason(self, reason: str, name: str = "shop", within: float = 60.0) -> dict[str, Any]:
        self.wait(lambda: self.app(name).get("reason") == reason, within=within, what=f"{name} says {reason}")
        return self.app(name)

    def get(self, path: str, *, host: str = "shop.example.com", port: int | None = None) -> tuple[int, str]:
        """One GET through nginx (or to another port of loopback)."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http, timeout=35)
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    @contextmanager
    def visitors(self, name: str = "shop", path: str = "/version", threads: int = 1) -> Iterator[list[str]]:
        """Somebody asks an app through nginx all the time; yields what went wrong so far."""
        address, asks = ("127.0.0.1", self.http), (Ask("GET", path),)
        with Load(address, f"{name}.example.com", keep_alive=False, clients=threads, asks=asks, pause=0.01) as load:
            yield load.failures

    def serves(self, name: str = "shop") -> str:
        """The version that answers through nginx."""
        code, body = self.get("/version", host=f"{name}.example.com")
        assert code == http.client.OK, f"{code} {body}"
        return body

    def fault(self, reason: str) -> str:
        """What the agent says of a fault of the host itself; empty when there is none for this reason."""
        faults = (self.status() or {"faults": ()})["faults"]
        return next((str(message) for known, message in faults if known == reason), "")

    def metric(self, series: str) -> float | None:
        """The value of ``reconciler_SERIES``, labels and all, as the agent tells it."""
        text = self.get("/metrics", port=self.listen)[1]
        lines = (line.rpartition(" ") for line in text.splitlines())
        return next((float(value) for name, _, value in lines if name == f"reconciler_{series}"), None)

    def containers(self, name: str = "shop", *, everything: bool = False) -> list[Any]:
        """Our containers of an app, oldest first."""
        found = self.client.containers.list(all=everything, filters={"label": f"reconciler.app={name}"})
        return sorted(found, key=lambda container: str(container.attrs["Created"]))

    def destroy(self) -> None:
        """Stop what was started, remove what was made."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        self.nginx.stop()
        pidfile = self.runtime / "names.pid"
        if pidfile.exists():
            with suppress(ProcessLookupError):
                os.kill(int(pidfile.read_text()), signal.SIGKILL)
        for container in self.client.api.containers(all=True, quiet=True):
            self.client.api.remove_container(container["Id"], force=True)
        for network in self.client.networks.list(names=[self.network]):
            network.remove()
        for volume in self.client.volumes.list():
            volume.remove(force=True)
        self.client.close()
        shutil.rmtree(self.runtime, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
