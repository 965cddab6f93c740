"""One way to disturb an engine, in memory and for real, so that the same tests can be run on both."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

import docker

from harness.engine import PrivateEngine
from harness.fake_engine import FakeEngine
from harness.registry import PASSWORD, USERNAME, Registry
from reconciler import protocols
from reconciler.core import ownership
from reconciler.core.observed import Claim, Container
from reconciler.core.target import ContainerSpec
from reconciler.world.containers import DockerEngine

KEY = b"k" * 32
NETWORK = "reconciler-contract"
SUBNET = "10.211.0.0/24"


def claim(app: str = "shop", **changes: str) -> Claim:
    """What a container of this app says it is."""
    return Claim(app, "3fa9c2d1" * 2, 1, "replica", f"apps/{app}/app.yaml", "c" * 40, f"{app}:1", changes)


class Lab(Protocol):
    """An engine, and what may happen around it."""

    engine: protocols.Engine
    image: str
    """Id of an image that sleeps until it is told to end; its user is ``app``."""

    def with_key(self, key: bytes) -> protocols.Engine:
        """The same engine as a host with this key sees it."""

    def foreign(
        self, name: str, *, address: str | None = None, port: int | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        """A running container that somebody else made."""

    def labels_of(self, container: str) -> Mapping[str, str]:
        """Its labels."""

    def crash(self, container: str) -> None:
        """Its main process is killed."""

    def run_out_of_memory(self, name: str, address: str) -> str:
        """A container of ours that did, and stays ended."""

    def set_health(self, container: str, *, healthy: bool) -> None:
        """Let the HEALTHCHECK ``test -e /tmp/healthy`` say so."""

    def pause(self, container: str) -> None: ...
    def disconnect(self, container: str) -> None: ...
    def stop_by_hand(self, container: str) -> None: ...
    def rename(self, container: str, name: str) -> None: ...
    def vanish(self, container: str) -> None: ...
    def take_port(self, port: int) -> None:
        """A process outside Docker listens on this port of loopback."""

    def say(self, container: str, text: str) -> None:
        """Let it write lines."""

    def volumes(self) -> frozenset[str]: ...
    def add_volume(self, name: str, *, owner: str = "", elsewhere: bool = False, user: str = "") -> None:
        """A volume that was there before: an app's, one that leads elsewhere, or one that a foreign container uses."""

    def publish(self, name: str, *, password: bool = False) -> str:
        """Put an image into a registry and take it from the engine; its reference."""

    def publish_new(self, name: str) -> str:
        """Put an image into a registry that was never on this engine; its reference."""

    def tag(self, image: str, name: str) -> None:
        """Give an image one more name."""

    def use(self, image: str, name: str) -> str:
        """A container that somebody else made of an image, and did not start."""

    def reference(self, name: str) -> str:
        """A reference into the registry."""

    def unreachable(self) -> str:
        """A reference into a registry that is down."""

    def close(self) -> None:
        """Leave nothing behind."""


def seen(lab: Lab, container: str) -> Container:
    """The container, looked at now."""
    return next(each for each in lab.engine.observe().containers if each.id == container)


