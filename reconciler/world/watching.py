"""File changes wake the loop: the config repository's refs, or the directory that a person edits.

Any event means "look again" and nothing more: a checkout of twenty files arrives as deletions and additions in any
order. The poll stays the safety net, so a watcher that cannot watch says so and tries again; it never ends the agent.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

_LOOK = 1_000
"""Milliseconds between two looks whether a watched directory was replaced: inotify stays with the old one."""
_BURST = 100
"""Milliseconds without a change that end a burst, such as a checkout of many files."""
_ATOMIC = 5
"""The same where each change stands alone."""
_STEP = 200
"""Milliseconds between two questions in quiet times. They cost 0.03 s of CPU a minute (at 100: 0.07)."""
_LIVELY = 60.0
"""Seconds after a change in which the questions may come faster: somebody is at work."""
_LONGEST_BURST = 1_600
"""Milliseconds after which even a burst without end is told."""
_AGAIN = 10.0
"""Seconds until a watcher that failed tries again."""

_DELETED = 3  # watchfiles.Change.deleted, without what that package imports
_Identity = tuple[int, int] | None


class Watcher:
    """A thread that calls ``wake`` soon after something below ``paths`` changed.

    Args:
        paths: Directories are watched as a whole, but for ``.git`` in them; for a file its directory is watched.
            What does not exist yet is watched once it does.
        wake: Called in the watcher's thread with a reason for the log.
        ignore: Directories whose changes do not count, such as our own state.
    """

    _burst = _BURST
    _litter: tuple[str, ...] = ()
    """Endings of file names whose changes say nothing."""

    def __init__(self, paths: Sequence[Path], wake: Callable[[str], None], ignore: Sequence[Path] = ()) -> None:
        self._paths = tuple(path.absolute() for path in paths)
        self._wake = wake
        self._ignore = tuple(path.absolute() for path in ignore)
        self._lively_until = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault = ""

    def start(self) -> None:
        """Begin to watch."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; takes some tenths of a second."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        before: dict[Path, _Identity] | None = None
        while not self._stop.is_set():
            identities = {path: _identity(path) for path in self._paths}
            if before is not None and identities != before:
                self._tell(path for path in self._paths if identities[path] != before[path])
            before = identities
            try:
                self._watch(identities)
                self._fault = ""
            except (OSError, RuntimeError) as error:
                # Most often fs.inotify.max_user_watches. Said once, for it will not go away by itself.
                if self._fault != str(error):
                    self._fault = str(error)
                    log.warning("cannot watch %s, the poll goes on: %s", ", ".join(map(str, self._paths)), error)
                self._stop.wait(_AGAIN)

    def _watch(self, identities: dict[Path, _Identity]) -> None:
        """Watch until told to stop, or until one of the paths is another one than it was."""
        # Only a local repository is watched; most agents need none of it. Its backend, because that takes another
        # step at each call, and does not forget what happens in between.
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415

        roots = {path if path.is_dir() else path.parent for path, identity in identities.items() if identity}
        if not roots:
            self._stop.wait(_LOOK / 1000)
            return
        with RustNotify([str(root) for root in roots], False, False, 0, True, False) as watched:
            while not self._stop.is_set():
                lively = time.monotonic() < self._lively_until
                step = self._burst if lively else max(self._burst, _STEP)
                batch = watched.watch(_LONGEST_BURST, step, _LOOK, self._stop)
                changes = batch if isinstance(batch, set) else set()
                self._tell(path for path in sorted({Path(name) for _, name in changes}) if self._counts(path))
                # One that is made anew at once often has the same inode, but nobody watches it.
                gone = any(kind == _DELETED and Path(name) in roots for kind, name in changes)
                if gone or {path: _identity(path) for path in self._paths} != identities:
                    return

    def _counts(self, changed: Path) -> bool:
        if changed.name.endswith(self._litter) or any(changed.is_relative_to(directory) for directory in self._ignore):
            return False
        for path in self._paths:
            if changed == path or (changed.is_relative_to(path) and ".git" not in changed.relative_to(path).parts):
                return True
        return False

    def _tell(self, changed: Iterable[Path]) -> None:
        names = [str(path) for path in changed]
        if names:
            self._lively_until = time.monotonic() + _LIVELY
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._wake(f"{names[0]}{more} changed")


class RefsWatcher(Watcher):
    """Watches Git's refs, each of which changes at once, when its lock takes its place."""

    _burst = _ATOMIC
    _litter = (".lock",)  # no ref may be called so


def refs_of(url: str) -> tuple[Path, ...]:
    """What to watch so that a commit to the repository at ``url`` is seen at once; nothing for a remote one."""
    path = Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
    if not path.exists():
        return ()
    directory = _git_directory(path)
    return tuple(part for part in (directory / "refs", directory / "reftable") if part.is_dir())


def _git_directory(path: Path) -> Path:
    inside = path / ".git"
    if inside.is_dir():
        return inside
    if not inside.is_file():
        return path
    # A linked worktree: its own directory is named in the file, and that one names the shared refs' directory.
    own = path / inside.read_text(errors="replace").removeprefix("gitdir:").strip()
    common = own / "commondir"
    return own / common.read_text().strip() if common.is_file() else own


def _identity(path: Path) -> _Identity:
    try:
        found = os.stat(path)  # noqa: PTH116  (Path.stat is the same, and slower at once a second for ever)
    except OSError:
        return None
    # A file is replaced at every save; its directory's watch sees that. Only a directory must stay the same one.
    return (found.st_dev, found.st_ino) if path.is_dir() else (0, 0)
