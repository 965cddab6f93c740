"""What the engine's refusals mean, and what to do. Engines of different versions phrase them differently."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler.core import ownership
from reconciler.core.model import Secret
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable
from reconciler.world.containers.clients import CONFLICT, NOT_FOUND, Answered, Clients

if TYPE_CHECKING:
    from collections.abc import Iterable

# "listen tcp4 0.0.0.0:80: bind: ...", "Bind for 0.0.0.0:80 failed: ..."; from 28 on "host port 0.0.0.0:80/tcp: ..."
_PORT = re.compile(r"(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]*\]):(\d+)")
# What runc and containerd say around the one thing that matters.
_WRAPPING = re.compile(
    r"^.*(?:OCI runtime create failed|runc create failed|unable to start container process|create \w+ task): *"
)


class Explain:
    """Turns an answer of the engine into the error that an operator understands; asks who stands in the way."""

    def __init__(self, clients: Clients, network: str, key: bytes) -> None:
        self._clients = clients
        self._network = network
        self._key = key

    def create(self, name: str, image: str, answer: Answered, secrets: Iterable[Secret]) -> ReconcilerError:
        """Why a container could not be created."""
        text = answer.text
        for secret in secrets:
            shown = secret.reveal().decode(errors="replace")
            text = text.replace(shown, "***") if shown else text
        if answer.status == CONFLICT and "already in use" in text:
            return self._name_taken(name)
        if answer.status == NOT_FOUND and "image" in text.lower():
            return Unavailable(f"the image {image} of container {name} is gone from this host", reason="ImageMissing")
        if "bind source path does not exist" in text:
            return _mount_missing(text)
        at_fault = 400 <= answer.status < 500 or "is not a directory" in text  # noqa: PLR2004  (HTTP: the request is)
        if at_fault and answer.reason != "DiskFull":
            return rejected(name, text)
        return Unavailable(
            f"Docker could not create container {name}: {text}", reason=answer.reason, remedy=answer.remedy
        )

    def start(self, container: str, answer: Answered) -> ReconcilerError:
        """Why a container could not be started."""
        if answer.status == NOT_FOUND and "no such container" in answer.text.lower():
            return Unavailable(f"the container {container[:12]} is gone", reason="ContainerGone")
        with self._clients.speaking(f"inspect container {container[:12]}") as client:
            inspected = client.inspect_container(container)
        name, text = inspected["Name"].lstrip("/"), answer.text
        lowered = text.lower()
        port = _PORT.search(text)
        if port is not None and ("address already in use" in lowered or "already allocated" in lowered):
            return self._port_taken(container, int(port[1]), "udp" if "udp" in lowered else "tcp")
        if "address already in use" in lowered:
            endpoint = (inspected["NetworkSettings"]["Networks"] or {}).get(self._network) or {}
            return self.address_taken(container, (endpoint.get("IPAMConfig") or {}).get("IPv4Address") or "")
        if "bind source path does not exist" in lowered:
            return _mount_missing(text)
        if "docker-init" in lowered:
            return Unavailable(
                f"Docker could not start container {name}: it misses its docker-init",
                reason="InitMissing",
                remedy="Install the package that has `docker-init` (on Debian: tini)",
            )
        if answer.reason == "DiskFull" or ("network" in lowered and "not found" in lowered):
            return Unavailable(
                f"Docker could not start container {name}: {text}", reason=answer.reason, remedy=answer.remedy
            )
        return rejected(name, text)

    def address_taken(self, container: str, address: str) -> Refused:
        """Who holds the address that a container should have."""
        with self._clients.speaking("list containers") as client:
            containers = client.containers()
        for other in containers:
            endpoint = other["NetworkSettings"]["Networks"].get(self._network) or {}
            if other["Id"] != container and endpoint.get("IPAddress") == address:
                return held_address(address, other["Names"][0].lstrip("/"))
        return held_address(address, "")

    def _name_taken(self, name: str) -> ReconcilerError:
        try:
            with self._clients.speaking(f"inspect container {name}") as client:
                holder = client.inspect_container(name)
        except Answered:
            return Unavailable(f"the container name {name} was taken a moment ago", reason="NameTaken")
        if ownership.read(name, holder["Config"].get("Labels") or {}, self._key)[1]:
            # Ours: somebody else (a sync by hand) was faster, and the next look shows it.
            return Unavailable(f"the container {name} exists already", reason="NameTaken")
        return Refused(
            f"the container name {name} is taken by a container that reconciler does not own"
            f" ({holder['Id'][:12]}, image {holder['Config'].get('Image')})",
            reason="NameTaken",
            remedy=f"Look at `docker inspect {name}`, then rename or remove it",
        )

    def _port_taken(self, container: str, port: int, protocol: str) -> Refused:
        with self._clients.speaking("list containers") as client:
            containers = client.containers()
        for other in containers:
            if other["Id"] != container and any(
                entry.get("PublicPort") == port and entry.get("Type") == protocol for entry in other.get("Ports") or ()
            ):
                holder = f"the container {other['Names'][0].lstrip('/')}"
                break
        else:
            holder = "a process outside Docker"
        return Refused(
            f"the host's port {port}/{protocol} is taken by {holder}",
            reason="PortTaken",
            remedy=f"Look at `ss -lnp 'sport = :{port}'`; free the port or choose another",
        )


def cause(text: str) -> str:
    """What matters of an error that went through Docker, containerd and runc."""
    return _WRAPPING.sub("", text)


def rejected(name: str, text: str) -> Failed:
    """The engine says no to what the manifest or the image wants."""
    return Failed(
        f"Docker rejects container {name}: {cause(text)}",
        reason="ContainerRejected",
        remedy="Mend the manifest or the image",
    )


def held_address(address: str, holder: str) -> Refused:
    """An address is taken by a container, or by who knows what where ``holder`` is empty."""
    who = f"the container {holder}" if holder else "something that is not a container"
    return Refused(
        f"the address {address} in our network is taken by {who}",
        reason="AddressTaken",
        remedy=f"Look at `docker inspect {holder}`" if holder else "Look at `docker network inspect`",
    )


def _mount_missing(text: str) -> Unavailable:
    path = text.rpartition("does not exist:")[2].strip()
    return Unavailable(
        f"the directory {path} that is to be mounted does not exist",
        reason="MountMissing",
        remedy="Create it, or mend the manifest",
    )