class FakeLab:
    """In memory."""

    def __init__(self) -> None:
        self._fake = FakeEngine(KEY)
        self.engine: protocols.Engine = self._fake
        self.image = self._fake.add_image("shop:1", user="app")

    def with_key(self, key: bytes) -> protocols.Engine:
        return self._fake.with_key(key)

    def foreign(
        self, name: str, *, address: str | None = None, port: int | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        return self._fake.foreign(name, address=address, ports=[("tcp", port)] if port else [], labels=labels)

    def labels_of(self, container: str) -> Mapping[str, str]:
        return self._fake.labels_of(container)

    def crash(self, container: str) -> None:
        self._fake.crash(container, 137)

    def run_out_of_memory(self, name: str, address: str) -> str:
        made = self.engine.create(name, address, claim(), ContainerSpec(self.image, restart=False))
        self.engine.start(made)
        self._fake.crash(made, 137, oom=True)
        return made

    def set_health(self, container: str, *, healthy: bool) -> None:
        self._fake.set_health(container, "healthy" if healthy else "unhealthy")
        self._fake.set_checked(container, "it is there\n" if healthy else "")

    def pause(self, container: str) -> None:
        self._fake.pause(container)

    def disconnect(self, container: str) -> None:
        self._fake.disconnect(container)

    def stop_by_hand(self, container: str) -> None:
        self._fake.stop_by_hand(container)

    def rename(self, container: str, name: str) -> None:
        self._fake.rename(container, name)

    def vanish(self, container: str) -> None:
        self._fake.vanish(container)

    def take_port(self, port: int) -> None:
        self._fake.take_port(port)

    def say(self, container: str, text: str) -> None:
        self._fake.set_logs(container, text)

    def volumes(self) -> frozenset[str]:
        return self._fake.volumes

    def add_volume(self, name: str, *, owner: str = "", elsewhere: bool = False, user: str = "") -> None:
        self._fake.add_volume(name, owner="?" if elsewhere or user else owner)

    def publish(self, name: str, *, password: bool = False) -> str:
        reference = f"registry.example.com/{name}"
        self._fake.publish(reference, credentials=(USERNAME, PASSWORD.encode()) if password else None)
        return reference

    def publish_new(self, name: str) -> str:
        reference = f"registry.example.com/{name}"
        self._fake.publish(reference, version=os.urandom(8).hex())
        return reference

    def tag(self, image: str, name: str) -> None:
        self._fake.tag(image, name)

    def use(self, image: str, name: str) -> str:
        made = self._fake.foreign(name, image=image)
        self._fake.stop_by_hand(made)
        return made

    def reference(self, name: str) -> str:
        return f"registry.example.com/{name}"

    def unreachable(self) -> str:
        reference = "registry.example.net/shop:1"
        self._fake.set_registry_down(reference)
        return reference

    def close(self) -> None:
        pass


class RealLab:
    """A private Docker Engine, and registries of Debian's docker-registry."""

    def __init__(self, private: PrivateEngine, registry: Callable[[bool], Registry]) -> None:
        self._private = private
        self._registry = registry
        self._client = private.client()
        self._api: docker.APIClient = self._client.api
        # The engine is shared with other tests, and so are the images that they keep.
        self._others_images, self._others_volumes = self._references(), self._volumes()
        self._engines: list[DockerEngine] = []
        self._sockets: list[socket.socket] = []
        self.docker = DockerEngine(private.socket, NETWORK, SUBNET, KEY, ())
        self.engine: protocols.Engine = self.docker
        loop = "if test -e /tmp/say; then cat /tmp/say; busybox rm /tmp/say; fi; sleep 0.05"
        script = f"touch /tmp/healthy; while true; do {loop}; done"
        self.image = private.import_image("contract:1", changes=(f'CMD ["sh", "-c", "{script}"]', "USER app"))

    def with_key(self, key: bytes) -> DockerEngine:
        engine = DockerEngine(self._private.socket, NETWORK, SUBNET, key, ())
        self._engines.append(engine)
        return engine

    def foreign(
        self, name: str, *, address: str | None = None, port: int | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        networking = None
        if address is not None:
            networking = {"EndpointsConfig": {NETWORK: self._api.create_endpoint_config(ipv4_address=address)}}
        created = self._api.create_container(
            self.image,
            name=name,
            labels=dict(labels or {}),
            ports=[80],
            networking_config=networking,
            host_config=self._api.create_host_config(
                network_mode=NETWORK if address else "bridge",
                port_bindings={80: ("127.0.0.1", port)} if port else None,
                init=True,
            ),
        )
        self._api.start(created["Id"])
        return str(created["Id"])

    def labels_of(self, container: str) -> Mapping[str, str]:
        labels: Mapping[str, str] = self._api.inspect_container(container)["Config"]["Labels"]
        return labels

    def crash(self, container: str) -> None:
        os.kill(self._api.inspect_container(container)["State"]["Pid"], signal.SIGKILL)

    def run_out_of_memory(self, name: str, address: str) -> str:
        hungry = ("sh", "-c", "x=12345678; while true; do x=$x$x; done")
        spec = ContainerSpec(self.image, command=hungry, memory=16 * 1024 * 1024, restart=False)
        made = self.engine.create(name, address, claim(), spec)
        self.engine.start(made)
        self._api.wait(made, timeout=30)
        return made

    def set_health(self, container: str, *, healthy: bool) -> None:
        self._in(container, "touch /tmp/healthy" if healthy else "busybox rm /tmp/healthy")

    def pause(self, container: str) -> None:
        self._api.pause(container)

    def disconnect(self, container: str) -> None:
        self._api.disconnect_container_from_network(container, NETWORK)

    def stop_by_hand(self, container: str) -> None:
        self._api.stop(container, timeout=5)

    def rename(self, container: str, name: str) -> None:
        self._api.rename(container, name)

    def vanish(self, container: str) -> None:
        self._api.remove_container(container, force=True)

    def take_port(self, port: int) -> None:
        listener = socket.socket()
        self._sockets.append(listener)
        listener.bind(("127.0.0.1", port))
        listener.listen()

    def say(self, container: str, text: str) -> None:
        self._in(container, f"printf '{text}' >/tmp/saying && busybox mv /tmp/saying /tmp/say")

    def _in(self, container: str, script: str) -> None:
        run = self._api.exec_create(container, ["sh", "-c", script])["Id"]
        output = self._api.exec_start(run)
        assert self._api.exec_inspect(run)["ExitCode"] == 0, output

    def volumes(self) -> frozenset[str]:
        return self._volumes() - self._others_volumes

    def add_volume(self, name: str, *, owner: str = "", elsewhere: bool = False, user: str = "") -> None:
        options = {"type": "none", "o": "bind", "device": "/etc"} if elsewhere else None
        self._api.create_volume(name, driver_opts=options, labels={ownership.OWNER: owner} if owner else None)
        if user:
            mounts = [docker.types.Mount("/data", name)]
            host_config = self._api.create_host_config(mounts=mounts)
            self._api.create_container(self.image, name=user, host_config=host_config)

    def _volumes(self) -> frozenset[str]:
        return frozenset(volume["Name"] for volume in self._api.volumes()["Volumes"] or ())

    def _references(self) -> frozenset[str]:
        return frozenset(reference for image in self._api.images() for reference in image["RepoTags"] or ())

    def publish(self, name: str, *, password: bool = False) -> str:
        return self._registry(password).push(self._private, self.image, name)

    def publish_new(self, name: str) -> str:
        self._private.import_image("new:1", files={"etc/new": os.urandom(64)})
        reference = self._registry(False).push(self._private, "new:1", name)
        self._api.remove_image("new:1")
        return reference

    def tag(self, image: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        self._api.tag(image, repository, tag)

    def use(self, image: str, name: str) -> str:
        return str(self._api.create_container(image, ["true"], name=name)["Id"])

    def reference(self, name: str) -> str:
        return f"{self._registry(False).host}/{name}"

    def unreachable(self) -> str:
        return "127.0.0.1:1/shop:1"

    def close(self) -> None:
        for container in self._api.containers(all=True, quiet=True):
            self._api.remove_container(container["Id"], v=True, force=True)
        for volume in self.volumes():
            self._api.remove_volume(volume)
        for network in self._api.networks(names=[NETWORK]):
            self._api.remove_network(network["Id"])
        for reference in self._references() - self._others_images:
            self._api.remove_image(reference)
        for engine in (self.docker, *self._engines):
            engine.close()
        for listener in self._sockets:
            listener.close()
        self._client.close()
