"""``protocols.Engine`` on a real Docker Engine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core import ownership
from reconciler.core.model import Credentials, Secret
from reconciler.core.observed import Claim, EngineState, Limits
from reconciler.core.target import ContainerSpec
from reconciler.errors import Refused
from reconciler.world.containers import mounts
from reconciler.world.containers.clients import NOT_FOUND, Answered, Clients
from reconciler.world.containers.connections import established
from reconciler.world.containers.explain import Explain, held_address, rejected
from reconciler.world.containers.images import Images
from reconciler.world.containers.logs import tail
from reconciler.world.containers.network import Network
from reconciler.world.containers.observation import Observation, no_cpu_limit

if TYPE_CHECKING:
    from reconciler.world.containers.wire import Client

_MOST_LINES = 1000
_NOT_MODIFIED = 304


class DockerEngine:
    """The engine behind a unix socket. Any thread may call any method.

    Args:
        socket: The engine's unix socket.
        network: The name of our network.
        subnet: Its subnet, e.g. ``10.201.0.0/16``; the first address is the gateway, where the names service answers.
        key: The host's key, which signs our containers.
        resolvers: Further servers for names, so that outside names survive a dead names service.
    """

    def __init__(self, socket: Path, network: str, subnet: str, key: bytes, resolvers: tuple[str, ...]) -> None:
        self._key = key
        self._resolvers = resolvers
        self._clients = Clients(socket)
        self._network = Network(self._clients, network, subnet)
        self._observation = Observation(self._clients, self._network, key)
        self._images = Images(self._clients, key)
        self._explain = Explain(self._clients, network, key)

    @property
    def calls(self) -> Counter[str]:
        """HTTP calls made so far, by method and path without ids."""
        return self._clients.calls

    def close(self) -> None:
        """Close every thread's connection; later calls open new ones."""
        self._clients.close()

    # --- looking

    def observe(self) -> EngineState:
        """All containers and images, in two list calls."""
        return self._observation.look()

    def invalidate(self, container: str) -> None:
        """Something happened to this container: look closely next time. The empty string means all."""
        self._observation.invalidate(container)

    def logs(self, container: str, lines: int) -> str:
        """The last lines of output and errors, at most 64 KiB, with nothing in them that drives a terminal."""
        with self._clients.speaking(f"read the log of container {container[:12]}") as client:
            raw: bytes = client.logs(container, stdout=True, stderr=True, tail=max(1, min(lines, _MOST_LINES)))
        return tail(raw)

    def checked(self, container: str) -> str:
        """What its HEALTHCHECK printed last; empty where it has none or that has not run yet."""
        with self._clients.speaking(f"inspect container {container[:12]}") as client:
            inspected = client.inspect_container(container)
        checks = (inspected["State"].get("Health") or {}).get("Log") or ()
        return tail(str(checks[-1].get("Output") or "").encode()) if checks else ""

    def connections(self, container: str) -> int:
        """Established TCP connections to ports on which the container listens; 0 when it does not run."""
        try:
            with self._clients.speaking(f"inspect container {container[:12]}") as client:
                pid: int = client.inspect_container(container)["State"]["Pid"]
        except Answered as answer:
            if answer.status == NOT_FOUND:
                return 0
            raise
        return established(pid) if pid else 0

    # --- images and network

    def pull(self, reference: str, credentials: Credentials | None) -> str:
        """Pull an image and return its id."""
        return self._images.pull(reference, credentials)

    def images(self) -> frozenset[str]:
        """Ids of all images, asked now."""
        return self._images.identities()

    def collect_image(self, image: str, names: Collection[str]) -> None:
        """Remove an image that is called nothing but ``names``; Refused (``ImageInUse``) when somebody else uses it."""
        self._images.collect(image, names)

    def resolve_user(self, image: str, user: str | None) -> tuple[int, int]:
        """Numeric user and group that a container of this image runs as."""
        return self._images.resolve_user(image, user)

    def ensure_network(self) -> None:
        """Make our network, unless it is there."""
        self._network.ensure()

    # --- containers

    def create(self, name: str, address: str, claim: Claim, spec: ContainerSpec) -> str:
        """Create a container, its named volumes too, and return its id."""
        from reconciler.world.containers import creation  # noqa: PLC0415  (costs 90 ms; see wire.py)

        self._check_address(address)
        mounts.check_binds(claim, spec.mounts)
        what = creation.arguments(name, claim, spec, self._key)
        secrets = [value for value in spec.environment.values() if isinstance(value, Secret)]
        try:
            with self._clients.speaking(f"create container {name}") as client:
                for mount in spec.mounts:
                    if mount.kind == "volume":
                        mounts.take_volume(client, claim.app, mount.source, self._key)
                how = creation.host_config(client, spec, self._network.name, [self._network.gateway, *self._resolvers])
                where = {self._network.name: client.create_endpoint_config(ipv4_address=address)}
                created = client.create_container(**what, host_config=how, networking_config={"EndpointsConfig": where})
                return str(created["Id"])
        except Answered as answer:
            # Without its cause: the engine may quote what it was given, and that may be a secret.
            raise self._explain.create(name, claim.image, answer, secrets) from None

    def _check_address(self, address: str) -> None:
        """The engine itself notices a taken address only at the start, so ask who had it when we looked last."""
        holder = self._observation.holder_of(address)
        if holder is None:
            return
        try:
            with self._clients.speaking(f"inspect container {holder.name}") as client:
                now = client.inspect_container(holder.id)
        except Answered as answer:
            if answer.status == NOT_FOUND:
                return
            raise
        endpoint = (now["NetworkSettings"]["Networks"] or {}).get(self._network.name) or {}
        if endpoint.get("IPAddress") == address:
            raise held_address(address, holder.name)

    def start(self, container: str) -> None:
        """Start a container."""
        try:
            with self._changing(container, "start") as client:
                client.start(container)
        except Answered as answer:
            raise self._explain.start(container, answer) from answer

    def stop(self, container: str, grace: float) -> None:
        """Send the stop signal, wait, kill. No error when it is stopped or gone."""
        if not self._check_ours(container):
            return
        try:
            with self._changing(container, "stop") as client:
                client.stop(container, timeout=math.ceil(grace))
        except Answered as answer:
            if answer.status not in {NOT_FOUND, _NOT_MODIFIED}:
                raise

    def remove(self, container: str) -> None:
        """Remove, keeping volumes. No error when it is gone."""
        if not self._check_ours(container):
            return
        try:
            with self._clients.speaking(f"remove container {container[:12]}") as client:
                client.remove_container(container, v=False)
        except Answered as answer:
            if answer.status != NOT_FOUND and "already in progress" not in answer.text:
                raise

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""
        try:
            with self._changing(container, "unpause") as client:
                client.unpause(container)
        except Answered as answer:
            if "not paused" not in answer.text:
                raise

    def connect(self, container: str, address: str) -> None:
        """Connect to our network at this address, giving up another address in it where there is one."""
        network = self._network.name
        with self._clients.speaking(f"inspect container {container[:12]}") as client:
            inspected = client.inspect_container(container)
        endpoint = (inspected["NetworkSettings"]["Networks"] or {}).get(network)
        if endpoint is not None and (endpoint.get("IPAMConfig") or {}).get("IPv4Address") == address:
            return
        try:
            with self._changing(container, "connect") as client:
                if endpoint is not None:
                    client.disconnect_container_from_network(container, network, force=True)
                client.connect_container_to_network(container, network, ipv4_address=address)
        except Answered as answer:
            if "address already in use" in answer.text.lower():
                raise self._explain.address_taken(container, address) from answer
            raise

    def update(self, container: str, limits: Limits) -> None:
        """Set limits, whether it runs or not."""
        try:
            with self._changing(container, "update") as client:
                settings = {
                    "NanoCpus": no_cpu_limit(client.info()["NCPU"])
                    if limits.cpus is None
                    else round(limits.cpus * 1_000_000_000),
                    "Memory": limits.memory,
                    "MemorySwap": limits.memory,
                    "PidsLimit": limits.pids,
                    "RestartPolicy": {"Name": "unless-stopped" if limits.restart else "no"},
                }
                client.change(container, settings)
        except Answered as answer:
            if answer.status == 400:  # noqa: PLR2004  (HTTP: the request is at fault)
                raise rejected(container[:12], answer.text) from answer
            raise

    @contextmanager
    def _changing(self, container: str, doing: str) -> Iterator[Client]:
        try:
            with self._clients.speaking(f"{doing} container {container[:12]}") as client:
                yield client
        finally:
            # Afterwards, and also when it failed: an error is what the next look must see.
            self._observation.invalidate(container)

    def _check_ours(self, container: str) -> bool:
        """False when it is gone; Refused when its labels, as they are now, do not carry our signature."""
        try:
            with self._clients.speaking(f"inspect container {container[:12]}") as client:
                inspected = client.inspect_container(container)
        except Answered as answer:
            if answer.status == NOT_FOUND:
                return False
            raise
        name = inspected["Name"].lstrip("/")
        if not ownership.read(name, inspected["Config"].get("Labels") or {}, self._key)[1]:
            raise Refused(
                f"the container {name} does not carry this host's signature, so it is left alone",
                reason="NotOwned",
                remedy=f"Look at `docker inspect {name}`; what nobody needs, remove by hand",
            )
        return True
