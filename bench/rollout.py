"""From a commit to the new version serving, and to the old one gone, beside the same steps taken by hand.

"By hand" is what nobody can do without: create and start with byte for byte the same settings, probe without a pause
until healthy, and then for ``min_healthy_time``; write the name's file; wait until dnsmasq answers it, and until every
resolver has heard of it; wait until nobody is connected to the old one; stop and remove it. All of it through the raw
APIs, by one who knows beforehand what to do. Both are timed in turns in one run, under the same light load, of which
nothing may fail. The agent stands still while it is not its turn.
"""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from harness.host import Host, make_app_images
from harness.load import Ask, Load
from harness.names import NamesLab

from bench import lab
from bench.lab import RawEngine
from bench.measure import spread, table, wait
from reconciler.core.addresses import gateway
from reconciler.core.model import Health
from reconciler.core.step import Timing
from reconciler.world.containers.connections import established
from reconciler.world.names.asking import Resolver

_ROUNDS = 10
_MIN_HEALTHY = Health("http").min_healthy_time
_OURS, _HAND = "app", "hand"
_STEPS = ("the name has the new version", "clients get the new version", "the old version is gone")
_ASK = Ask("GET", "/version")
_LOOK = 0.01
"""Seconds between two looks."""


@dataclass(slots=True)
class _Times:
    """Seconds from the push, or from the first call."""

    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, began: float, *at: float) -> None:
        for step, moment in zip(_STEPS, at, strict=True):
            self.steps[step].append(moment - began)


class _Watch:
    """Notices when the name has other addresses, and when another version answers through nginx."""

    def __init__(self, host: Host, name: str, version: str, resolver: str) -> None:
        self._host, self._name, self._version = host, name, version
        self._resolver = Resolver(resolver)
        self._before = self._resolver.ask([name])[name]
        self.named = self.serving = 0.0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _look(self) -> None:
        until = time.monotonic() + 60
        while not (self.named and self.serving) and time.monotonic() < until:
            if not self.named and self._resolver.ask([self._name]).get(self._name) not in {None, (), self._before}:
                self.named = time.time()
            if not self.serving and self._host.serves(self._name) == self._version:
                self.serving = time.time()
            time.sleep(_LOOK)


class _ByHand:
    """An app that somebody looks after without an agent, and a names service for it, of the same kind."""

    def __init__(self, host: Host, raw: RawEngine, names: NamesLab) -> None:
        self._host, self._raw, self._names = host, raw, names
        self._serving = ""
        self.gateway = names.gateway
        names.names.start()
        self._route()
        self.upgrade("1")

    def upgrade(self, version: str) -> tuple[float, float]:
        """Unix time at the beginning and at the end."""
        like = self._host.containers(_OURS)[0].id
        body = self._raw.twin(like, self._host.network) | {"Image": f"app:{version}"}
        address = body["NetworkingConfig"]["EndpointsConfig"][self._host.network]["IPAMConfig"]["IPv4Address"]
        began = time.time()
        made = self._raw.create_and_start(body)
        wait("it is healthy", lambda: _is_healthy(address), every=_LOOK)
        time.sleep(_MIN_HEALTHY)
        self._names.switch(_HAND, address)
        old, self._serving = self._serving, made
        if old:
            time.sleep(Timing().settle)
            pid = self._raw.ask("GET", f"/containers/{old}/json")["State"]["Pid"]
            wait("nobody is connected", lambda: not established(pid), every=_LOOK)
            self._raw.ask("POST", f"/containers/{old}/stop?t=10")
            self._raw.ask("DELETE", f"/containers/{old}")
        return began, time.time()

    def _route(self) -> None:
        """As the agent writes it for its own."""
        nginx = self._host.nginx
        nginx.configure(
            f"server {{ listen {self._host.http}; server_name {_HAND}.example.com;"
            f" resolver {self.gateway} valid=1s ipv6=off; resolver_timeout 30s; proxy_http_version 1.1;"
            f" proxy_connect_timeout 1s; proxy_set_header Connection close; set $hand {_HAND};"
            " location / { proxy_pass http://$hand:8080; } }"
        )
        os.kill(int((nginx.prefix / "pid").read_text()), signal.SIGHUP)


@contextmanager
def _names() -> Iterator[NamesLab]:
    names = NamesLab()
    try:
        yield names
    finally:
        names.destroy()


def _is_healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(address, 8080, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    """Print the table."""
    ours: dict[str, _Times] = defaultdict(_Times)
    by_hand: dict[str, _Times] = defaultdict(_Times)
    failures: list[str] = []
    with lab.engine() as private, lab.host(private) as host, _names() as names:
        make_app_images(private, "app", ("1", "2"))
        raw = RawEngine(private)
        revision = host.commit({"fleet.yaml": lab.FLEET, **lab.apps([_OURS], image="app:1")})
        with lab.agent(host) as pid:
            lab.converged(host, revision)
            wait("it serves", lambda: host.serves(_OURS) == "1")
            with lab.still(pid):
                hand = _ByHand(host, raw, names)
            for number in range(_ROUNDS + 1):
                for work, version in (("upgrade", "2"), ("revert", "1")):
                    kept = number > 0  # the first is for warming up
                    with _load(host, _OURS, failures):
                        _by_commit(host, raw, work, version, ours[work] if kept else _Times())
                    with lab.still(pid), _load(host, _HAND, failures):
                        _by_hand(host, hand, version, by_hand[work] if kept else _Times())
        raw.close()
    rows = [
        (work, step, len(times), spread(times), spread(floor), f"{_ratio(times, floor):.2f}")
        for work in ours
        for step, times in ours[work].steps.items()
        for floor in (by_hand[work].steps[step],)
    ]
    head = ("work", "until", "rounds", "reconciler, s", "by hand, s", "ratio of medians")
    table("From a commit to the new version alone", head, rows)
    if failures:
        raise SystemExit("\n".join(["", "requests failed:", *failures]))


def _ratio(ours: list[float], floor: list[float]) -> float:
    return statistics.median(ours) / statistics.median(floor)


@contextmanager
def _load(host: Host, name: str, failures: list[str]) -> Iterator[None]:
    address = ("127.0.0.1", host.http)
    with Load(address, f"{name}.example.com", keep_alive=False, asks=(_ASK,), pause=0.05) as load:
        time.sleep(1.0)
        yield
    failures += load.failures


def _by_commit(host: Host, raw: RawEngine, work: str, version: str, times: _Times) -> None:
    old = host.containers(_OURS)[0].id
    with _Watch(host, _OURS, version, gateway(host.settings["docker"]["subnet"])) as watch:
        if work == "revert":
            pushed = lab.push(host, "revert", "--no-edit", "HEAD")
        else:
            host.repository.write(lab.apps([_OURS], image=f"app:{version}"))
            pushed = lab.push(host)
        lab.converged(host, host.repository.head)
    times.add(pushed, watch.named, watch.serving, raw.removed_at(old, pushed))


def _by_hand(host: Host, hand: _ByHand, version: str, times: _Times) -> None:
    with _Watch(host, _HAND, version, hand.gateway) as watch:
        began, ended = hand.upgrade(version)
    times.add(began, watch.named, watch.serving, ended)


if __name__ == "__main__":
    main()
