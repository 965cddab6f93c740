"""Reads the mirror through GitPython: refs, commits and blobs, one at a time, through one long-lived ``cat-file``.

GitPython is imported where it is used: 90 ms and 13 MB that ``validate`` does not need.
"""

from __future__ import annotations

import configparser
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reconciler.core.model import Commit
from reconciler.errors import Unavailable
from reconciler.world.source.remote import environment

if TYPE_CHECKING:
    import git

T = TypeVar("T")

SHA = re.compile(r"[0-9a-f]{40}\Z")
_MISSING = re.compile(r"[0-9a-f]{40} missing")  # cat-file's answer, as GitPython hands it on


class MirrorDamaged(Unavailable):
    """The mirror itself cannot be read. It is a copy: ``fetch`` makes it anew as soon as the remote answers."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the mirror {path} is damaged: {what}",
            reason="MirrorDamaged",
            remedy="It is made anew as soon as the remote answers; check the disk if this happens again",
        )


class Reader:
    """One open repository. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.damaged: MirrorDamaged | None = None
        """Set when a read failed; whoever can make the mirror anew looks here."""
        self.lock = threading.RLock()
        self._path = path
        self._repo: git.Repo | None = None

    def report(self, what: str) -> MirrorDamaged:
        """Remember that the mirror is damaged."""
        self.damaged = MirrorDamaged(self._path, what)
        return self.damaged

    def rest(self) -> None:
        """End the processes that reading left behind; the next read starts one again."""
        with self.lock:
            if self._repo is not None:
                self._repo.git.clear_cache()

    def close(self) -> None:
        """Let go of all processes and files; the next read opens them again."""
        with self.lock:
            if self._repo is not None:
                self._repo.close()
                self._repo = None

    def ref(self, name: str) -> str | None:
        """Where a ref points to; None when there is none. No process."""
        if not self._path.exists():
            return None
        sha = self._dereferenced(name)
        if sha is None and (self._path / name).exists():
            sha = self._dereferenced(name)  # it may have come at this very moment
            if sha is None:
                raise self.report(f"the ref {name} is not readable")
        if sha is not None and not SHA.match(sha):
            raise self.report(f"the ref {name} holds no revision")
        return sha

    def _dereferenced(self, name: str) -> str | None:
        import git  # noqa: PLC0415  (see the module's docstring)

        with self.lock:
            repo = self._open()
            try:
                return str(git.SymbolicReference.dereference_recursive(repo, name))
            except (ValueError, OSError, TypeError):
                return None

    def contains(self, sha: str) -> bool:
        """The mirror has this object."""
        try:
            self._read(lambda repo: repo.git.get_object_data(sha))  # as all reads: the header is another process
        except KeyError:
            return False
        return True

    def commit(self, sha: str) -> Commit:
        """A commit; KeyError when there is none."""
        return self._read(lambda repo: _commit(repo, sha))

    def parents(self, sha: str) -> tuple[str, ...]:
        """The ids of a commit's parents; KeyError when there is no such commit."""
        return self._read(lambda repo: _parents(repo, sha))

    def blob(self, sha: str) -> bytes:
        """The bytes of a blob that a tree names."""
        try:
            return self._read(lambda repo: bytes(repo.git.get_object_data(sha)[3]))
        except KeyError as error:
            raise self.report(f"the object {sha} is missing") from error

    def _open(self) -> git.Repo:
        if self._repo is None:
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a missing git is an error of the call, not of import
            import git  # noqa: PLC0415  (see the module's docstring)

            try:
                repo = git.Repo(self._path)
            except (
                git.InvalidGitRepositoryError,
                git.NoSuchPathError,
                configparser.Error,
                OSError,
                ValueError,
            ) as error:
                raise self.report("it is no longer a Git repository") from error
            # GitPython's children inherit our environment: when a person calls us from a hook, git must not
            # mistake that hook's repository for ours.
            repo.git.update_environment(
                **environment(),
                GIT_DIR=str(self._path),
                GIT_COMMON_DIR=str(self._path),
                GIT_OBJECT_DIRECTORY=str(self._path / "objects"),
                GIT_ALTERNATE_OBJECT_DIRECTORIES="",
            )
            self._repo = repo
        return self._repo

    def _read(self, ask: Callable[[git.Repo], T]) -> T:
        """Ask the long-lived ``cat-file``; once more with a fresh one, for the old may have been killed.

        Raises:
            KeyError: There is no such object.
        """
        failure: Exception = ValueError()
        for _ in range(2):
            with self.lock:
                repo = self._open()
                import git  # noqa: PLC0415  (see the module's docstring)

                try:
                    return ask(repo)
                except git.GitCommandNotFound as error:
                    raise Unavailable("the command 'git' is not installed", reason="CommandMissing") from error
                except (ValueError, OSError, EOFError) as error:
                    if _MISSING.search(str(error)):
                        raise KeyError from error
                    failure = error
                    repo.git.clear_cache()
        raise self.report("git cannot read an object") from failure


def _commit(repo: git.Repo, sha: str) -> Commit:
    import git  # noqa: PLC0415  (see the module's docstring)

    # Not the header alone: that would be another process beside the one that reads the commit.
    if repo.odb.stream(bytes.fromhex(sha)).type != b"commit":
        raise KeyError(sha)
    found = git.Commit(repo, bytes.fromhex(sha))
    return Commit(
        sha=sha,
        author=_line(str(found.author.name or found.author.email or "unknown"), 80),
        subject=_line(str(found.summary), 200),
        committed_at=float(found.committed_date),
    )


def _parents(repo: git.Repo, sha: str) -> tuple[str, ...]:
    import git  # noqa: PLC0415  (see the module's docstring)

    return tuple(parent.hexsha for parent in git.Commit(repo, bytes.fromhex(sha)).parents)


def _line(text: str, longest: int) -> str:
    """What a stranger wrote, fit for a terminal and a log: one line, no escape sequences."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:longest]
