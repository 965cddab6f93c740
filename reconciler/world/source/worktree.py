"""``WorktreeSource``: a directory that a person edits, as a source of revisions (``reconciler run --worktree PATH``).

Every fetch that finds a change makes a commit of the directory in our own mirror, so that history, ``why`` and the
rollback path work as for any other source. Git's ignore rules hold. The person's own repository, where the directory
is one, is read for its HEAD and otherwise left alone: objects, index and refs are ours.
"""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler import process
from reconciler.core.model import Commit
from reconciler.errors import Unavailable
from reconciler.world.source.diagnosis import gist
from reconciler.world.source.files import GitTree
from reconciler.world.source.making import beside, create, salvage, write_pending
from reconciler.world.source.mirror import Mirror
from reconciler.world.source.reader import MirrorDamaged
from reconciler.world.source.remote import environment

log = logging.getLogger(__name__)

_REF = "worktree"
_TIMEOUT = 60.0  # seconds for one local git command; a large directory on a slow disk


@dataclass(frozen=True, slots=True)
class _Head:
    """What the person's own repository says; empty where there is none."""

    author: str = ""
    subject: str = ""
    short: str = ""
    tree: str = ""


class WorktreeSource:
    """Snapshots of a directory, uncommitted edits included.

    Args:
        path: The directory.
        directory: The sub-directory of it that holds the manifests; ``.`` for all.
        mirror: Where our bare mirror is; made when it is first needed.
    """

    def __init__(self, path: Path, directory: str, mirror: Path) -> None:
        self._path = path.absolute()
        self._mirror = Mirror(mirror.absolute(), directory, _TIMEOUT)

    def fetch(self) -> Commit:
        """Snapshot the directory if it changed.

        Raises:
            Unavailable: The directory is not there or not readable.
        """
        self._mirror.rest()
        try:
            if self._mirror.damaged is not None:
                raise self._mirror.damaged
            return self._snapshot()
        except MirrorDamaged as damage:
            log.warning("%s; it is made anew, without the older snapshots", damage.message)
            new = beside(self._mirror.path, "new")
            create(new, _TIMEOUT)
            # The mirror may be shared with a GitSource, for which this is not to be lost.
            known = salvage(self._mirror.path)
            write_pending(new, {name: sha for name, sha in known.items() if name.startswith("trusted/")})
            self._mirror.replace(new)
        return self._snapshot()

    def trusted(self) -> Commit | None:
        """The last snapshot; None before the first."""
        return self._mirror.at(_REF)

    def accept(self, revision: str) -> Commit:
        """A person's own directory needs nobody's trust; the revision is only looked up."""
        return self._mirror.commit(self._mirror.resolve(revision))

    def commit(self, revision: str) -> Commit:
        """A commit of the mirror; InvalidInput for an unknown one."""
        return self._mirror.commit(revision)

    def tree(self, revision: str) -> GitTree:
        """The files of a snapshot below the configured directory."""
        return self._mirror.tree(revision)

    def close(self) -> None:
        """End the processes that reading left behind."""
        self._mirror.close()

    def _snapshot(self) -> Commit:
        if not self._path.is_dir():
            raise Unavailable(
                f"there is no directory {self._path}",
                reason="WorktreeMissing",
                remedy="Name the directory of your config repository after --worktree",
            )
        self._mirror.ensure()
        tree = self._write_tree()
        last = self._mirror.at(_REF)
        if last is not None and self._mirror.must("rev-parse", "--verify", f"{last.sha}^{{tree}}") == tree:
            return last
        sha = self._commit(tree, last.sha if last else None)
        self._mirror.set_ref(_REF, sha, last.sha if last else None)
        self._mirror.run("gc", "--auto", "--quiet")  # months of edits are not to stay loose objects
        return self._mirror.commit(sha)

    def _write_tree(self) -> str:
        # The index is kept between fetches for its cache of file times: an unchanged directory is not read again.
        index = self._mirror.path / "worktree.index"
        extra = {"GIT_WORK_TREE": str(self._path), "GIT_INDEX_FILE": str(index)}
        add = (*self._excludes(), "add", "--all", "--", ".", *self._not_ours())
        done = self._mirror.run("-C", str(self._path), *add, extra=extra)
        if done.code != 0 and index.exists():  # a damaged index; or a file that vanished, which is gone the second time
            index.unlink()
            done = self._mirror.run("-C", str(self._path), *add, extra=extra)
        if done.code != 0:
            if not self._mirror.sound():
                raise self._mirror.report(gist(done.stderr))
            # Before its last word, "adding files failed", git names the file.
            files = "\n".join(line for line in done.stderr.splitlines() if line.startswith("error:"))
            raise Unavailable(
                f"cannot take a snapshot of {self._path}: {gist(files or done.stderr)}",
                reason="WorktreeUnreadable",
                remedy="Make the file readable, or name it in .gitignore",
            )
        return self._mirror.must("write-tree", extra=extra)

    def _excludes(self) -> tuple[str, ...]:
        exclude = self._path / ".git" / "info" / "exclude"
        return ("-c", f"core.excludesFile={exclude}") if exclude.is_file() else ()

    def _not_ours(self) -> tuple[str, ...]:
        # State kept inside the directory would be a change that each snapshot makes itself.
        state = self._mirror.path.parent
        ours = self._mirror.path if state == self._path else state
        if not ours.is_relative_to(self._path) or ours == self._path:
            return ()
        pattern = ours.relative_to(self._path).as_posix()
        return tuple(f":(exclude,literal){pattern}{suffix}" for suffix in ("", ".new", ".damaged"))

    def _commit(self, tree: str, last: str | None) -> str:
        head = self._head()
        if head.tree == tree:
            subject = head.subject
        elif head.short:
            subject = f"working tree of {self._path} (uncommitted changes on {head.short})"
        else:
            subject = f"working tree of {self._path}"
        who = head.author or _owner(self._path)
        extra = {
            "GIT_AUTHOR_NAME": who,
            "GIT_AUTHOR_EMAIL": "worktree",
            "GIT_COMMITTER_NAME": "reconciler",
            "GIT_COMMITTER_EMAIL": "reconciler",
        }
        parents = () if last is None else ("-p", last)
        return self._mirror.must("commit-tree", tree, *parents, "-m", subject, extra=extra)

    def _head(self) -> _Head:
        said = self._ask("log", "-1", "--no-show-signature", "--no-patch", "--format=%an%x00%s%x00%h")
        if said.count("\0") != 2:  # noqa: PLR2004  (the three fields of the format)
            return _Head()
        author, subject, short = said.split("\0")
        return _Head(author, subject, short, self._ask("rev-parse", "--verify", "HEAD:./"))

    def _ask(self, *arguments: str) -> str:
        """What the person's repository answers; it is named by that person, and may belong to another user than us."""
        given: Mapping[str, str] = {**environment("none", [("safe.directory", "*")]), "GIT_OPTIONAL_LOCKS": "0"}
        done = process.run(["git", "-C", str(self._path), *arguments], timeout=_TIMEOUT, environment=given)
        return done.stdout.decode(errors="replace").strip() if done.code == 0 else ""


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return os.environ.get("USER", str(uid))
