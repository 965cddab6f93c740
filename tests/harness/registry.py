"""Debian's docker-registry on loopback, with or without a password."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from harness.engine import PrivateEngine
from harness.waiting import eventually

USERNAME = "deployer"
PASSWORD = "correct-horse"  # noqa: S105  (of a registry that lives as long as one test)
# What `htpasswd -nbB deployer correct-horse` prints: the registry takes bcrypt only, Python has none.
_HTPASSWD = "deployer:$2y$05$UXC5Dnmoffi6nc2H1ykYm.3FS7ljcUelbOjE9PBaM0TsvKjM7HOMW\n"

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}"""
_AUTH = "auth: {{htpasswd: {{realm: tests, path: {root}/htpasswd}}}}\n"


class Registry:
    """A registry process; ``start`` after ``stop`` serves the same images on the same port."""

    def __init__(self, *, password: bool = False) -> None:
        self.password = password
        self._root = Path(tempfile.mkdtemp(prefix="rec-registry-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        (self._root / "htpasswd").write_text(_HTPASSWD)
        auth = _AUTH.format(root=self._root) if password else ""
        (self._root / "config.yml").write_text(_CONFIG.format(root=self._root, port=self._port, auth=auth))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(self._root / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._listens, within=30, what="docker-registry listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def destroy(self) -> None:
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def push(self, engine: PrivateEngine, image: str, name: str) -> str:
        """Push a local image as ``name`` (``shop:1``) and drop the local tag; returns the reference to pull."""
        reference = f"{self.host}/{name}"
        client = engine.client()
        try:
            repository, _, tag = reference.rpartition(":")
            client.api.tag(image, repository, tag)
            auth = {"username": USERNAME, "password": PASSWORD} if self.password else {}
            for line in client.api.push(reference, stream=True, decode=True, auth_config=auth):
                assert "error" not in line, line
            client.api.remove_image(reference)
        finally:
            client.close()
        return reference
