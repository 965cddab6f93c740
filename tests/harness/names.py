"""A names service of its own for tests that need one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill dnsmasq, where it runs, and wait until it has gone."""
        try:
            pid = self.pid()
            if os.fsencode(str(self.directory)) not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        eventually(lambda: self.names.observe(()).up_since is None, what="dnsmasq has gone")

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
