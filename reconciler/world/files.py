"""Files and secrets on the host that containers mount read-only.

Each version of an app's files is a directory of its own, ``ROOT/APP/DIGEST``, named by the core after its content. It
appears complete or not at all, and is never changed afterwards. As a seal the finished directory's modification time
is set to a fixed moment: the kernel moves it when anything is added, removed or renamed in it, so one ``stat`` tells
whether a directory is still what was written.

The roots and the apps' directories are root's alone (0700); only the directory that is mounted is open to the
container's user, and inside a mount the way that led there no longer counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler import disk
from reconciler.core.model import Secret
from reconciler.core.paths import stored_name
from reconciler.core.target import FileContent
from reconciler.errors import Unavailable

_SEAL = 1_000_000_000  # seconds: a modification time that no clock gives by chance
_HIDDEN = "."  # begins the name of a directory that is being written or removed
_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    content: bytes
    mode: int


class HostFiles:
    """The ``Files`` of protocols.py. Safe for use by several threads of the one agent.

    Args:
        files: Where files of the repository go; on disk, because containers come up at boot before the agent does.
        secrets: Where secrets go; on tmpfs.
    """

    def __init__(self, files: Path, secrets: Path) -> None:
        self._files = files
        self._secrets = secrets
        self._lock = threading.Lock()

    def present(self) -> frozenset[str]:
        """Directories, as absolute paths, that hold what was written to them."""
        with _explained(self._files, "mounted files cannot be listed"):
            return frozenset(
                entry.path
                for root in (self._files, self._secrets)
                for entry in _versions(root)
                if not entry.name.startswith(_HIDDEN) and _sealed(entry)
            )

    def write(self, directory: str, files: Sequence[FileContent]) -> None:
        """Write the repository's files under their ``stored_name``. Nothing happens when they are there already.

        Raises:
            Unavailable: ``DiskFull``, ``DiskReadOnly``, ``DiskError``.
        """
        items = [_Item(stored_name(file.target), file.content, file.mode & 0o777) for file in files]
        with self._lock:
            self._write(self._files, directory, items, owner=None)

    def write_secrets(self, directory: str, secrets: Mapping[str, Secret], owner: tuple[int, int]) -> None:
        """Write secrets for this (user, group) to read: files 0400 in a directory 0500.

        Raises:
            Unavailable: ``NotTmpfs``, ``DiskFull``, ``DiskReadOnly``, ``DiskError``.
        """
        items = [_Item(name, secret.reveal(), 0o400) for name, secret in secrets.items()]
        with self._lock:
            with _explained(self._secrets, "secrets cannot be written"):
                _make_private(self._secrets)
            _require_memory(self._secrets)
            self._write(self._secrets, directory, items, owner)

    def remove_except(self, keep: frozenset[str]) -> None:
        """Remove all other versions, and what a killed agent left half written or half removed.

        Raises:
            Unavailable: ``DiskReadOnly``, ``DiskError``.
        """
        with self._lock:
            for root in (self._files, self._secrets):
                with _explained(root, "old files cannot be removed"):
                    for entry in _versions(root):
                        if entry.path not in keep:
                            _remove(Path(entry.path))
                    for app in _scan(root):
                        with contextlib.suppress(OSError):  # not empty
                            os.rmdir(app.path)  # noqa: PTH106  (a DirEntry gives the path as text)

    def _write(self, root: Path, directory: str, items: Sequence[_Item], owner: tuple[int, int] | None) -> None:
        final = Path(directory)
        if final.parent.parent != root:
            message = f"{directory} is not a version of an app below {root}"
            raise ValueError(message)
        if _sealed(final):
            return
        with _explained(root, f"the files of {final.parent.name} cannot be written"):
            _make_private(root)
            _make_private(final.parent)
            fresh = Path(tempfile.mkdtemp(prefix=f"{_HIDDEN}new-", dir=final.parent))
            try:
                for item in items:
                    _write_file(fresh, item, owner)
                if final.is_dir() and not final.is_symlink():
                    _mend(fresh, final)
                    _seal(final, owner)
                else:
                    final.unlink(missing_ok=True)
                    _seal(fresh, owner)
                    fresh.rename(final)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            disk.sync_directory(final.parent)


def _versions(root: Path) -> Iterator[os.DirEntry[str]]:
    for app in _scan(root):
        yield from _scan(app.path)


def _scan(path: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sealed(entry: os.DirEntry[str] | Path) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_mtime_ns == _SEAL * 1_000_000_000


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != 0o700:  # noqa: PLR2004  (root's alone)
        path.chmod(0o700)


def _write_file(directory: Path, item: _Item, owner: tuple[int, int] | None) -> None:
    if item.name in {".", ".."} or "/" in item.name:
        message = f"{item.name!r} is no file name"
        raise ValueError(message)
    descriptor = os.open(directory / item.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (made from the descriptor, which is private from its birth)
        file.write(item.content)
        file.flush()
        os.fchmod(descriptor, item.mode)
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fsync(descriptor)


def _seal(directory: Path, owner: tuple[int, int] | None) -> None:
    """The last step: open the directory to its user, and set the time that says "complete"."""
    disk.sync_directory(directory)
    if owner is not None:
        os.chown(directory, *owner)
    directory.chmod(0o500 if owner is not None else 0o555)
    os.utime(directory, (_SEAL, _SEAL))


def _mend(fresh: Path, final: Path) -> None:
    """Put files into a directory that somebody changed. It stays the same inode: running containers have it mounted."""
    wanted = {entry.name for entry in _scan(fresh)}
    for entry in _scan(final):
        if entry.name not in wanted:
            _remove_anything(Path(entry.path))
    for name in wanted:
        if (final / name).is_dir():
            _remove_anything(final / name)
        (fresh / name).rename(final / name)


def _remove(version: Path) -> None:
    # Hidden first: a version must not be seen half removed, and what is left after a SIGKILL is removed next time.
    if not version.name.startswith(_HIDDEN):
        hidden = version.with_name(f"{_HIDDEN}old-{version.name}")
        _remove_anything(hidden)
        version = version.rename(hidden)
    _remove_anything(version)


def _remove_anything(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _require_memory(path: Path) -> None:
    kind = _file_system(path)
    if kind not in _MEMORY:
        raise Unavailable(
            f"{path} is on {kind or 'an unknown file system'}, not on tmpfs: secrets would be written to a disk",
            reason="NotTmpfs",
            remedy="Let `runtime` in agent.yaml name a directory on tmpfs such as /run/reconciler (`findmnt -T /run`)",
        )


def _file_system(path: Path) -> str | None:
    """The type of the file system that a path is on. statfs(2) would say it too, but Python does not offer it."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split(" ", 3)[2] == number:
                return after.split(" ", 1)[0]
    return None


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk.unavailable(error, path, what) from error
