"""The host's key: it signs the labels by which we know our own containers, and keys the hashes of secrets.

It is made once and then only read. Another key means that every container made so far belongs to nobody, so a damaged
file is never replaced by us: a person restores it, or removes it and knows why.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from reconciler import disk
from reconciler.errors import Refused, Unavailable

SIZE = 32
"""Bytes."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key, and whether it is new."""

    value: bytes = field(repr=False)
    created: bool
    """It was made just now: containers from before, if there are any, are no longer ours."""


def load_host_key(path: Path) -> HostKey:
    """Read the key; make it when there is no file.

    Raises:
        Refused: ``HostKeyDamaged`` (not 32 bytes, or zeros, or no file at all), ``HostKeyExposed`` (others may have
            read it).
        Unavailable: ``HostKeyUnreadable``, ``DiskFull``, ``DiskReadOnly``, ``DiskError``.
    """
    found = _read(path)
    if found is not None:
        return HostKey(found, created=False)
    try:
        made = _create(path)
    except OSError as error:
        raise disk.unavailable(error, path, "the host's key cannot be made") from error
    if made is not None:
        return HostKey(made, created=True)
    found = _read(path)  # somebody was faster
    if found is None:
        raise Unavailable(f"the host's key {path} comes and goes", reason="HostKeyUnreadable")
    return HostKey(found, created=False)


def _read(path: Path) -> bytes | None:
    try:
        # Non-blocking: a FIFO in its place would otherwise hold the agent for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        if path.is_symlink():
            raise _damaged(path, "is a symbolic link that leads nowhere") from None
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(path, "is not a file")
        if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in {0, os.geteuid()}:
            raise _exposed(path, status)
        value = os.read(descriptor, SIZE + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if len(value) != SIZE:
        raise _damaged(
            path, f"has {'more than ' if len(value) > SIZE else ''}{min(len(value), SIZE)} bytes, not {SIZE}"
        )
    if not any(value):
        raise _damaged(path, "holds zeros only, as after a power cut on a broken disk")
    return value


def _create(path: Path) -> bytes | None:
    """Let a complete file appear; None when one is there by now."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = secrets.token_bytes(SIZE)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    fresh = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  (made from the descriptor, private from its birth)
            file.write(value)
            file.flush()
            os.fsync(descriptor)
        try:
            path.hardlink_to(fresh)  # unlike a rename it never replaces
        except FileExistsError:
            return None
    finally:
        fresh.unlink()
    disk.sync_directory(path.parent)
    return value


def _damaged(path: Path, what: str) -> Refused:
    return Refused(
        f"the host's key {path} {what}; the agent does not make another, because every container it started would be "
        "a stranger to it. What runs goes on",
        reason="HostKeyDamaged",
        remedy="Restore the file from a backup. Without one: remove it, start the agent, and remove the containers "
        "that it then lists as no longer its own, one app at a time",
    )


def _exposed(path: Path, status: os.stat_result) -> Refused:
    return Refused(
        f"the host's key {path} is open to other users (owner {status.st_uid}, mode "
        f"{stat.S_IMODE(status.st_mode):04o}): who has it can pass containers off as ours",
        reason="HostKeyExposed",
        remedy=f"Run `chown root: {path} && chmod 600 {path}` if nobody else has read it; else remove the file, and "
        "the containers that run, and let the agent start them anew",
    )


def _unreadable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"the host's key {path} cannot be read: {error.strerror}",
        reason="HostKeyUnreadable",
        remedy="Run the command as root; if it was root, look for disk errors in `dmesg`",
    )
