"""A network namespace for the whole test process, so that nothing of the host's own network is touched."""

from __future__ import annotations

import ctypes
import os
import subprocess

_CLONE_NEWNET = 0x40000000
_STARTED_IN = "RECONCILER_TESTS_NETNS_OF"


def isolate() -> None:
    """Move this process into a fresh network namespace with loopback up. Children and later threads follow."""
    if os.geteuid() != 0:
        message = "the tests need root: they run a Docker Engine, dnsmasq and nginx in a network namespace of their own"
        raise SystemExit(message)
    if os.environ.get(_STARTED_IN) == str(os.getpid()):
        return
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare(CLONE_NEWNET): {os.strerror(error)}")
    os.environ[_STARTED_IN] = str(os.getpid())
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
