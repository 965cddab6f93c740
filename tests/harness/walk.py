"""The walk without a Docker Engine: everything is real but the engine, which is held to the real one's contract."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from harness.fake_engine import KEY, FakeEngine
from reconciler import settings
from reconciler.apply import Apply, Hands
from reconciler.chronicle import Chronicle
from reconciler.cli.wiring import manifest_reader
from reconciler.core.desired import Roots
from reconciler.core.policy import Policy
from reconciler.core.site import Generation
from reconciler.core.status import AppStatus
from reconciler.core.step import Timing
from reconciler.cycle import Cycle, Rules, World
from reconciler.targets import Place, Targets
from reconciler.world.files import HostFiles
from reconciler.world.metrics import Metrics
from reconciler.world.names import DnsmasqNames
from reconciler.world.probes import Prober
from reconciler.world.sops import SopsVault
from reconciler.world.source import WorktreeSource
from reconciler.world.store import SqliteStore

QUICK = Timing(settle=0.05, names_warm=0.1, drain_poll=0.02, blind=1.0)


class Walk:
    """A host whose engine is in memory. ``write`` a manifest, then ``converge``."""

    def __init__(self, root: Path, *, age_key: Path | None = None, policy: Policy | None = None) -> None:
        self.repository = root / "repository"
        self.repository.mkdir(parents=True)
        self.memory = Path(tempfile.mkdtemp(prefix="rec-walk-", dir="/dev/shm"))
        self.engine = FakeEngine(KEY)
        self.source = WorktreeSource(self.repository, ".", root / "state" / "mirror.git")
        self.store = SqliteStore(root / "state" / "store.db")
        self.names = DnsmasqNames(root / "names", "127.0.61.1", settings.NamesService(), root / "names.pid")
        self.metrics = Metrics("test", lambda _: None)
        self.woken = threading.Event()
        self.prober = Prober(lambda _: self.woken.set())
        roots = Roots(str(root / "state" / "files"), str(self.memory / "secrets"))
        files = HostFiles(Path(roots.files), Path(roots.secrets))
        self.vault = SopsVault("sops", age_key, on_failure=self.metrics.decrypt_failure)
        self.chronicle = Chronicle(self.store, self.metrics, self.source, time.time)
        self.hands = Hands(self.engine, self.names, None, files, self.chronicle, self.metrics)
        self.apply = Apply(self.hands, lambda _: self.woken.set())
        world = World(
            self.source, self.engine, self.names, None, self.prober, files, self.store, self.metrics, time.time
        )
        reader = manifest_reader()
        targets = Targets(self.source, self.vault, reader.read, Place("web-1", KEY, roots, policy or Policy()))
        self.cycle = Cycle(
            world,
            reader.read,
            targets,
            lambda _apps, _site, _split: Generation("", ()),
            self.apply,
            self.chronicle,
            Rules("web-1", "10.77.0.0/16", QUICK),
        )
        self.prober.start()

    def write(self, name: str = "shop", /, **fields: object) -> None:
        """Write one manifest; the image exists."""
        image = str(fields.setdefault("image", f"{name}:1"))
        if not image.startswith("missing"):
            self.engine.add_image(image)
        path = self.repository / "apps" / name / "app.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        quick = {"kind": "App", "health": {"tcp": 1}, **fields}
        quick.pop("health") if "health" not in fields else None
        path.write_text(json.dumps(quick))

    def remove(self, name: str) -> None:
        """Remove one app's folder."""
        shutil.rmtree(self.repository / "apps" / name)

    def converge(self, within: float = 20.0) -> None:
        """Walk until everything is in sync."""
        self.until(lambda: self.cycle.status is not None and self.cycle.status.result == "converged", within)

    def until(self, check: object, within: float = 20.0) -> None:
        """Walk until something is so."""
        assert callable(check)
        self.cycle.fetch()
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self.woken.clear()
            self.cycle.run()
            if not self.apply.busy and check():
                return
            self.woken.wait(0.05)
        raise AssertionError(f"not within {within} s; status: {self.cycle.status}")

    def app(self, name: str = "shop") -> AppStatus:
        """Where an app stands."""
        assert self.cycle.status is not None
        return self.cycle.status.apps[name]

    def running(self, name: str = "shop") -> list[str]:
        """Names of an app's running replicas."""
        containers = self.engine.observe().containers
        return sorted(c.name for c in containers if c.claim and c.claim.app == name and c.state == "running")

    def close(self) -> None:
        """Stop what was started."""
        self.apply.stop(5)
        self.prober.stop()
        self.store.close()
        self.source.close()
        pidfile = self.names._pidfile  # noqa: SLF001  (the service outlives everybody; only its file knows it)
        if pidfile.exists():
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
        shutil.rmtree(self.memory, ignore_errors=True)
