"""A private nginx below a directory of its own, and apps for it to talk to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Collection
from http.client import HTTPConnection
from pathlib import Path

from harness.waiting import eventually
from harness.webapp import WebApp
from reconciler import settings
from reconciler.core.model import App, Ingress
from reconciler.core.site import Frontend, Generation, render
from reconciler.world.nginx import NginxSite, include_line

_REPOSITORY = Path(__file__).resolve().parents[2]


def program(kind: str) -> str:
    """An nginx: the ``distribution``'s, or a ``newer`` one, from 1.27.3 on."""
    if kind == "distribution":
        found = shutil.which("nginx")
        assert found, "nginx is missing: ./scripts/setup test"
        return found
    # It is in the cache when scripts/setup has run; from inside this network namespace nothing can be fetched.
    made = subprocess.run(
        [str(_REPOSITORY / "scripts" / "new-nginx")], capture_output=True, text=True, timeout=110, check=False
    )
    assert made.returncode == 0, f"{made.stderr}\nmake it outside of the tests' network: ./scripts/new-nginx"
    return made.stdout.strip()


class PrivateNginx:
    """nginx with its own prefix, pid file, logs and ports, and the site that is loaded into it."""

    def __init__(self, command: str, http: int, https: int, gateway: str = "127.0.53.1") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rec-nginx-"))
        self.root.chmod(0o755)
        self.http, self.https = http, https
        self.certificates = self.root / "certificates"
        self.certificates.mkdir()
        (self.root / "temp").mkdir()
        self.settings = settings.Nginx(
            (command, "-p", str(self.root)),
            self.root / "nginx.conf",
            http,
            https,
            "127.0.0.1",
            certificates=self.certificates,
        )
        certificates, tally = str(self.certificates), str(self.root / "tally")
        self.frontend = Frontend(gateway, http, https, "127.0.0.1", certificates=certificates, tally=tally)
        self.state = self.root / "state"
        self.site = NginxSite(self.settings, self.state)
        self.configure()
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, *more: str, include: bool = True) -> None:
        """The host's own configuration; ``more`` stands in its http block."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # nginx would change the host's own
        temporary = [f"{kind}_temp_path {self.root}/temp/{kind};" for kind in kinds]
        http = [
            f"access_log {self.root}/access.log;",
            *temporary,
            *more,
            *([include_line(self.state)] if include else []),
        ]
        lines = [
            "user root;",
            "worker_processes 1;",
            f"pid {self.root}/nginx.pid;",
            f"error_log {self.root}/error.log;",
            "events { worker_connections 1024; }",
            "http {",
            *(f"    {line}" for line in http),
            "}",
        ]
        (self.root / "nginx.conf").write_text("\n".join(lines) + "\n")

    @property
    def pid(self) -> int:
        return int((self.root / "nginx.pid").read_text())

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self.settings.command, "-c", str(self.root / "nginx.conf"), "-g", "daemon off;"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        eventually(lambda: self.pid == self._running(), what=f"nginx runs; {self.root / 'error.log'}")

    def _running(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, (self.root / "error.log").read_text()
        return self._process.pid

    def kill(self) -> None:
        """As the kernel does when memory runs out: no goodbye, and the pid file stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill_master(self) -> None:
        """Its workers stay, and go on serving."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def destroy(self) -> None:
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def render(self, *apps: App, split: Collection[str] = ()) -> Generation:
        return render(apps, self.site.observe(), self.frontend, split)

    def load(self, *apps: App, split: Collection[str] = ()) -> Generation:
        generation = self.render(*apps, split=split)
        self.site.load(generation.id, generation.files)
        if generation.split != frozenset(split):  # slots are loaded before they are used
            return self.load(*apps, split=split)
        return generation

    def get(
        self, host: str, path: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Response:
        """One request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.http, timeout=40)
        try:
            extra = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": host, "Connection": "close", **extra})
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.headers.items()), answer.read().decode())
        finally:
            connection.close()


class Response:
    """Status, headers and text."""

    def __init__(self, status: int, headers: dict[str, str], text: str) -> None:
        self.status, self.headers, self.text = status, headers, text

    def __repr__(self) -> str:
        return f"{self.status} {self.text!r}"


def app(name: str, *routes: Ingress) -> App:
    """An app with routes; by default one host that is called after it."""
    return App(name, f"apps/{name}/app.yaml", "image", ingress=routes or (Ingress(f"{name}.example", "/", 8080),))


class Replica(WebApp):
    """An app's replica at a loopback address, port 8080."""

    def __init__(self, address: str, label: str) -> None:
        super().__init__((address, 8080), label)
        self.address = address
        self.stopped = False
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def connections(self) -> int:
        """Established ones, as the kernel has them."""
        octets = int.from_bytes(socket.inet_aton(self.address), "little")
        wanted = f"{octets:08X}:{8080:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(row[1] == wanted and row[3] == "01" for row in rows)

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """As SIGKILL does: connections that are open are cut."""
        self.stopped = True
        self.released.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def certify(directory: Path, host: str, *, key_type: str = "ec") -> None:
    """Make HOST.crt and HOST.key, signed by itself, each appearing at once."""
    kind = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}
    directory.mkdir(exist_ok=True)
    draft = directory / ".draft"
    name = ["-subj", "/CN=reconciler test", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", *name, *kind[key_type]),
            *("-keyout", f"{draft}.key", "-out", f"{draft}.crt"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    for end in (".key", ".crt"):
        Path(f"{draft}{end}").replace(directory / f"{host}{end}")
