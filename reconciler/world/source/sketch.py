"""A tree on paper: a revision with some of its files as another one had them.

Index and new objects are in a temporary directory, so that whoever only asks (``--dry-run``, a clone that is not clean,
the agent's own mirror) finds nothing changed afterwards, not even an object more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.core.model import Commit
from reconciler.errors import Unavailable
from reconciler.world.source.diagnosis import gist
from reconciler.world.source.files import GitTree
from reconciler.world.source.mirror import Mirror

Item = tuple[str, str]
"""Mode and object id, as ``git ls-tree`` prints them."""

_SEEN = 100  # changes of a folder that are looked through for the version before


class Sketch:
    """One tree on paper, and what Git knows about the way to it. Use it in a ``with``.

    Args:
        mirror: A repository, bare or not; only its objects and refs are read.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._room = tempfile.TemporaryDirectory(prefix="reconciler-")
        room, objects = Path(self._room.name), mirror.path / "objects"
        (room / "objects").mkdir()
        self._index = {"GIT_INDEX_FILE": str(room / "index")}
        self._paper = {
            **self._index,
            "GIT_OBJECT_DIRECTORY": str(room / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(objects),
        }
        self._tree = ""
        self._listings: dict[str, dict[str, Item]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.cleanup()

    def listing(self, revision: str) -> Mapping[str, Item]:
        """Path from the repository's root -> mode and object id, of all in a revision. Odd bytes stay themselves."""
        if revision not in self._listings:
            done = self._must("ls-tree", "-r", "-z", "--full-tree", revision)
            lines = [line.partition("\t") for line in done.decode("utf-8", "surrogateescape").split("\0") if line]
            self._listings[revision] = {path: _item(facts) for facts, _, path in lines}
        return self._listings[revision]

    def draw(self, base: str, changes: Mapping[str, Item | None]) -> GitTree:
        """The files of ``base`` with these changes; None removes one."""
        self._must("read-tree", base, extra=self._paper)
        # What goes comes first: a file may take a folder's place.
        lines = [f"0 {'0' * 40}\t{path}\0" for path, item in changes.items() if item is None]
        lines += [f"{item[0]} {item[1]}\t{path}\0" for path, item in changes.items() if item is not None]
        text = "".join(lines).encode("utf-8", "surrogateescape")
        self._must("update-index", "--add", "--replace", "-z", "--index-info", extra=self._paper, stdin=text)
        self._tree = self._must("write-tree", extra=self._paper).decode().strip()
        return self._mirror.drawn(self._tree, self._paper)

    def diff(self, base: str) -> str:
        """From ``base`` to what was drawn, as a patch."""
        plain = ("-r", "-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv")
        return self._must("diff-tree", *plain, base, self._tree, extra=self._paper).decode("utf-8", "replace")

    def keep(self) -> str:
        """Write what was drawn into the repository itself; its id. Without a commit nobody sees it there."""
        return self._must("write-tree", extra=self._index).decode().strip()

    # --- the way to it ---

    def commits(self, old: str, new: str, pathspecs: Sequence[str], most: int) -> list[Commit]:
        """What touches these paths on the first parents' line of ``new``, and ``old`` does not have; newest first."""
        return [self._mirror.commit(sha) for sha in self._log(f"{old}..{new}", pathspecs, most)]

    def changes(self, tip: str, pathspecs: Sequence[str]) -> list[str]:
        """The commits that changed these paths, newest first, on the line that hosts have followed.

        A merge is one change, and what was merged is not: no host ever was in the middle of a branch.
        """
        return self._log(tip, pathspecs, _SEEN)

    def parent(self, revision: str) -> str | None:
        """The first parent; None before the first commit, and where a shallow clone ends."""
        done = self._mirror.run("rev-parse", "--verify", "--quiet", f"{revision}^1^{{commit}}")
        return done.stdout.decode().strip() if done.code == 0 else None

    def is_ancestor(self, old: str, new: str) -> bool:
        """``old`` is ``new`` or came before it."""
        return self._mirror.run("merge-base", "--is-ancestor", old, new).code == 0

    def _log(self, revisions: str, pathspecs: Sequence[str], most: int) -> list[str]:
        asked = (
            "--first-parent",
            "--no-follow",
            "--no-show-signature",
            "--format=%H",
            f"--max-count={most}",
            revisions,
        )
        return self._must("log", *asked, "--", *pathspecs).decode().split()

    def _must(self, *arguments: str, extra: Mapping[str, str] | None = None, stdin: bytes = b"") -> bytes:
        # A split index would leave its shared half in the repository.
        done = self._mirror.run("-c", "core.splitIndex=false", *arguments, extra=extra, stdin=stdin)
        if done.code != 0:
            raise Unavailable(
                f"git {arguments[0]} failed in {self._mirror.path}: {gist(done.stderr)}", reason="GitFailed"
            )
        return done.stdout


def _item(facts: str) -> Item:
    mode, _, sha = facts.split()
    return mode, sha


def pathspecs(places: Sequence[str], foreign: Sequence[str] = ()) -> list[str]:
    """These paths from the repository's root, taken by their letters, without those."""
    return [f":(top,literal){path}" for path in places] + [f":(top,exclude,literal){path}" for path in foreign]


def _quoted(path: Path) -> str:
    # A list with colons between; quotes as in C where the path has one itself.
    text = str(path)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if ":" in text or text.startswith('"') else text
