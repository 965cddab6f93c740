"""Our bare mirror of the config repository: commits, trees and blobs, read without a checkout.

Refs, all under ``refs/reconciler/``: ``seen/BRANCH`` is where the remote's branch was last, ``trusted/BRANCH`` the last
tip that we followed, ``kept/SHA`` a tip that a rewrite left behind, ``worktree`` the last snapshot of a directory.
Nothing is ever pruned, so that every revision that was once applied can be read again.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from reconciler import process
from reconciler.core.model import Commit, Entry
from reconciler.errors import InvalidInput, InvalidSettings, Unavailable
from reconciler.world.source.diagnosis import disk_trouble, gist
from reconciler.world.source.files import GitTree, listed
from reconciler.world.source.making import (
    REFS,
    beside,
    complete,
    create,
    private,
    read_pending,
    write_pending,
    writing,
)
from reconciler.world.source.reader import SHA, MirrorDamaged, Reader
from reconciler.world.source.remote import environment

log = logging.getLogger(__name__)
T = TypeVar("T")

_TREES_KEPT = 32
_COMMITS_KEPT = 256
_STALE_LOCK = 60.0
_ABBREVIATED = re.compile(r"[0-9a-f]{4,40}\Z")


class Mirror:
    """A bare repository that is ours alone. Safe to read from several threads; one thread fetches.

    Args:
        path: The bare repository; made when it is first needed.
        directory: The sub-directory that holds the manifests; ``.`` for all.
        timeout: Seconds for one git command.
    """

    def __init__(self, path: Path, directory: str = ".", timeout: float = 60.0) -> None:
        self.path = path
        self._directory = _checked(directory)
        self._timeout = timeout
        self._reader = Reader(path)
        self._lock = self._reader.lock
        self._trees: OrderedDict[str, GitTree] = OrderedDict()
        self._commits: OrderedDict[str, Commit] = OrderedDict()

    # --- the repository itself ---

    def exists(self) -> bool:
        """There is a mirror, whole or not."""
        return self.path.exists()

    def ensure(self) -> None:
        """Make the mirror where there is none; a crash in the middle leaves none."""
        if self.path.exists():
            private(self.path)
            return
        with writing(self.path):
            new = beside(self.path, "new")
            if not complete(new):  # else we were ended between the two renames of ``replace``
                create(new, self._timeout)
            new.rename(self.path)

    def replace(self, new: Path) -> None:
        """Put a bare repository in the mirror's place; the old one stays beside it for whoever wants to look."""
        with self._lock, writing(self.path):
            self.close()
            aside = beside(self.path, "damaged")
            shutil.rmtree(aside, ignore_errors=True)
            if self.path.exists():
                self.path.rename(aside)
                private(aside)
            new.rename(self.path)
            self._trees.clear()
            self._commits.clear()
            self.absolve()

    @property
    def damaged(self) -> MirrorDamaged | None:
        """What a read found wrong, until the mirror is replaced."""
        return self._reader.damaged

    def report(self, what: str) -> MirrorDamaged:
        """Remember that the mirror is damaged."""
        return self._reader.report(what)

    def absolve(self) -> None:
        """The damage that was reported is none."""
        self._reader.damaged = None

    def contains(self, sha: str) -> bool:
        """The mirror has this object."""
        return self._reader.contains(sha)

    def rest(self) -> None:
        """End the processes that reading left behind; the next read starts one again."""
        self._reader.rest()

    def close(self) -> None:
        """Let go of all processes and files. The mirror can still be used."""
        self._reader.close()

    def run(self, *arguments: str, stdin: bytes = b"", extra: Mapping[str, str] | None = None) -> process.Completed:
        """Run a git command on the mirror; it may talk to nobody.

        Raises:
            Unavailable: It took too long, or lacked room or permission. Other failures are the caller's to judge.
        """
        given = {**environment(), "GIT_DIR": str(self.path), **(extra or {})}
        done = process.run(["git", *arguments], timeout=self._timeout, environment=given, stdin=stdin)
        if done.code != 0 and (trouble := disk_trouble(done.stderr, self.path)):
            raise trouble
        return done

    def must(self, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
        """Run a git command that can only fail on a damaged mirror, and return what it printed."""
        done = self.run(*arguments, extra=extra)
        if done.code != 0:
            raise self.report(gist(done.stderr))
        return done.stdout.decode(errors="replace").strip()

    def sound(self) -> bool:
        """All that our refs need is there. Slow: for when something has failed already."""
        return self.run("fsck", "--connectivity-only", "--no-dangling", "--no-progress").code == 0

    def sweep(self) -> None:
        """Remove what commands that were killed left behind: locks that bar the next one, half a pack of any size."""
        before = time.time() - max(_STALE_LOCK, 2 * self._timeout)
        litter = ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/pack/*.lock", "objects/??/tmp_obj_*")
        for path in (path for pattern in litter for path in self.path.glob(pattern)):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    log.warning("removed %s, which a git command that was killed left behind", path)

    # --- refs ---

    def ref(self, name: str) -> str | None:
        """Where one of our refs points to; None when there is none. No process."""
        return self._reader.ref(REFS + name)

    def at(self, name: str) -> Commit | None:
        """The commit that one of our refs points to; None when there is no such ref."""
        sha = self.ref(name)
        try:
            return None if sha is None else self.commit(sha)
        except InvalidInput as error:
            raise self.report(f"the commit {sha} of {REFS + name} is missing") from error

    def set_ref(self, name: str, new: str, old: str | None) -> None:
        """Move one of our refs, if it is still where we saw it."""
        done = self.run("update-ref", REFS + name, new, old or "0" * 40)
        if done.code == 0:
            return
        if "but expected" in done.stderr or "already exists" in done.stderr or ".lock" in done.stderr:
            self.sweep()
            raise Unavailable(f"another process moved {REFS + name} at the same moment", reason="MirrorBusy")
        raise self.report(gist(done.stderr))

    def pending(self) -> Mapping[str, str]:
        """Refs that a damaged mirror had and this one has no commits for."""
        return read_pending(self.path)

    def settle(self, name: str) -> None:
        """Forget a pending ref: it has been set, or a person decided."""
        pending = self.pending()
        if name in pending:
            write_pending(self.path, {ref: sha for ref, sha in pending.items() if ref != name})

    # --- history ---

    def descends(self, new: str, old: str) -> bool:
        """``old`` is ``new`` or one of its ancestors."""
        try:
            if old in self._reader.parents(new):  # as it mostly is, and no process has to find out
                return True
        except KeyError:
            raise self.report(f"the commit {new} is missing") from None
        done = self.run("merge-base", "--is-ancestor", old, new)
        if done.code not in {0, 1}:
            raise self.report(gist(done.stderr))
        return done.code == 0

    def resolve(self, revision: str) -> str:
        """The full id of a commit that a person named by its first digits.

        Raises:
            InvalidInput: It is unknown, ambiguous, or no revision at all.
        """
        digits = revision.strip().lower()
        if not _ABBREVIATED.match(digits):
            raise InvalidInput(
                f"{revision!r} is not a revision",
                reason="UnknownRevision",
                remedy="Give at least the first four hexadecimal digits of a commit's id",
            )
        self.ensure()
        done = self.run("rev-parse", "--verify", "--end-of-options", digits + "^{commit}")
        if done.code == 0:
            return done.stdout.decode().strip()
        if "ambiguous" in done.stderr:
            raise InvalidInput(
                f"{revision} stands for several revisions", reason="UnknownRevision", remedy="Give more digits"
            )
        raise _unknown(revision)

    def commit(self, revision: str) -> Commit:
        """A commit of the mirror, cached.

        Raises:
            InvalidInput: It is unknown.
        """
        with self._lock:
            if revision in self._commits:
                return self._commits[revision]
        sha = revision if SHA.match(revision) else self.resolve(revision)
        try:
            commit = self._reader.commit(sha)
        except KeyError:
            raise _unknown(revision) from None
        with self._lock:
            _remember(self._commits, sha, commit, _COMMITS_KEPT)
        return commit

    # --- files ---

    def tree(self, revision: str) -> GitTree:
        """The files of a revision below the directory; the same object for the same revision while it is cached.

        Raises:
            InvalidInput: The revision is unknown, or has no such directory.
        """
        sha = self.commit(revision).sha
        with self._lock:  # while git lists, too: the mirror must not be replaced under it
            tree = self._trees.get(sha)
            if tree is None:
                tree = GitTree(self._reader.blob, self._list(sha))
            _remember(self._trees, sha, tree, _TREES_KEPT)
            return tree

    def drawn(self, tree: str, objects: Mapping[str, str]) -> GitTree:
        """The files of a tree that no commit has; ``objects`` are the variables that say where git finds it."""
        with self._lock:
            return GitTree(self._reader.blob, self._list(tree, objects))

    def _list(self, sha: str, objects: Mapping[str, str] | None = None) -> dict[str, Entry]:
        below = f"{sha}:{self._directory}" if self._directory else sha
        done = self.run("ls-tree", "-r", "-l", "-z", below, extra=objects)
        if done.code != 0:
            if self._directory and self.run("ls-tree", sha).code == 0:
                raise InvalidInput(
                    f"revision {sha[:8]} has no directory {self._directory!r}",
                    reason="DirectoryMissing",
                    remedy="Commit it, or change repository.directory in the agent's settings",
                )
            raise self.report(gist(done.stderr))
        try:
            return listed(done.stdout, self._reader.blob)
        except ValueError as error:
            raise self.report(f"the object {error} is missing") from error


def _checked(directory: str) -> str:
    parts = [part for part in PurePosixPath(directory).parts if part != "."]
    if directory.startswith("/") or ".." in parts or not directory.isprintable():
        raise InvalidSettings(
            f"repository.directory: {directory!r} does not lie in the repository",
            reason="InvalidDirectory",
            remedy="Write a path relative to the repository's root, such as hosts/web",
        )
    return "/".join(parts)


def _remember(cache: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)


def _unknown(revision: str) -> InvalidInput:
    return InvalidInput(
        f"the mirror has no revision {revision}",
        reason="UnknownRevision",
        remedy="Look for typing errors; a revision is known once the agent has fetched it",
    )
