"""The engine's containers and images as values, for as few calls as possible.

A quiet look costs two list calls. A list says nothing of exit codes, restarts, limits and process ids, so containers
that claim to be ours are inspected as well, but only when something may have changed: the list shows it, an event said
so (``invalidate``), they are young, or five minutes are over, in case an event was missed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from time import monotonic
from typing import Any, Literal, get_args

from reconciler.core.images import normalise
from reconciler.core.observed import Container, EngineState, Limits
from reconciler.core.ownership import read
from reconciler.world.containers.clients import NOT_FOUND, Answered, Clients
from reconciler.world.containers.explain import cause
from reconciler.world.containers.network import Network

_State = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
_EngineHealth = Literal["none", "starting", "healthy", "unhealthy"]
_STATES: Mapping[str, _State] = {state: state for state in get_args(_State)}

_YOUNG = 120  # seconds in which a container's fate is not yet settled
_YOUNG_AGAIN = 5.0  # seconds between two inspects of a young one that nothing was heard of
_LATEST = 300.0  # seconds after which anything is inspected again

# Such as: Up 5 minutes (healthy); Exited (137) About an hour ago; Restarting (1) Less than a second ago; Created.
_STATUS = re.compile(r"^\w+(?: \((?P<code>\d+)\))?(?: (?P<age>[^()]*?))?(?: ago)?(?: \((?P<note>[^)]*)\))?$")
_AGE = re.compile(r"^(?P<number>\d+|About an?|Less than a) (?P<unit>second|minute|hour|day|week|month|year)s?$")
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
_HEALTH: Mapping[str, _EngineHealth] = {
    "healthy": "healthy",
    "unhealthy": "unhealthy",
    "health: starting": "starting",
    "starting": "starting",
}

# Docker cannot take a CPU limit away again, only replace it. A billionth less than all CPUs stands for "none":
# nobody writes such a number, so it can be told from a limit when it is read.
_NO_CPU_LIMIT = 999_999  # of the last million


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a list entry says, but for the age that changes by itself."""

    name: str
    state: _State
    image: str
    created_at: float
    labels: Mapping[str, str]
    address: str | None
    network_id: str
    host_ports: tuple[tuple[str, int], ...]
    engine_health: _EngineHealth
    exit_code: str


@dataclass(slots=True)
class _Known:
    facts: _Facts
    age: int
    inspected_at: float
    due_at: float
    container: Container


class Observation:
    """Remembers what was parsed, never what is true: a list entry that differs is read afresh."""

    def __init__(self, clients: Clients, network: Network, key: bytes) -> None:
        self._clients = clients
        self._network = network
        self._key = key
        self._known: dict[str, _Known] = {}
        self._stale: set[str] = set()
        self._images: tuple[object, Mapping[str, str], Mapping[str, str]] = ((), {}, {})
        self._network_id = ""
        self._last: EngineState | None = None

    def invalidate(self, container: str) -> None:
        """Inspect this container at the next look; the empty string means all. Safe to call from any thread."""
        self._stale.add(container)

    def holder_of(self, address: str) -> Container | None:
        """The container that held this address at the last look."""
        for container in self._last.containers if self._last else ():
            if container.address == address:
                return container
        return None

    def look(self) -> EngineState:
        """Everything, now. The very same value as before where nothing changed."""
        now = monotonic()
        with self._clients.speaking("list containers") as client:
            entries = client.containers(all=True)
        with self._clients.speaking("list images") as client:
            listed = client.images()
        if "" in self._stale:
            self._stale.discard("")
            self._stale.update(self._known)
        known: dict[str, _Known] = {}
        for entry in entries:
            each = self._read(entry, now)
            if each is not None:
                known[entry["Id"]] = each
        self._known = known
        self._stale.intersection_update(known)
        images, digests = self._read_images(listed)
        state = EngineState(
            containers=tuple(each.container for each in known.values()),
            images=images,
            network=self._has_network(known),
            digests=digests,
        )
        if self._last is None or not _same(state, self._last):
            self._last = state
        return self._last

    # --- containers

    def _read(self, entry: dict[str, Any], now: float) -> _Known | None:
        identity = entry["Id"]
        status = _STATUS.match(entry.get("Status") or "")
        age = _seconds(status["age"] or "") if status else 0
        facts = self._facts(entry, status)
        known = self._known.get(identity)
        if known is not None and known.facts == facts:
            # An age that went back is another run whose events were missed.
            settled = age >= known.age and (age >= _YOUNG or now < known.inspected_at + _YOUNG_AGAIN)
            if known.container.claim is None or (settled and identity not in self._stale and now < known.due_at):
                known.age = age
                return known
        claim, owned = read(facts.name, facts.labels, self._key)
        container = Container(
            id=identity,
            name=facts.name,
            state=facts.state,
            image=facts.image,
            created_at=facts.created_at,
            claim=claim,
            owned=owned,
            address=facts.address,
            engine_health=facts.engine_health,
            exit_code=int(facts.exit_code) if facts.exit_code else None,
            host_ports=facts.host_ports,
        )
        if claim is not None:
            self._stale.discard(identity)  # before the question: what is heard from now on counts again
            inspected = self._inspect(container)
            if inspected is None:
                return None
            container = inspected
        if known is not None and known.container == container:
            container = known.container
        # Not all at once: a quarter of the time is spread by id.
        spread = zlib.crc32(identity.encode()) % 1000 / 1000 * _LATEST / 4
        return _Known(facts, age, now, now + _LATEST - spread, container)

    def _facts(self, entry: dict[str, Any], status: re.Match[str] | None) -> _Facts:
        networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
        endpoint = networks.get(self._network.name)
        address = None
        if endpoint is not None:
            # A container that does not run holds no address, but will ask for this one.
            address = endpoint.get("IPAddress") or (endpoint.get("IPAMConfig") or {}).get("IPv4Address") or None
        ports = {(port["Type"], port["PublicPort"]) for port in entry.get("Ports") or () if port.get("PublicPort")}
        return _Facts(
            name=_name(entry),
            state=_STATES.get(entry.get("State") or "", "dead"),
            image=entry.get("ImageID") or "",
            created_at=float(entry.get("Created") or 0),
            labels=entry.get("Labels") or {},
            address=address,
            network_id=(endpoint or {}).get("NetworkID") or "",
            host_ports=tuple(sorted(ports)),
            engine_health=_HEALTH.get((status and status["note"]) or "", "none"),
            exit_code=(status and status["code"]) or "",
        )

    def _inspect(self, listed: Container) -> Container | None:
        """The container with what only an inspect tells; None when it has vanished."""
        try:
            with self._clients.speaking(f"inspect container {listed.name}") as client:
                return _with_details(listed, client.inspect_container(listed.id))
        except Answered as answer:
            if answer.status == NOT_FOUND:
                return None
            raise

    # --- network

    def _has_network(self, known: Mapping[str, _Known]) -> bool:
        # A network cannot go while a container runs in it, so a running one proves it without another call.
        if self._network_id and any(
            each.facts.network_id == self._network_id and each.facts.state == "running" for each in known.values()
        ):
            return True
        self._network_id = self._network.identity() or ""
        return bool(self._network_id)

    # --- images

    def _read_images(self, listed: list[dict[str, Any]]) -> tuple[Mapping[str, str], Mapping[str, str]]:
        # The engine lists images that were made in the same second in any order.
        raw = sorted(
            ((each["Id"], each.get("RepoTags"), each.get("RepoDigests")) for each in listed), key=itemgetter(0)
        )
        if self._images[0] != raw:
            references: dict[str, str] = {}
            digests: dict[str, str] = {}
            for identity, tags, names in raw:
                for name in sorted(names or ()):
                    if not name.startswith("<none>"):
                        references[normalise(name)] = identity
                        digests.setdefault(identity, name)
                for tag in tags or ():
                    if tag != "<none>:<none>":
                        references[normalise(tag)] = identity
            self._images = (raw, references, digests)
        return self._images[1], self._images[2]


