"""The host's resolvers, as far as a container can reach them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

_MOST = 2  # libc looks at three, and ours is the first


def reachable(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """IPv4 resolvers of the host that are not on its loopback: a container has a loopback of its own.

    An unreadable file means none; outside names then go through our names service alone.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    named = [pair[1] for pair in words if len(pair) > 1 and pair[0] == "nameserver"]
    return tuple(address for address in named if _is_outside(address))[:_MOST]


def _is_outside(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback and not address.is_unspecified  # noqa: PLR2004
