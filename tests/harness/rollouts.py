"""Upgrades under load: a host with three apps, everything that can come in between, and what clients saw of it.

``shop`` (two replicas) and ``api`` are upgraded; ``still`` never is, holds connections that nobody may cut, and calls
``shop`` by its name.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engine import PrivateEngine
from harness.host import Host
from harness.load import Pinned, Report, traffic
from harness.python_image import IMAGE, PYTHON
from harness.relay import EngineRelay
from harness.waiting import eventually

REPLICAS = {"shop": 2, "api": 1, "still": 1}


@dataclass
class Seen:
    """What clients saw during one scenario."""

    reports: dict[str, Report] = field(default_factory=dict)
    """By the way they came."""
    cut: list[str] = field(default_factory=list)
    """Connections of the app that was not upgraded."""
    reloads: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Of all requests."""
        return [f"{way}: {said}" for way, report in self.reports.items() for said in report.failures]


class Rollouts:
    """One host; ``measure`` one scenario after another."""

    def __init__(self, private: PrivateEngine, root: Path, nginx: str) -> None:
        self.host = Host(private, root, nginx)
        self._relay = EngineRelay(self.host.runtime / "docker.sock", private.socket)
        self.host.settings["docker"]["socket"] = str(self.host.runtime / "docker.sock")
        self._versions = dict.fromkeys(REPLICAS, 1)
        self._names: dict[str, bytes] = {}
        self.drain = "15s"
        """Longer than any request takes."""
        self.rollout: dict[str, dict[str, Any]] = {}
        """More of ``rollout``, by app."""

    def begin(self) -> None:
        """Start everything, at version 1."""
        self.host.nginx.start()
        self.host.commit({f"apps/{name}/app.yaml": self._manifest(name) for name in REPLICAS})
        self.host.start_agent()
        self.finish(*REPLICAS)

    def destroy(self) -> None:
        """Stop what was started, remove what was made."""
        self.host.destroy()
        self._relay.close()

    # -- what happens ---------------------------------------------------------------------------------------------

    def upgrade(self, *names: str) -> None:
        """Commit the next version of these apps, in one commit."""
        for name in names:
            self._versions[name] += 1
            self._names[name] = self._file(name).read_bytes()
        self.host.commit({f"apps/{name}/app.yaml": self._manifest(name) for name in names})

    def revert(self, *names: str) -> None:
        """Revert the last commit, which upgraded these apps."""
        for name in names:
            self._versions[name] -= 1
        self.host.repository.revert()

    def wait_started(self, name: str) -> None:
        """Wait until a new replica is there; old ones serve."""
        self.host.wait(
            lambda: len(self.host.containers(name, everything=True)) > REPLICAS[name], what=f"a new {name} is there"
        )

    def wait_switched(self, name: str) -> None:
        """Wait until the name has the new addresses; old replicas are there yet."""
        self.host.wait(lambda: self._file(name).read_bytes() != self._names[name], what=f"{name} is switched")

    def finish(self, *names: str) -> None:
        """Wait until the newest commit is applied, and serves."""
        self.host.wait_synced(self.host.repository.head, *names, within=90)
        for name in names:
            version = str(self._versions[name])
            self.host.wait(lambda name=name, version=version: self.host.serves(name) == version, what=f"{name} serves")

    def begin_canary(self) -> None:
        """From now on ``shop`` follows in steps. That is one reload: nginx learns of the slots."""
        steps = [{"weight": 20, "for": "2s"}, {"weight": 50, "for": "2s"}]
        self.rollout["shop"] = {"strategy": "canary", "steps": steps, "bake": "2s"}
        self.host.commit({"apps/shop/app.yaml": self._manifest("shop")})
        self.finish("shop")
        current = self.host.state / "nginx" / "current" / "reconciler.conf"
        self.host.wait(lambda: "split_clients" in current.read_text(), what="nginx knows the slots")
        self.host.wait(lambda: (self.host.status() or {})["result"] == "converged", what="nothing is left to do")

    def wait_share(self, weight: int) -> None:
        """Wait until the new ``shop`` has so many percent."""
        told = f"canary at {weight} %"
        self.host.wait(lambda: told in self.host.app("shop")["message"], what=told)

    def kill_names(self) -> None:
        """SIGKILL for dnsmasq; the agent starts another one."""
        os.kill(int((self.host.runtime / "names.pid").read_text()), signal.SIGKILL)

    def kill_agent(self) -> None:
        """SIGKILL, and start it again."""
        self.host.stop_agent(signal.SIGKILL)
        self.host.start_agent()

    @contextmanager
    def events_lost(self) -> Iterator[None]:
        """Meanwhile the agent hears nothing from the engine, and does not know."""
        self._relay.deaf = True
        try:
            yield
        finally:
            self._relay.deaf = False

    def _manifest(self, name: str) -> str:
        return self.host.manifest(
            name,
            image=IMAGE,
            replicas=REPLICAS[name],
            environment={"VERSION": str(self._versions[name])},
            ingress=[{"host": f"{name}.example.com", "port": 8080, "max_body": "8MiB"}],
            rollout={"drain": self.drain, **self.rollout.get(name, {})},
        )

    def _file(self, name: str) -> Path:
        return self.host.state / "names" / name

    # -- what is seen ---------------------------------------------------------------------------------------------

    def measure(
        self,
        scenario: Callable[[Rollouts], object],
        *,
        hosts: tuple[str, ...] = ("shop", "api"),
        clients: int = 12,
        pause: float = 0.02,
    ) -> Seen:
        """Let clients ask, and open connections to ``still``, while the scenario happens, and a second longer."""
        seen, address = Seen(), ("127.0.0.1", self.host.http)
        before, began = self.host.nginx.reloads, time.monotonic()
        with ExitStack() as stack:
            pinned = stack.enter_context(Pinned(address, "still.example.com"))
            loads = [stack.enter_context(traffic(address, f"{name}.example.com", clients, pause)) for name in hosts]
            calls = stack.enter_context(self._calls("still", "shop"))
            time.sleep(0.5)
            scenario(self)
            seen.seconds = time.monotonic() - began - 0.5
            time.sleep(1.0)
            for load in (load for by_way in loads for load in by_way.values()):
                load.end()  # all at once: each has a slow request under way
        for by_way in loads:
            for way, load in by_way.items():
                seen.reports.setdefault(way, Report()).merge(load.report)
        seen.reports["between apps"] = calls
        seen.cut = pinned.cut
        seen.reloads = self.host.nginx.reloads - before
        return seen

    @contextmanager
    def _calls(self, caller: str, called: str) -> Iterator[Report]:
        """One app calls another by its name, resolved for each request; filled in at the end."""
        report, client, told = Report(), self.host.engine.client(timeout=600), list[bytes]()
        api = client.api
        command = [PYTHON, "-I", "-S", "/app/load.py", called, "8080"]
        execution: Any = api.exec_create(self.host.containers(caller)[0].id, command)["Id"]
        listening = threading.Thread(target=lambda: told.append(api.exec_start(execution)))
        listening.start()
        pid = eventually(lambda: int(api.exec_inspect(execution)["Pid"]), what="it calls")
        try:
            yield report
        finally:
            os.kill(pid, signal.SIGTERM)
            listening.join()
            client.close()
        report.merge(Report.from_json(b"".join(told).decode()))