def no_cpu_limit(cpus: int) -> int:
    """NanoCpus that stand for "as many as there are"."""
    return cpus * 1_000_000_000 - 1


def _same(one: EngineState, other: EngineState) -> bool:
    return (
        one.images is other.images
        and one.digests is other.digests
        and one.network == other.network
        and len(one.containers) == len(other.containers)
        and all(mine is theirs for mine, theirs in zip(one.containers, other.containers, strict=True))
    )


def _name(entry: Mapping[str, Any]) -> str:
    """The name without its slash; links add names with two."""
    names = [name.lstrip("/") for name in entry.get("Names") or ()]
    return next((name for name in names if "/" not in name), str(entry["Id"])[:12])


def _seconds(age: str) -> int:
    """At least so old; 0 when unknown. Only compared with itself and with ``_YOUNG``."""
    found = _AGE.match(age)
    if found is None:
        return 0
    number = found["number"]
    return 0 if number.startswith("Less") else _UNITS[found["unit"]] * (int(number) if number.isdigit() else 1)


def _with_details(listed: Container, inspected: Mapping[str, Any]) -> Container:
    state, host = inspected["State"], inspected["HostConfig"]
    nano = host.get("NanoCpus") or 0
    if not nano and (host.get("CpuQuota") or 0) > 0:
        nano = host["CpuQuota"] * 1_000_000_000 // (host.get("CpuPeriod") or 100_000)
    ended = listed.state in {"exited", "dead"}
    return Container(
        id=listed.id,
        name=listed.name,
        state=listed.state,
        image=listed.image,
        created_at=listed.created_at,
        claim=listed.claim,
        owned=listed.owned,
        address=listed.address,
        engine_health=listed.engine_health,
        host_ports=listed.host_ports,
        started_at=_timestamp(state.get("StartedAt") or ""),
        finished_at=_timestamp(state.get("FinishedAt") or ""),
        # The list's, where it has one: while a container restarts an inspect may already say 0.
        exit_code=state.get("ExitCode") if ended and listed.exit_code is None else listed.exit_code,
        oom_killed=bool(state.get("OOMKilled")),
        restarts=inspected.get("RestartCount") or 0,
        error=cause(state.get("Error") or ""),
        pid=state.get("Pid") or 0,
        limits=Limits(
            cpus=None if nano == 0 or nano % 1_000_000 == _NO_CPU_LIMIT else nano / 1_000_000_000,
            memory=host.get("Memory") or 0,
            pids=max(host.get("PidsLimit") or 0, 0),
            restart=(host.get("RestartPolicy") or {}).get("Name") in {"unless-stopped", "always"},
        ),
        writes=frozenset(
            mount.get("Name") or mount.get("Source") or "" for mount in inspected.get("Mounts") or () if mount.get("RW")
        ),
        stop_grace_period=float((inspected.get("Config") or {}).get("StopTimeout") or 10),
    )


def _timestamp(text: str) -> float:
    """Unix time of Docker's RFC 3339; 0 for its "never" in the year 1."""
    return datetime.fromisoformat(text).timestamp() if text and not text.startswith("0001-") else 0.0
