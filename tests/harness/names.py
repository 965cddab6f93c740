"""A names service of its own for tests that need one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.waiting import eventually
from reconciler.settings import NamesService
from reconciler.world.names import DnsmasqNames

UPSTREAM = ("127.0.99.99",)
"""Nobody: a test that asks for outside names brings its own resolver."""


@contextmanager
def bridge(address: str) -> Iterator[None]:
    """A bridge with this address, as Docker makes one for a network."""
    subprocess.run(["ip", "link", "add", "names-test", "type", "bridge"], check=True, timeout=10)
    try:
        subprocess.run(["ip", "address", "add", f"{address}/24", "dev", "names-test"], check=True, timeout=10)
        subprocess.run(["ip", "link", "set", "names-test", "up"], check=True, timeout=10)
        yield
    finally:
        subprocess.run(["ip", "link", "del", "names-test"], check=True, timeout=10)


class NamesLab:
    """dnsmasq below a directory that its own user can reach."""

    def __init__(self, gateway: str = "127.0.53.1", service: NamesService | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rec-names-"))
        self.root.chmod(0o755)
        self.gateway = gateway
        self.service = service or NamesService(upstream=UPSTREAM)
        self.directory = self.root / "names"
        self.pidfile = self.root / "run" / "dnsmasq.pid"
        self.names = self.another_agent()

    def another_agent(self) -> DnsmasqNames:
        """One that knows nothing but what is on disk."""
        return DnsmasqNames(self.directory, self.gateway, self.service, self.pidfile)

    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def kill(self) -> None:
        """Kill dnsmasq, and the children that it has for TCP connections, and wait until they have gone."""
        killed = self.processes()
        for process in killed:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        eventually(lambda: not any(map(_lives, killed)), every=0.01, what="dnsmasq has gone")

    def processes(self) -> list[int]:
        wanted = os.fsencode(f"--hostsdir={self.directory}")
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if wanted in entry.read_bytes().split(b"\0"):
                    found.append(int(entry.parts[2]))
        return found

    def switch(self, name: str, *addresses: str) -> None:
        """Set a name and wait until it is answered."""
        self.names.set(name, addresses)
        eventually(
            lambda: self.names.observe(()).names[name].answered == tuple(sorted(addresses)),
            every=0.005,
            what=f"{name} is answered",
        )

    def destroy(self) -> None:
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


def _lives(process: int) -> bool:
    """A zombie does not: its sockets are closed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
