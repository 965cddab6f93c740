"""One SQLite file that a host can lose: it survives SIGKILL, full disks and damage, and several processes.

A damaged file is moved aside and a fresh one begins. A full or read-only disk takes the writes away and leaves the
reads. Every process that has the file open holds a shared flock(2) on a file beside it that only root can open; who
makes a file or moves one aside needs it alone. Otherwise SQLite, closing the old file, would remove the new one's
write-ahead log by its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reconciler import disk
from reconciler.errors import Refused, Unavailable

T = TypeVar("T")

_PATIENCE = 5.0  # seconds to wait for another process
_COPIES = 3  # damaged files kept
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class _Damaged(Exception):  # noqa: N818  (never leaves this module)
    """The file cannot be used; the text completes "PATH ..."."""


@dataclass(frozen=True, slots=True)
class _Session:
    """An open file, and our share of the lock that lets it stay where it is."""

    connection: sqlite3.Connection
    lease: int
    file: tuple[int, int] | None
    """Device and inode; None in memory."""
    obstacle: Unavailable | None = None
    """Why nothing can be written."""

    def close(self) -> None:
        self.connection.close()
        os.close(self.lease)


class Database:
    """Safe for use by several threads. Nothing is opened before the first call; who has used it closes it.

    After SIGKILL a transaction is there or not; after a power cut the last second's may be missing.

    Args:
        path: The file. Its directory is made where it is missing, for root alone.
        what: What the file is to people, e.g. ``the store``.
        application: Number that SQLite keeps in the file, so that another program's database is recognised.
        migrations: One script of statements for each version of the schema, oldest first. A released script never
            changes; a new one is appended. No semicolon may stand inside a statement.
    """

    def __init__(self, path: Path, *, what: str, application: int, migrations: tuple[str, ...]) -> None:
        self.path = path
        self.generation = 0
        """Changes whenever another file, or the same one anew, was opened."""
        self._what = what
        self._application = application
        self._migrations = migrations
        self._lock = threading.RLock()
        self._session: _Session | None = None
        self._trouble: Unavailable | None = None

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Ask.

        Raises:
            Unavailable: The file is there and cannot be read: ``DiskError``, ``StoreBusy``.
            Refused: ``StoreNewer``: a newer version of reconciler wrote it.
        """
        return self._attempt(lambda session: query(session.connection))

    def write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Execute statements in one transaction.

        Raises:
            Unavailable: ``DiskFull``, ``DiskReadOnly``, ``DiskError``, ``StoreBusy``; nothing was written.
            Refused: ``StoreNewer``.
        """

        def work(session: _Session) -> None:
            if session.obstacle is not None:
                raise _again(session.obstacle)
            with _transaction(session.connection):
                for statement, values in statements:
                    session.connection.execute(statement, values)

        try:
            self._attempt(work)
        except Unavailable as error:
            self._trouble = error
            raise
        self._trouble = None

    def trouble(self) -> Unavailable | None:
        """Why the last write failed, or why none can succeed; None when all is well."""
        session = self._session
        return session.obstacle if session is not None and session.obstacle is not None else self._trouble

    def copies(self) -> list[Path]:
        """Damaged files that were moved aside and that nobody has removed yet, oldest first."""
        try:
            found = self.path.parent.glob(f"{self.path.name}.damaged-*")
            return sorted(copy for copy in found if not copy.name.endswith("-wal"))
        except OSError:
            return []

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def _attempt(self, work: Callable[[_Session], T]) -> T:
        """Do it; when the file turns out to be damaged, once more on a fresh one."""
        with self._lock:
            for _ in range(2):
                session = self._opened()
                try:
                    return work(session)
                except sqlite3.Error as error:
                    if _is_damage(error):
                        self.close()
                        self._set_aside(session.file, "is damaged")
                        continue
                    if _code(error) not in {*_BUSY, sqlite3.SQLITE_FULL}:
                        self.close()
                    raise self._explained(error) from error
            raise self._hopeless()

    def _opened(self) -> _Session:
        session = self._session
        if session is not None and session.obstacle is None and session.file == _identity(self.path):
            return session
        # Not open yet; or there was no room; or somebody moved the file.
        self.close()
        self.generation += 1
        self._session = self._open()
        return self._session

    def _open(self) -> _Session:
        for _ in range(3):
            file = _identity(self.path)
            try:
                if file is None:
                    self._create()
                return self._attach()
            except _Damaged as error:
                self._set_aside(file, str(error))
            except (sqlite3.Error, OSError) as error:
                if not _is_damage(error):
                    return self._attach_for_reading(self._explained(error))
                self._set_aside(file, "is damaged")
        raise self._hopeless()

    def _attach(self) -> _Session:
        lease = self._lease(fcntl.LOCK_SH)
        connection = None
        try:
            file = _identity(self.path)
            _require_content(self.path)
            connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            self._check(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -512")  # KiB
            self._migrate(connection)
        except BaseException:
            if connection is not None:
                connection.close()
            os.close(lease)
            raise
        return _Session(connection, lease, file)

    def _attach_for_reading(self, obstacle: Unavailable) -> _Session:
        """What is left on a full or read-only disk. Raises the obstacle where this would tell less than there is."""
        file = _identity(self.path)
        try:
            lease = self._lease(fcntl.LOCK_SH)
        except OSError:
            raise obstacle from None
        for source in self._readable_sources(file, obstacle):
            connection = sqlite3.connect(source, uri=True, isolation_level=None, check_same_thread=False)
            try:
                if file is None:
                    self._migrate(connection)
                else:
                    self._check(connection)
                    connection = self._as_new(connection)
            except (sqlite3.Error, _Damaged):
                connection.close()
            except BaseException:
                connection.close()
                os.close(lease)
                raise
            else:
                return _Session(connection, lease, file, obstacle)
        os.close(lease)
        raise obstacle

    def _as_new(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """What an older version of us wrote, brought up to date in memory: the disk takes no writes."""
        if _pragma(connection, "user_version") == len(self._migrations):
            return connection
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            connection.backup(copy)
            self._migrate(copy)
        except BaseException:
            copy.close()
            raise
        connection.close()
        return copy

    def _readable_sources(self, file: tuple[int, int] | None, obstacle: Unavailable) -> list[str]:
        if file is None:
            return ["file::memory:"] if obstacle.reason in {"DiskFull", "DiskReadOnly"} else []
        plain = f"{self.path.absolute().as_uri()}?mode=ro"
        log = Path(f"{self.path}-wal")
        # "immutable" needs no room for the -shm file, but it does not see what is still in the write-ahead log.
        return [plain] if log.exists() and log.stat().st_size else [plain, f"{plain}&immutable=1"]

    def _create(self) -> None:
        """Let a complete, empty database appear."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA application_id = {self._application}")
                self._migrate(connection)
            with self._alone():
                if not os.path.lexists(self.path):
                    # Of a database that somebody removed: SQLite would replay it into this one.
                    for suffix in ("-wal", "-shm"):
                        Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                    fresh.rename(self.path)
                    disk.sync_directory(self.path.parent)
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{fresh}{suffix}").unlink(missing_ok=True)

    def _set_aside(self, file: tuple[int, int] | None, why: str) -> None:
        """Move the damaged file away, if it is still the one that was found damaged."""
        try:
            with self._alone():
                if _identity(self.path) != file:
                    return
                now = time.time_ns()
                moment = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now // 10**9))}.{now % 10**9:09}Z"
                copy = self.path.with_name(f"{self.path.name}.damaged-{moment}")
                self.path.rename(copy)
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}-wal").rename(f"{copy}-wal")
                Path(f"{self.path}-shm").unlink(missing_ok=True)
                for old in self.copies()[:-_COPIES]:
                    for suffix in ("", "-wal"):
                        with contextlib.suppress(OSError):  # a directory stays
                            Path(f"{old}{suffix}").unlink()
        except OSError as error:
            raise disk.unavailable(error, self.path, f"{self._what} {why} and cannot be moved aside") from error

    def _check(self, connection: sqlite3.Connection) -> None:
        if _pragma(connection, "application_id") != self._application:
            raise _Damaged("is a database of something else")
        version = _pragma(connection, "user_version")
        if version > len(self._migrations):
            raise Refused(
                f"{self._what} {self.path} was written by a newer version of reconciler (schema {version}; this one "
                f"knows {len(self._migrations)})",
                reason="StoreNewer",
                remedy=f"Install that version again, or give up what is in it: `mv {self.path} {self.path}.newer`",
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _Damaged("is damaged")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if _pragma(connection, "user_version") == len(self._migrations):
            return
        with _transaction(connection):
            # Asked again: another process may have been faster.
            for number in range(_pragma(connection, "user_version"), len(self._migrations)):
                for statement in self._migrations[number].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process has the file open."""
        lease = self._lease(fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lease)

    def _lease(self, kind: int) -> int:
        descriptor = self._open_lock()
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(descriptor)
                raise Unavailable(
                    f"{self._what} {self.path} is missing or damaged, and another process still has it open",
                    reason="StoreBusy",
                    remedy="The agent replaces it in its next cycle; if it does not: `systemctl restart reconciler`",
                ) from None
            return descriptor

    def _open_lock(self) -> int:
        try:
            return os.open(f"{self.path}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.ENOSPC, errno.EDQUOT}:
                raise
            # The disk was like this before there was a lock file. Others can lock a directory too, but reading goes on.
            return os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _explained(self, error: sqlite3.Error | OSError) -> Unavailable:
        what = f"{self._what} cannot be used"
        if isinstance(error, OSError):
            return disk.unavailable(error, self.path, what)
        if _code(error) in _BUSY:
            return Unavailable(
                f"{what}: another process has held {self.path} for more than {_PATIENCE:g} s",
                reason="StoreBusy",
                remedy=f"See which one: `fuser -v {self.path}`",
            )
        return disk.unavailable(_system_error(error, self.path), self.path, what)

    def _hopeless(self) -> Unavailable:
        return Unavailable(
            f"{self._what} {self.path} is damaged again as soon as it is made",
            reason="DiskError",
            remedy="Look for disk errors in `dmesg`",
        )


def _again(error: Unavailable) -> Unavailable:
    # An exception that is raised again and again grows by a traceback each time.
    return Unavailable(error.message, reason=error.reason, remedy=error.remedy)


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise _Damaged("is not a file")
    if not path.stat().st_size:
        raise _Damaged("is empty")  # `_create` lets only complete files appear


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116  (asked in every cycle; pathlib is slower)
    except FileNotFoundError:
        return None
    except OSError:
        return (0, 0)  # there, but out of reach: opening it will say why
    return status.st_dev, status.st_ino


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_damage(error: Exception) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and _code(error) in _DAMAGE


def _system_error(error: sqlite3.Error, path: Path) -> OSError:
    """The operating system's error behind SQLite's, which does not tell it."""
    try:
        status = os.statvfs(path.parent)
    except OSError as unreachable:
        return unreachable
    if status.f_flag & os.ST_RDONLY:
        return OSError(errno.EROFS, str(error))
    if _code(error) == sqlite3.SQLITE_FULL or not status.f_bavail or (status.f_files and not status.f_favail):
        return OSError(errno.ENOSPC, str(error))
    return OSError(errno.EIO, str(error))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")
        raise
