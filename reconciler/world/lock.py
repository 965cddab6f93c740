"""One agent per host, by flock(2).

The kernel drops the lock with the process, however it ends, so it is never stale. The file stays: who removes a lock
file lets two processes lock two files of the same name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler import disk
from reconciler.errors import Refused

_PATIENCE = 0.5  # seconds: `holder` of another process has the lock for a moment


class HostLock:
    """The lock of the agent, or of a command that acts in its place.

    Args:
        path: The lock file, e.g. ``/run/reconciler/agent.lock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our process id into the file.

        Raises:
            Refused: ``AlreadyRunning``; the message names the process.
            Unavailable: ``DiskFull``, ``DiskReadOnly``, ``DiskError``: there is no lock file and none can be made.
        """
        if self._descriptor is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = self._open()
        except OSError as error:
            raise disk.unavailable(error, self._path, "the agent's lock cannot be taken") from error
        with contextlib.suppress(OSError):  # a read-only disk
            os.fchmod(descriptor, 0o600)  # whoever can open it can lock it, and keep every agent out
        if not _lock(descriptor):
            pid = _pid(descriptor)
            os.close(descriptor)
            raise Refused(
                f"a reconciler agent runs on this host already ({f'process {pid}' if pid else 'process unknown'})",
                reason="AlreadyRunning",
                remedy="Stop it with `systemctl stop reconciler`, or make it look again at once with "
                f"`kill -HUP {pid or 'PID'}`",
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a number in it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A lock needs no writing, and an agent that can repair what it sees is better than none.
            try:
                return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise error from None

    def release(self) -> None:
        """Give the lock back; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> int | None:
        """Process id of whoever holds the lock: None when nobody does, 0 when it could not be written down.

        Raises:
            Unavailable: ``DiskError`` when the file is there and cannot be read.
        """
        if self._descriptor is not None:
            return os.getpid()
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk.unavailable(error, self._path, "the agent's lock cannot be read") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid(descriptor)
        finally:
            os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _pid(descriptor: int) -> int:
    """Who holds the lock: the kernel knows, and where it does not tell, the file says who wrote it last; else 0."""
    about = os.fstat(descriptor)
    file = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[5] == file and int(words[4]) > 0:
                return int(words[4])
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
