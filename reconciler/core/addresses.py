"""Which address the next container gets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class AddressPool:
    """Free addresses of our subnet, as of one plan.

    An address must rest before it is given out again: nginx, resolvers and clients may still talk to the one who had
    it. Nothing is remembered for that; the place where the search begins moves with the clock, by a step that takes
    at least a quarter of an hour to come round.
    """

    _ROUND = 1024  # seconds

    def __init__(self, subnet: str, used: Iterable[str], now: float) -> None:
        self._network = ipaddress.IPv4Network(subnet)
        self._first = int(self._network.network_address) + 2  # the first usable one is the gateway
        self._size = self._network.num_addresses - 3
        self._used = set(used)  # as text: most plans take none, and need not read hundreds
        self._at = int(now * max(1, self._size // self._ROUND)) % self._size

    def take(self) -> str | None:
        """The next free address; None when the subnet is full."""
        for _ in range(self._size):
            candidate = str(ipaddress.IPv4Address(self._first + self._at))
            self._at = (self._at + 1) % self._size
            if candidate not in self._used:
                self._used.add(candidate)
                return candidate
        return None


def gateway(subnet: str) -> str:
    """The bridge's own address, where the names service listens."""
    return str(ipaddress.IPv4Network(subnet).network_address + 1)
