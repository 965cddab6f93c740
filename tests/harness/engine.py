"""A private Docker Engine with its own data root and socket, and images made from nothing but busybox."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from pathlib import Path

import docker

from harness.waiting import eventually


class PrivateEngine:
    """``dockerd`` in the test process's network namespace."""

    def __init__(self, *, beside: bool = False) -> None:
        """``beside``: another engine runs in this namespace, and docker0 and the packet filter are that one's."""
        # Not pytest's tmp_path: a unix socket's path is limited to 107 bytes, and overlay2 wants a real file system.
        self.root = Path(tempfile.mkdtemp(prefix="rec-engine-"))
        self.socket = self.root / "docker.sock"
        self._namespace = f"reconciler-test-{uuid.uuid4().hex[:8]}"
        self._bridge = f"br-{self._namespace[-8:]}" if beside else ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self, timeout: float = 60) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.url, timeout=int(timeout))

    def start(self) -> None:
        # Not --bridge=none: a daemon told so removes docker0, whoever made it.
        bridge = [f"--bridge={self._bridge}", "--iptables=false"] if self._bridge else []
        if bridge and subprocess.run(["ip", "link", "show", self._bridge], check=False, capture_output=True).returncode:
            subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", self._bridge], check=True)
        log = (self.root / "log").open("ab")
        self._process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={self.root / 'data'}",
                f"--exec-root={self.root / 'exec'}",
                f"--host={self.url}",
                f"--pidfile={self.root / 'pid'}",
                # A containerd of the host, where there is one, is shared; the names in it are not.
                f"--containerd-namespace={self._namespace}",
                f"--containerd-plugins-namespace={self._namespace}-plugins",
                "--insecure-registry=127.0.0.0/8",
                *bridge,
                # Not the host's systemd, and a group that can be removed afterwards.
                "--exec-opt=native.cgroupdriver=cgroupfs",
                f"--cgroup-parent=/{self.root.name}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Where its containerd writes its stacks to when it is slow, and which we remove.
            env={**os.environ, "TMPDIR": str(self.root)},
        )
        log.close()
        eventually(self._answers, within=60, what=f"dockerd answers; its log is {self.root / 'log'}")

    def _answers(self) -> bool:
        # Not the SDK: its connection leaks the socket when nobody listens yet.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(self.socket))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in probe.recv(4096)

    def stop(self) -> None:
        """Stop the daemon; containers go with it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._process = None

    def kill(self) -> None:
        """Kill the daemon alone: its containers run on until the next one starts."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """It answers nothing any more, until ``thaw``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def destroy(self) -> None:
        """Stop, and remove every trace."""
        if self._process is not None:
            client = self.client()
            for container in client.api.containers(all=True, quiet=True):
                client.api.remove_container(container["Id"], force=True)
            client.networks.prune()  # a bridge outlives its daemon
            client.close()
        self.stop()
        if self._bridge:
            subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)
        for _ in range(50):  # a mount may be busy for a moment after the daemon has gone
            subprocess.run(
                ["sh", "-c", f"grep -o ' {self.root}[^ ]*' /proc/self/mounts | xargs -r umount -l"], check=False
            )
            shutil.rmtree(self.root, ignore_errors=True)
            for group in (
                *Path("/sys/fs/cgroup").glob(self.root.name),
                *Path("/sys/fs/cgroup").glob(f"*/{self.root.name}"),
            ):
                with contextlib.suppress(OSError):
                    group.rmdir()
            if not self.root.exists():
                return
            time.sleep(0.1)

    def import_image(self, tag: str, *, changes: tuple[str, ...] = (), files: dict[str, bytes] | None = None) -> str:
        """Make an image of busybox and ``files``; ``changes`` are Dockerfile lines such as ``CMD [...]``."""
        client = self.client()
        try:
            archive = busybox_root(files or {})
            client.api.import_image_from_data(
                archive, repository=tag.rpartition(":")[0], tag=tag.rpartition(":")[2], changes=list(changes)
            )
            return str(client.images.get(tag).id)
        finally:
            client.close()


_APPLETS = (
    "sh",
    "ls",
    "cat",
    "sleep",
    "echo",
    "httpd",
    "nc",
    "env",
    "id",
    "true",
    "false",
    "trap",
    "kill",
    "nslookup",
    "wget",
    "mkdir",
    "test",
    "touch",
    "date",
    "seq",
    "grep",
    "stat",
    "printf",
)


def busybox_root(files: dict[str, bytes]) -> bytes:
    """A root file system as a tar archive: static busybox, its applets, /etc/passwd, /tmp, and the given files."""
    content = {
        "etc/passwd": b"root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n",
        "etc/group": b"root:x:0:\napp:x:1000:\n",
        **{name.lstrip("/"): value for name, value in files.items()},
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory in ("bin", "etc", "tmp", "www", "www/cgi-bin", "run", "data"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if directory in {"tmp", "www", "data"} else 0o755
            archive.addfile(info)
        archive.add("/bin/busybox", "bin/busybox")
        for applet in _APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)
        for name, value in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(value), 0o755 if value.startswith((b"#!", b"\x7fELF")) else 0o644
            archive.addfile(info, io.BytesIO(value))
    return buffer.getvalue()
