"""Disks for tests: small, in memory, and full or read-only when asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """A tmpfs of its own."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "reconciler-test", str(path)],
            check=True,
            timeout=10,
        )

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self) -> None:
        """Leave not one byte."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while os.write(descriptor, bytes(4096)):
                pass
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Undo ``fill``."""
        self._ballast.unlink()

    def read_only(self) -> None:
        """As after a disk error."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True, timeout=10)

    def writable(self) -> None:
        """Undo ``read_only``."""
        subprocess.run(["mount", "-o", "remount,rw", str(self.path)], check=True, timeout=10)

    def unmount(self) -> None:
        """Take it away, even while something is open on it."""
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=10)


@contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[SmallDisk]:
    """A disk that is gone after the test."""
    disk = SmallDisk(path, size)
    try:
        yield disk
    finally:
        disk.unmount()