# -- scenarios -------------------------------------------------------------------------------------------------------


def upgrade_one(lab: Rollouts) -> None:
    """From one version to the next."""
    lab.upgrade("shop")
    lab.finish("shop")


def upgrade_two_at_once(lab: Rollouts) -> None:
    """In one commit."""
    lab.upgrade("shop", "api")
    lab.finish("shop", "api")


def before_the_switch(happens: Callable[[Rollouts], None]) -> Callable[[Rollouts], None]:
    """Something happens while the new version starts."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade("shop")
        lab.wait_started("shop")
        happens(lab)
        lab.finish("shop")

    return scenario


def after_the_switch(happens: Callable[[Rollouts], None]) -> Callable[[Rollouts], None]:
    """Something happens while the old version drains."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade("shop")
        lab.wait_switched("shop")
        happens(lab)
        lab.finish("shop")

    return scenario


def revert(lab: Rollouts) -> None:
    """A person takes the commit back."""
    lab.revert("shop")


def canary(lab: Rollouts) -> None:
    """Twice in steps: the agent is killed in the middle of the first time, and the second is reverted in its middle."""
    lab.upgrade("shop")
    lab.wait_share(20)
    lab.kill_agent()
    lab.finish("shop")
    lab.upgrade("shop")
    lab.wait_share(50)
    lab.revert("shop")
    lab.finish("shop")


def events_lost(lab: Rollouts) -> None:
    """From the commit to the end of the upgrade."""
    with lab.events_lost():
        lab.upgrade("shop", "api")
        lab.finish("shop", "api")
