"""Processes of the host, as /proc has them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_STOP = 2.0  # seconds between SIGTERM and SIGKILL


def arguments(pid: int) -> list[str]:
    """The command line; empty when the process is gone."""
    try:
        return [os.fsdecode(part) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []


def program(pid: int) -> str:
    """The name of the program's file, which no process can choose as it can its command line; empty when it is gone."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name  # noqa: PTH115  (text is needed)
    except PermissionError:  # it gave up root, and we may not trace others: systemd's unit for the agent is so
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        pass
    return ""


def everyone() -> Iterator[int]:
    """All process ids."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def started_at(pid: int) -> float | None:
    """Unix time of a process's start, by the clock as it stands now: it may have jumped since.

    To a tenth of a second, so that it is the same at each look.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None
    return round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK"), 1)


def stop(pid: int) -> None:
    """End a process, and wait until it has gone."""
    with contextlib.suppress(ProcessLookupError):  # a child goes with its parent
        handle = os.pidfd_open(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(handle, number)
                if select.select([handle], [], [], _STOP)[0]:
                    return
        finally:
            os.close(handle)


def listener(address: str, port: int) -> str:
    """Who listens at the address, or at all of them, on a port."""
    raw = int.from_bytes(ipaddress.IPv4Address(address).packed, "little")
    wanted = {f"{raw:08X}:{port:04X}", f"{0:08X}:{port:04X}", f"{0:032X}:{port:04X}"}
    sockets = set()
    for table in ("udp", "udp6", "tcp", "tcp6"):
        with contextlib.suppress(OSError):
            rows = (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
            sockets |= {f"socket:[{row[9]}]" for row in rows if row[1] in wanted}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(handle.readlink()) in sockets:
                pid = handle.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (process {pid})"
    return "another program"
