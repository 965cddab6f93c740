"""What /proc/PID/net/tcp and tcp6 say about a container's connections."""

from __future__ import annotations

from pathlib import Path

_ESTABLISHED = "01"
_LISTEN = "0A"
_V4_LOOPBACK = "7F"  # the last byte of a little-endian 127.x.y.z, which stands first from the right
_V6_LOOPBACK = "0" * 24 + "01000000"


def established(pid: int, proc: Path = Path("/proc")) -> int:
    """Established connections to ports on which the process's network namespace listens; 0 when it is gone.

    Connections over loopback are the container's own business (its HEALTHCHECK, Docker's embedded resolver), and
    nobody outside waits for them.
    """
    listening: set[str] = set()
    connected: list[str] = []
    # Both: a server that listens on :: shows its IPv4 peers in tcp6.
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / str(pid) / "net" / table).read_text().splitlines()[1:]
        except OSError:  # the process is gone, or the kernel has no IPv6
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            if state == _LISTEN:
                listening.add(port)
            elif state == _ESTABLISHED and not _loopback(address):
                connected.append(port)
    return sum(port in listening for port in connected)


def _loopback(address: str) -> bool:
    """Whether a hexadecimal address of these tables is 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104."""
    return address == _V6_LOOPBACK or (
        address.endswith(_V4_LOOPBACK) and (len(address) == 8 or address[:24] == "0" * 16 + "FFFF0000")  # noqa: PLR2004
    )
