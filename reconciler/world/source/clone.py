"""A person's own clone of the config repository: where it stands, and how one commit gets from it to the remote.

Git runs here as that person would run it: with their name, their keys and credential helpers, their proxies, their
signing key and their pre-push hook, for it is they who push. The agent's hardened environment (``remote.py``) would
take all of it away, and has nothing to protect: it is their repository, in which they run git all day. Only variables
that lead git to another repository are taken out (we may have been called from a hook or an alias), and nobody is
asked for a password: there is no terminal. Objects are read through ``Mirror`` and ``Sketch``, which are hardened.

The commit is made beside index and work tree, pushed, and only then does the clone follow, by a fast-forward. So
whatever goes wrong before the remote has said yes, nothing has changed. Hooks of ``git commit`` do not run, as they do
not for ``git revert``: what comes back has passed them once, and a formatter is no reason to stay down.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reconciler import process
from reconciler.errors import Failed, InvalidInput, Refused, Unavailable
from reconciler.world.source.diagnosis import gist

_ELSEWHERE = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
_UNDER_WAY = {
    "MERGE_HEAD": "a merge",
    "REVERT_HEAD": "a revert",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
}
_LOCAL, _REMOTE = 60.0, 120.0  # seconds for one git command
_SHOWN = 3  # files, and lines of what a hook said


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nothing may be committed here or was pushed."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a clone stands, and where a commit would go."""

    base: str
    """The commit to build on: the remote's tip, where it answers."""
    remote: str = ""
    ref: str = ""
    """The remote's branch, as ``refs/heads/main``."""
    obstacle: Obstacle | None = None

    @property
    def branch(self) -> str:
        """The remote's branch, as people write it."""
        return self.ref.removeprefix("refs/heads/")


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone with a work tree. Make it with ``Clone.at``."""

    top: Path
    prefix: str
    """Where in it the path was that it was found by; empty at the top, else without a slash at the end."""
    git: Path
    """This work tree's own Git directory."""
    common: Path
    """The repository itself: another one than ``git`` for a linked work tree."""

    @classmethod
    def at(cls, path: Path) -> Clone | None:
        """The clone in which a directory lies; None where it lies in none.

        Raises:
            InvalidInput: It is no directory.
            Unavailable: Git will not work there, or is not installed.
        """
        if not path.is_dir():
            raise InvalidInput(f"{path} is not a directory", reason="DirectoryMissing")
        asked = ("--show-toplevel", "--git-dir", "--git-common-dir", "--show-prefix")
        done = _run(path.resolve(), "rev-parse", "--path-format=absolute", *asked)
        if done.code != 0:
            if "not a git repository" in done.stderr or "work tree" in done.stderr:
                return None
            raise Unavailable(f"git cannot work in {path}: {gist(done.stderr)}", reason="CloneUnusable")
        top, git, common, prefix = os.fsdecode(done.stdout).split("\n")[:4]
        return cls(Path(top), prefix.rstrip("/"), Path(git), Path(common))

    def resolve(self, revision: str) -> str:
        """The id of a commit, however the person names it.

        Raises:
            InvalidInput: This clone does not know it.
        """
        done = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if done.code != 0:
            raise InvalidInput(
                f"{revision!r} is no revision that the clone at {self.top} knows",
                reason="UnknownRevision",
                remedy="Look for typing errors, and fetch: git fetch (of a shallow clone: git fetch --unshallow)",
            )
        return done.stdout.decode().strip()

    def has(self, sha: str) -> bool:
        """The clone has this commit."""
        return self._git("cat-file", "-e", f"{sha}^{{commit}}").code == 0

    def survey(self) -> Standing:
        """Where it stands; asks the remote, and fetches where that is ahead. Index and work tree are only looked at.

        Raises:
            InvalidInput: It has no commit yet.
        """
        head = self._ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not head:
            raise InvalidInput(f"the clone at {self.top} has no commit yet", reason="UnknownRevision")
        branch = self._ask("symbolic-ref", "--quiet", "--short", "HEAD")
        remote = self._remote(branch)
        if not remote:
            why = f"the clone at {self.top} has no remote to push to"
            return Standing(head, obstacle=self._untidy(branch) or Obstacle("NoRemote", why))
        ref = self._upstream(branch, remote)
        answer = self._git("ls-remote", "--quiet", "--", remote, ref, patient=True) if ref else None
        if answer is None or answer.code != 0:
            why = f"the remote {remote} cannot be asked: {gist(answer.stderr) if answer else 'it names no branch'}"
            return Standing(head, remote, ref, self._untidy(branch) or Obstacle("RemoteUnavailable", why))
        tip = answer.stdout.decode().partition("\t")[0].strip()
        if not tip:
            why = f"{remote} has no branch {ref.removeprefix('refs/heads/')} yet; push yours first"
            return Standing(head, remote, ref, self._untidy(branch) or Obstacle("NotPushed", why))
        if tip != head and not self.has(tip):
            fetched = self._git("fetch", "--quiet", "--no-tags", "--", remote, ref, patient=True)
            if fetched.code != 0 or not self.has(tip):
                why = f"{remote} cannot be fetched: {gist(fetched.stderr)}"
                return Standing(head, remote, ref, Obstacle("RemoteUnavailable", why))
        return Standing(tip, remote, ref, self._untidy(branch) or self._apart(head, tip, branch, remote))

    def in_the_way(self, paths: list[str]) -> Obstacle | None:
        """Files that would come into the work tree, and stand there though Git does not know them."""
        there = [path for path in paths if os.path.lexists(self.top / path)]
        if not there:
            return None
        why = f"{_some(there)} would come back, but is there already, in no commit; move it away"
        return Obstacle("InTheWay", why)

    def commit(self, tree: str, parent: str, message: str) -> str:
        """Make a commit that no branch has yet; its id.

        Raises:
            Failed: Git does not know who we are, or cannot sign.
        """
        # ``git commit`` would look at this by itself.
        sign = ("-S",) if self._ask("config", "--type=bool", "--get", "commit.gpgSign") == "true" else ()
        said = message.encode("utf-8", "replace")
        made = self._git("-c", "i18n.commitEncoding=UTF-8", "commit-tree", *sign, "-p", parent, tree, stdin=said)
        if made.code != 0:
            raise Failed(f"git cannot make the commit: {_said(made.stderr)}", reason="CommitFailed")
        return made.stdout.decode().strip()

    def push(self, sha: str, standing: Standing) -> None:
        """Push one commit to the remote's branch, fast-forward only.

        Raises:
            Refused: ``PushedMeanwhile``: somebody else was quicker; ``PushRefused``: the remote, or a hook, says no.
            Unavailable: The remote did not answer in time.
        """
        options = ("--porcelain", "--no-follow-tags", "--recurse-submodules=no")
        done = self._git("push", *options, "--", standing.remote, f"{sha}:{standing.ref}", patient=True)
        if done.code == 0:
            return
        verdict = next((line for line in done.stdout.decode(errors="replace").splitlines() if line[:1] == "!"), "")
        where = f"{standing.branch} of {standing.remote}"
        if "(fetch first)" in verdict or "(non-fast-forward)" in verdict:
            raise Refused(f"somebody else pushed to {where} at this moment", reason="PushedMeanwhile")
        why = verdict.rpartition("\t")[2]
        raise Refused(f"{where} does not take it: {_said(done.stderr, why)}", reason="PushRefused")

    def follow(self, sha: str) -> str:
        """Bring branch, index and work tree forward to what was pushed; why not, where Git will not do it."""
        done = self._git("merge", "--quiet", "--ff-only", "--no-autostash", sha)
        return "" if done.code == 0 else _said(done.stderr)

    # --- looking on ---

    def _remote(self, branch: str) -> str:
        known = self._ask("remote").split("\n")
        said = self._ask("config", "--get", f"branch.{branch}.remote") if branch else ""
        if said in known or said == ".":
            return said.rstrip(".")
        return "origin" if "origin" in known else known[0] if len(known) == 1 else ""

    def _upstream(self, branch: str, remote: str) -> str:
        if branch:
            return self._ask("config", "--get", f"branch.{branch}.merge") or f"refs/heads/{branch}"
        answer = self._git("ls-remote", "--quiet", "--symref", "--", remote, "HEAD", patient=True)
        first = answer.stdout.decode(errors="replace").partition("\t")[0]
        return first.removeprefix("ref: ") if answer.code == 0 and first.startswith("ref: ") else ""

    def _untidy(self, branch: str) -> Obstacle | None:
        """What a person is in the middle of."""
        owner = self.top.stat().st_uid
        if os.geteuid() == 0 != owner:
            why = f"the clone at {self.top} belongs to another user, whose git could not use what root writes there"
            return Obstacle("ForeignClone", why)
        for name, what in _UNDER_WAY.items():
            if (self.git / name).exists():
                return Obstacle("OperationUnderWay", f"{what} is under way in {self.top}")
        if not branch:
            return Obstacle("DetachedHead", f"{self.top} is on no branch (HEAD is detached)")
        done = self._git("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames")
        changed = [entry[3:] for entry in os.fsdecode(done.stdout).split("\0") if entry]
        if done.code != 0 or changed:
            what = _some(changed) if changed else gist(done.stderr)
            return Obstacle("UncommittedChanges", f"{self.top} has changes that are not committed: {what}")
        return None

    def _apart(self, head: str, tip: str, branch: str, remote: str) -> Obstacle | None:
        """Whether the branch has what the remote has not. To be merely behind is no obstacle."""
        if head == tip or self._git("merge-base", "--is-ancestor", head, tip).code == 0:
            return None
        if self._git("merge-base", "--is-ancestor", tip, head).code == 0:
            more = self._ask("rev-list", "--count", f"{tip}..{head}")
            what = "a commit" if more == "1" else f"{more} commits"
            why = f"{branch} has {what} that {remote} has not; push or drop that first, so that it goes by its own name"
            return Obstacle("NotPushed", why)
        return Obstacle("Diverged", f"{branch} and {remote}'s have gone different ways; bring them together first")

    def _ask(self, *arguments: str) -> str:
        done = self._git(*arguments)
        return done.stdout.decode(errors="replace").strip() if done.code == 0 else ""

    def _git(self, *arguments: str, stdin: bytes = b"", patient: bool = False) -> process.Completed:
        return _run(self.top, *arguments, stdin=stdin, timeout=_REMOTE if patient else _LOCAL)


def _run(directory: Path, *arguments: str, stdin: bytes = b"", timeout: float = _LOCAL) -> process.Completed:
    own = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    own |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}  # we read what git says, and it cannot ask
    return process.run(["git", *arguments], timeout=timeout, environment=own, stdin=stdin, directory=str(directory))


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _said(stderr: str, why: str = "") -> str:
    """What a hook, a server or git said, as one short line: the end of it is what matters."""
    lines = [line.removeprefix("remote:").strip() for line in stderr.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("error: failed to push", "To ", "hint:"))]
    return "; ".join([*telling[-_SHOWN:], *([why] if why else [])]) or "nothing was said"
