"""A Docker Engine in memory. ``tests/world/test_containers.py`` holds it to the same contract as the real one."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from reconciler.core import ownership
from reconciler.core.images import normalise, other_names, registry_of, repository_of
from reconciler.core.model import Credentials
from reconciler.core.observed import Claim, Container, EngineState, Limits
from reconciler.core.target import ContainerSpec
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable

KEY = b"k" * 32


@dataclass
class _Machine:
    """What exists, whoever asks."""

    containers: dict[str, Container] = field(default_factory=dict)
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    specs: dict[str, ContainerSpec] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    registry: dict[str, str] = field(default_factory=dict)
    registries_down: set[str] = field(default_factory=set)
    passwords: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    """Name -> owner; empty for a plain one that nobody uses, "?" for one that is not to be had."""
    busy_ports: set[tuple[str, int]] = field(default_factory=set)
    output: dict[str, str] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    peers: Counter[str] = field(default_factory=Counter)
    network: bool = False
    made: int = 0


class FakeEngine:
    """``protocols.Engine`` in memory; everything below "what happens to it" is for tests to call.

    Args:
        key: The host's key.
        clock: Unix time.
    """

    def __init__(self, key: bytes = KEY, clock: Callable[[], float] = time.time) -> None:
        self._machine = _Machine()
        self._key = key
        self._clock = clock
        self.calls: Counter[str] = Counter()
        """Calls of each method."""
        self.fail: dict[str, ReconcilerError] = {}
        """Method -> what it raises, e.g. ``fail["pull"] = Unavailable(...)``, until it is taken out."""
        self.down = False
        """Docker is away."""
        self.starts_healthy = True
        """A container with a HEALTHCHECK is healthy as soon as it runs; else it is ``starting`` till ``set_health``."""

    def with_key(self, key: bytes) -> FakeEngine:
        """The same machine, seen by a host with another key."""
        other = FakeEngine(key, self._clock)
        other._machine = self._machine
        return other

    # --- protocols.Engine

    def observe(self) -> EngineState:
        self._called("observe")
        machine = self._machine
        containers = []
        for identity, container in machine.containers.items():
            claim, owned = ownership.read(container.name, machine.labels[identity], self._key)
            containers.append(replace(container, claim=claim, owned=owned))
        return EngineState(tuple(containers), dict(machine.images), machine.network)

    def ensure_network(self) -> None:
        self._called("ensure_network")
        self._machine.network = True

    def pull(self, reference: str, credentials: Credentials | None) -> str:
        self._called("pull")
        identity = self._ask_registry(reference, credentials)
        name = normalise(reference)
        self._machine.images[name] = identity
        self._machine.images[f"{repository_of(name)}@{identity}"] = (
            identity  # a registry's digest is another, as a rule
        )
        return identity

    def images(self) -> frozenset[str]:
        self._called("images")
        return frozenset(self._machine.images.values())

    def collect_image(self, image: str, names: Collection[str]) -> None:
        self._called("collect_image")
        machine = self._machine
        called = [name for name, known in machine.images.items() if known == image]
        made = any(container.image == image for container in machine.containers.values())
        if made or other_names(called, names):
            raise Refused(f"the image {', '.join(sorted(names))} stays on this host", reason="ImageInUse")
        for name in called:
            del machine.images[name]

    def resolve_user(self, image: str, user: str | None) -> tuple[int, int]:
        self._called("resolve_user")
        name, _, group = (user or self._machine.users.get(image, "")).partition(":")
        known = {"": 0, "root": 0, "app": 1000}
        for each in (name, group):
            if not each.isdigit() and each not in known:
                raise Failed(f"the image {image} has no {each!r}", reason="UserUnknown")
        number = int(name) if name.isdigit() else known[name]
        # As in /etc/passwd of the tests' images: app is 1000:1000, and a number that is not there is in group 0.
        default = number if number in known.values() else 0
        return number, (int(group) if group.isdigit() else known[group]) if group else default

    def create(self, name: str, address: str, claim: Claim, spec: ContainerSpec) -> str:
        self._called("create")
        machine = self._machine
        for other in machine.containers.values():
            if other.name == name:
                ours = ownership.read(name, machine.labels[other.id], self._key)[1]
                kind = Unavailable if ours else Refused
                raise kind(f"the container name {name} is taken", reason="NameTaken")
        self._check_address(address, "")
        if spec.image not in machine.images.values():
            raise Unavailable(f"the image of {name} is gone", reason="ImageMissing")
        for volume in (mount.source for mount in spec.mounts if mount.kind == "volume"):
            if machine.volumes.setdefault(volume, claim.app) not in {"", claim.app}:
                raise Refused(f"the volume {volume!r} is not given to the app {claim.app!r}", reason="ForeignVolume")
        identity = self._add(name, spec.image, address, {**spec.labels, **ownership.labels(name, claim, self._key)})
        machine.specs[identity] = spec
        self._change(identity, limits=Limits(spec.cpus, spec.memory, spec.pids, spec.restart))
        return identity

    def start(self, container: str) -> None:
        self._called("start")
        machine = self._machine
        known = self._known(container)
        if known.state == "running":
            return
        spec = machine.specs[container]
        try:
            if not machine.network:
                raise Unavailable("our network is gone", reason="DockerError")
            if known.address is not None:
                self._check_address(known.address, container)
            ports = tuple(sorted((port.protocol, port.host) for port in spec.ports))
            for port in ports:
                holders = [c.name for c in machine.containers.values() if port in c.host_ports and c.id != container]
                if holders or port in machine.busy_ports:
                    holder = f"the container {holders[0]}" if holders else "a process outside Docker"
                    raise Refused(f"the host's port {port[1]}/{port[0]} is taken by {holder}", reason="PortTaken")
        except ReconcilerError as error:
            self._change(container, error=error.message)
            raise
        self._run(container, ports)

    def stop(self, container: str, grace: float) -> None:  # noqa: ARG002  (a fake dies at once)
        self._called("stop")
        if container not in self._machine.containers:
            return
        self._check_ours(container)
        if self._known(container).state in {"running", "paused", "restarting"}:
            self._end(container, 143)

    def remove(self, container: str) -> None:
        self._called("remove")
        if container not in self._machine.containers:
            return
        self._check_ours(container)
        if self._known(container).state in {"running", "paused", "restarting"}:
            raise Unavailable(f"the container {container} still runs", reason="DockerError")
        self.vanish(container)

    def unpause(self, container: str) -> None:
        self._called("unpause")
        if self._known(container).state == "paused":
            self._change(container, state="running")

    def connect(self, container: str, address: str) -> None:
        self._called("connect")
        self._known(container)
        self._check_address(address, container)
        self._change(container, address=address)

    def update(self, container: str, limits: Limits) -> None:
        self._called("update")
        self._known(container)
        self._change(container, limits=limits)

    def logs(self, container: str, lines: int) -> str:
        self._called("logs")
        self._known(container)
        return "".join(self._machine.output.get(container, "").splitlines(keepends=True)[-lines:])

    def checked(self, container: str) -> str:
        self._called("checked")
        self._known(container)
        return self._machine.printed.get(container, "")

    def connections(self, container: str) -> int:
        self._called("connections")
        known = self._machine.containers.get(container)
        return self._machine.peers[container] if known is not None and known.state == "running" else 0

    # --- what happens to it

    def add_image(self, reference: str, *, user: str = "") -> str:
        """An image that is here; its id."""
        identity = _hash("image", reference)
        self._machine.images[normalise(reference)] = identity
        self._machine.users[identity] = user
        return identity

    def remove_image(self, reference: str) -> None:
        """As ``docker rmi``."""
        del self._machine.images[normalise(reference)]

    def tag(self, image: str, reference: str) -> None:
        """As ``docker tag``."""
        self._machine.images[normalise(reference)] = image

    def publish(self, reference: str, *, credentials: tuple[str, bytes] | None = None, version: str = "") -> str:
        """An image that a pull will find; its id. ``version`` makes another image of the same name."""
        identity = _hash("image", reference, version)
        self._machine.registry[normalise(reference)] = identity
        if credentials is not None:
            self._machine.passwords[normalise(reference)] = credentials
        return identity

    def set_registry_down(self, reference: str) -> None:
        """The registry of this image is away."""
        self._machine.registries_down.add(registry_of(reference))

    def foreign(
        self,
        name: str,
        *,
        address: str | None = None,
        ports: Sequence[tuple[str, int]] = (),
        labels: Mapping[str, str] | None = None,
        image: str = "",
    ) -> str:
        """A running container that somebody else made; its id."""
        identity = self._add(name, image or _hash("foreign"), address, labels or {})
        self._run(identity, tuple(ports))
        return identity

    def add_volume(self, name: str, *, owner: str = "") -> None:
        """A volume that was there before; ``owner`` "?" stands for driver options or a foreign container's use."""
        self._machine.volumes[name] = owner

    def labels_of(self, container: str) -> Mapping[str, str]:
        """The labels of a container."""
        return self._machine.labels[container]

    def spec_of(self, container: str) -> ContainerSpec:
        """What a container was made of."""
        return self._machine.specs[container]

    @property
    def volumes(self) -> frozenset[str]:
        """Named volumes."""
        return frozenset(self._machine.volumes)

    def named(self, name: str) -> Container:
        """The container of this name, as ``observe`` shows it."""
        return next(container for container in self.observe().containers if container.name == name)

    def set_health(self, container: str, health: Literal["none", "starting", "healthy", "unhealthy"]) -> None:
        """The HEALTHCHECK's verdict."""
        self._change(container, engine_health=health)

    def crash(self, container: str, exit_code: int = 1, *, times: int = 1, oom: bool = False) -> None:
        """The main process ends; the engine starts it again where it was told to."""
        known = self._known(container)
        self._change(container, oom_killed=oom)
        if known.limits is not None and known.limits.restart:
            self._run(container, known.host_ports)
            self._change(container, restarts=known.restarts + times, oom_killed=oom)
        else:
            self._end(container, exit_code)

    def stay_restarting(self, container: str, exit_code: int = 1) -> None:
        """It ended, and the engine waits before it starts it again."""
        known = self._known(container)
        self._change(container, state="restarting", exit_code=exit_code, pid=0, restarts=known.restarts + 1)

    def stop_by_hand(self, container: str) -> None:
        """As ``docker stop``."""
        self._end(container, 143)

    def pause(self, container: str) -> None:
        """As ``docker pause``."""
        self._change(container, state="paused")

    def disconnect(self, container: str) -> None:
        """As ``docker network disconnect``."""
        self._change(container, address=None)

    def rename(self, container: str, name: str) -> None:
        """As ``docker rename``."""
        self._change(container, name=name)

    def vanish(self, container: str) -> None:
        """As ``docker rm -f``."""
        del self._machine.containers[container]
        self._machine.labels.pop(container)
        self._machine.specs.pop(container, None)

    def take_port(self, port: int, protocol: str = "tcp") -> None:
        """A process outside Docker listens."""
        self._machine.busy_ports.add((protocol, port))

    def set_logs(self, container: str, text: str) -> None:
        """What it wrote."""
        self._machine.output[container] = text

    def set_checked(self, container: str, text: str) -> None:
        """What its HEALTHCHECK printed."""
        self._machine.printed[container] = text

    def set_connections(self, container: str, count: int) -> None:
        """So many peers."""
        self._machine.peers[container] = count

    def reboot(self) -> None:
        """Everything ends, and what should come back does."""
        for container in list(self._machine.containers.values()):
            if container.state in {"running", "restarting", "paused"}:
                self._end(container.id, 137)
                if container.limits is not None and container.limits.restart:
                    self._run(container.id, container.host_ports)

    # --- inside

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if self.down:
            raise Unavailable("the Docker Engine does not answer at /fake", reason="DockerUnavailable")
        if method in self.fail:
            raise self.fail[method]

    def _ask_registry(self, reference: str, credentials: Credentials | None) -> str:
        if registry_of(reference) in self._machine.registries_down:
            raise Unavailable(f"the registry cannot give {reference} now", reason="RegistryUnavailable")
        wanted = normalise(reference)
        password = self._machine.passwords.get(wanted)
        if password is not None and (credentials is None or (credentials[0], credentials[1].reveal()) != password):
            raise Failed(f"the registry denies {reference}", reason="RegistryDenied")
        if wanted not in self._machine.registry:
            raise Failed(f"there is no image {reference}", reason="ImageNotFound")
        return self._machine.registry[wanted]

    def _known(self, container: str) -> Container:
        try:
            return self._machine.containers[container]
        except KeyError:
            raise Unavailable(f"the container {container[:12]} is gone", reason="ContainerGone") from None

    def _check_ours(self, container: str) -> None:
        name = self._machine.containers[container].name
        if not ownership.read(name, self._machine.labels[container], self._key)[1]:
            raise Refused(f"the container {name} does not carry this host's signature", reason="NotOwned")

    def _check_address(self, address: str, container: str) -> None:
        for other in self._machine.containers.values():
            if other.address == address and other.id != container and other.state in {"running", "paused"}:
                raise Refused(f"the address {address} is taken by the container {other.name}", reason="AddressTaken")

    def _add(self, name: str, image: str, address: str | None, labels: Mapping[str, str]) -> str:
        machine = self._machine
        machine.made += 1
        identity = _hash("container", name, str(machine.made)).removeprefix("sha256:")
        machine.containers[identity] = Container(
            id=identity,
            name=name,
            state="created",
            image=image,
            created_at=float(int(self._clock())),  # a list tells whole seconds
            claim=None,
            owned=False,
            address=address,
        )
        machine.labels[identity] = labels
        return identity

    def _run(self, container: str, ports: tuple[tuple[str, int], ...]) -> None:
        spec = self._machine.specs.get(container)
        probed = spec is not None and spec.health is not None
        self._change(
            container,
            state="running",
            started_at=self._clock(),
            engine_health=("healthy" if self.starts_healthy else "starting") if probed else "none",
            exit_code=None,
            error="",
            pid=1000 + self._machine.made,
            host_ports=ports,
        )

    def _end(self, container: str, exit_code: int) -> None:
        ended: dict[str, object] = {"exit_code": exit_code, "finished_at": self._clock()}
        self._change(container, state="exited", pid=0, host_ports=(), engine_health="none", **ended)

    def _change(self, container: str, **changes: object) -> None:
        self._machine.containers[container] = replace(self._machine.containers[container], **changes)  # type: ignore[arg-type]


def _hash(*parts: str) -> str:
    return "sha256:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()
