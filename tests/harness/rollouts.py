"""Upgrades under load: a host with some apps, everything that can come in between, and what clients saw of it.

``shop`` (two replicas) and ``api`` are upgraded; ``still`` never is, holds connections that nobody may cut, and calls
one of the others by its name. Whoever wants more apps names them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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

Fields = Mapping[str, Any]
"""Of a manifest."""

APPS: Mapping[str, Fields] = {"shop": {"replicas": 2}, "api": {}, "still": {}}


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
    """One host; ``measure`` one scenario after another.

    Args:
        private: With the image of ``python_image``.
        root: A directory that is not there yet.
        nginx: Its program.
        more: Apps beside ``APPS``: in what their manifests differ from ours.
    """

    def __init__(
        self, private: PrivateEngine, root: Path, nginx: str, more: Mapping[str, Fields] | None = None
    ) -> None:
        self.apps = {**APPS, **(more or {})}
        self.host = Host(private, root, nginx)
        self._relay = EngineRelay(self.host.runtime / "docker.sock", private.socket)
        self.host.settings["docker"]["socket"] = str(self.host.runtime / "docker.sock")
        self._versions = dict.fromkeys(self.apps, 1)
        self._upgraded: tuple[str, ...] = ()
        self._names: dict[str, bytes] = {}
        self.drain = "15s"
        """Longer than any request takes."""

    def begin(self) -> None:
        """Start everything, at version 1."""
        self.host.nginx.start()
        self._commit(self.apps)
        self.host.start_agent()
        self.finish(*self.apps)
        self.host.wait(lambda: (self.host.status() or {})["result"] == "converged", what="nginx knows every slot")

    def destroy(self) -> None:
        """Stop what was started, remove what was made."""
        self.host.destroy()
        self._relay.close()

    # -- what happens ---------------------------------------------------------------------------------------------

    def upgrade(self, *names: str, **different: Any) -> None:
        """Commit the next version of these apps, in one commit; in this version alone some fields are different."""
        for name in names:
            self._versions[name] += 1
            self._names[name] = self.name(name).read_bytes()
        self._upgraded = names
        self._commit(names, **different)

    def revert(self) -> None:
        """Revert the last commit, which upgraded some apps."""
        for name in self._upgraded:
            self._versions[name] -= 1
        self.host.repository.revert()

    def wait_started(self, name: str) -> None:
        """Wait until a new replica is there; old ones are too, whether they serve or not."""
        self.host.wait(
            lambda: len(self.host.containers(name, everything=True)) > self.replicas(name),
            what=f"a new {name} is there",
        )

    def wait_switched(self, name: str) -> None:
        """Wait until the name has the new addresses; old replicas are there yet."""
        self.host.wait(lambda: self.name(name).read_bytes() != self._names[name], what=f"{name} is switched")

    def finish(self, *names: str) -> None:
        """Wait until the newest commit is applied, and serves, and nothing else is left of these apps."""
        self.host.wait_synced(self.host.repository.head, *names, within=90)
        for name in names:
            version = str(self._versions[name])
            self.host.wait(lambda name=name, version=version: self.host.serves(name) == version, what=f"{name} serves")
            self.host.wait(lambda name=name: self.leftovers(name) == [], what=f"nothing is left of older {name}s")

    def leftovers(self, name: str) -> list[str]:
        """What is there of an app beside its newest version, or is missing of that."""
        found, version = self.host.containers(name, everything=True), f"VERSION={self._versions[name]}"
        said = [f"{each.name} is {each.status}" for each in found if each.status != "running"]
        said += [f"{each.name} is another version" for each in found if version not in each.attrs["Config"]["Env"]]
        said += [f"{len(found)} containers"] if len(found) != self.replicas(name) else []
        addresses = [each.attrs["NetworkSettings"]["Networks"][self.host.network]["IPAddress"] for each in found]
        named = [line.split()[0] for line in self.name(name).read_text().splitlines()]
        said += [f"the name has {named}, not {addresses}"] if sorted(named) != sorted(addresses) else []
        directories = list((self.host.state / "files" / name).iterdir())
        return said + ([f"files: {directories}"] if len(directories) != 1 else [])

    def wait_share(self, name: str, weight: int) -> None:
        """Wait until an app's new version has so many percent."""
        told = f"canary at {weight} %"
        self.host.wait(lambda: told in self.host.app(name)["message"], what=told)

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

    def replicas(self, name: str) -> int:
        """So many an app has."""
        return int(self.apps[name].get("replicas", 1))

    def name(self, name: str) -> Path:
        """The file with the addresses that an app's name has."""
        return self.host.state / "names" / name

    def _commit(self, names: Iterable[str], **different: Any) -> None:
        files: dict[str, str | bytes | None] = {}
        for name in names:
            version = str(self._versions[name])
            files[f"apps/{name}/app.yaml"] = self._manifest(name, version, {**self.apps[name], **different})
            files[f"apps/{name}/version"] = version
        self.host.commit(files)

    def _manifest(self, name: str, version: str, fields: Fields) -> str:
        mine = {
            "image": IMAGE,
            "environment": {"VERSION": version},
            "files": [{"source": "version", "target": "/etc/version"}],
            "ingress": [{"host": f"{name}.example.com", "port": 8080, "max_body": "8MiB"}],
            **fields,
        }
        mine["rollout"] = {"drain": self.drain, **fields.get("rollout", {})}
        return self.host.manifest(name, **mine)

    # -- what is seen ---------------------------------------------------------------------------------------------

    def measure(
        self,
        scenario: Scenario,
        *,
        hosts: tuple[str, ...] = ("shop", "api"),
        clients: int = 12,
        pause: float = 0.02,
        called: str = "",
    ) -> Seen:
        """Let clients ask, and open connections to ``still``, while the scenario happens, and a second longer.

        Args:
            scenario: What happens.
            hosts: The apps that clients ask.
            clients: So many for each.
            pause: Seconds between an answer and the next request.
            called: The app that ``still`` calls; empty: the first that clients ask.
        """
        seen, address = Seen(), ("127.0.0.1", self.host.http)
        before, began = self.host.nginx.reloads, time.monotonic()
        with ExitStack() as stack:
            pinned = stack.enter_context(Pinned(address, "still.example.com"))
            loads = [stack.enter_context(traffic(address, f"{name}.example.com", clients, pause)) for name in hosts]
            calls = stack.enter_context(self._calls("still", called or hosts[0]))
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

