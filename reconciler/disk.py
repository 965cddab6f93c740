"""What a failing disk means to the operator, said in one place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from reconciler.errors import Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def full(path: Path | str, what: str) -> Unavailable:
    """No space is left. ``what`` is the sentence's beginning: ``the files of app shop cannot be written``."""
    return Unavailable(
        f"{what}: no space is left on the disk of {path}",
        reason="DiskFull",
        remedy=f"Free space there (df -h {path}; df -i {path}); what runs goes on, and the next cycle tries again",
    )


def unavailable(error: OSError, path: Path | str, what: str) -> Unavailable:
    """Name an OSError by what the operator must do.

    Returns:
        Unavailable with reason ``DiskFull``, ``DiskReadOnly`` or ``DiskError``.
    """
    if error.errno in _FULL:
        return full(path, what)
    if error.errno == errno.EROFS:
        return Unavailable(
            f"{what}: the disk of {path} is mounted read-only",
            reason="DiskReadOnly",
            remedy="Look for disk errors in `dmesg`, then mount it read-write; the next cycle tries again",
        )
    return Unavailable(
        f"{what}: {path}: {error.strerror or error}",
        reason="DiskError",
        remedy="See that this path is a directory that root can write to; the next cycle tries again",
    )


def sync_directory(path: Path) -> None:
    """Make renames in a directory outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
