"""Our bridge network: addresses in it are assigned by the plan, its gateway is where the names service answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from reconciler.core import ownership
from reconciler.errors import ReconcilerError, Refused
from reconciler.world.containers.clients import NOT_FOUND, Answered, Clients


class Network:
    """One network by name and subnet."""

    def __init__(self, clients: Clients, name: str, subnet: str) -> None:
        self._clients = clients
        self.name = name
        self.subnet = subnet
        self.gateway = str(next(ipaddress.ip_network(subnet).hosts()))

    def identity(self) -> str | None:
        """The network's id; None where there is none of this name with this subnet."""
        found = self._find()
        return None if found is None or _subnet(found) != self.subnet else str(found["Id"])

    def ensure(self) -> None:
        """Make it, unless it is there.

        Raises:
            Refused: ``NetworkConflict``: the name or the subnet is somebody else's.
        """
        from docker.types import IPAMConfig, IPAMPool  # noqa: PLC0415  (costs 90 ms; see wire.py)

        if self._is_ours():
            return
        pool = IPAMPool(subnet=self.subnet, gateway=self.gateway)
        try:
            with self._clients.speaking(f"create network {self.name}") as client:
                client.create_network(
                    self.name,
                    driver="bridge",
                    ipam=IPAMConfig(pool_configs=[pool]),
                    labels={ownership.OWNER: self.name},
                )
        except Answered as answer:
            if self._is_ours():  # somebody was faster
                return
            raise self._why_not(answer) from answer

    def _find(self) -> dict[str, Any] | None:
        try:
            with self._clients.speaking(f"inspect network {self.name}") as client:
                found: dict[str, Any] = client.inspect_network(self.name)
        except Answered as answer:
            if answer.status == NOT_FOUND:
                return None
            raise
        # The engine also takes the beginning of an id for a name.
        return found if found.get("Name") == self.name else None

    def _is_ours(self) -> bool:
        found = self._find()
        if found is None:
            return False
        if _subnet(found) != self.subnet:
            raise Refused(
                f"the Docker network {self.name!r} has the subnet {_subnet(found) or 'none'}, not {self.subnet}",
                reason="NetworkConflict",
                remedy="Name another network, or this subnet, under `docker` in the agent's settings",
            )
        if ownership.OWNER not in (found.get("Labels") or {}):
            raise Refused(
                f"the Docker network {self.name!r} was not made by reconciler",
                reason="NetworkConflict",
                remedy="Name another network under `docker` in the agent's settings, or remove this one",
            )
        return True

    def _why_not(self, answer: Answered) -> ReconcilerError:
        if "overlap" not in answer.text.lower():
            return answer
        with self._clients.speaking("list networks") as client:
            networks = client.networks()
        return Refused(
            f"our subnet {self.subnet} overlaps with {_overlapping(networks, self.subnet)}",
            reason="NetworkConflict",
            remedy="Choose another subnet under `docker` in the agent's settings",
        )


def _overlapping(networks: list[dict[str, Any]], subnet: str) -> str:
    ours = ipaddress.ip_network(subnet)
    for network in networks:
        for pool in (network.get("IPAM") or {}).get("Config") or ():
            theirs = ipaddress.ip_network(pool["Subnet"], strict=False)
            if isinstance(theirs, type(ours)) and theirs.overlaps(ours):
                return f"the Docker network {network['Name']!r} ({theirs})"
    return "another network of this host"


def _subnet(network: Mapping[str, Any]) -> str:
    configured = (network.get("IPAM") or {}).get("Config") or ()
    return str(configured[0].get("Subnet") or "") if configured else ""