Scenario = Callable[[Rollouts], object]

NEVER_READY: Fields = {
    "command": [PYTHON, "-I", "-S", "/app/sick.py", "late", "8080"],
    "health": {"http": "/healthz", "port": 8080, "interval": "1s", "deadline": "5m"},
}
"""A version that is waited for longer than any scenario takes."""


def upgrade(*names: str) -> Scenario:
    """From one version to the next, in one commit."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(*names)
        lab.finish(*names)

    return scenario


def before_the_switch(happens: Scenario, name: str = "shop") -> Scenario:
    """Something happens while the new version starts."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(name)
        lab.wait_started(name)
        happens(lab)
        lab.finish(name)

    return scenario


def after_the_switch(happens: Scenario, name: str = "shop") -> Scenario:
    """Something happens while the old version drains; or, one by one, while the first of the old replicas does."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(name)
        lab.wait_switched(name)
        happens(lab)
        lab.finish(name)

    return scenario


def overtaken(name: str) -> Scenario:
    """A newer commit, while a version is waited for that would not be healthy for minutes."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(name, **NEVER_READY)
        lab.wait_started(name)
        lab.upgrade(name)
        lab.finish(name)

    return scenario


def canary(name: str) -> Scenario:
    """Twice in steps: the agent is killed in the middle of the first time, and the second is reverted in its middle."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(name)
        lab.wait_share(name, 20)
        lab.kill_agent()
        lab.finish(name)
        lab.upgrade(name)
        lab.wait_share(name, 50)
        lab.revert()
        lab.finish(name)

    return scenario


def events_lost(lab: Rollouts) -> None:
    """From the commit to the end of the upgrade."""
    with lab.events_lost():
        lab.upgrade("shop", "api")
        lab.finish("shop", "api")
