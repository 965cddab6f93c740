"""``GitSource`` follows one branch of a remote, fast-forward only."""

from __future__ import annotations

import contextlib
import logging
import time
import urllib.parse
from pathlib import Path

from reconciler import process
from reconciler.core.model import Commit
from reconciler.errors import Refused, Unavailable
from reconciler.settings import Repository
from reconciler.world.source.files import GitTree
from reconciler.world.source.making import REFS, beside, create, salvage, write_pending
from reconciler.world.source.mirror import Mirror
from reconciler.world.source.reader import MirrorDamaged
from reconciler.world.source.remote import Remote, environment

log = logging.getLogger(__name__)

_BETWEEN_RENEWALS = 600.0
"""Seconds. A disk that damages the mirror again and again must not make us clone in a loop."""


class GitSource:
    """The branch that the settings name, through a bare mirror. One thread fetches; any may read.

    Args:
        repository: URL, branch, directory and the way in.
        mirror: Where our bare mirror is; made when it is first needed.

    Raises:
        InvalidSettings: The URL, branch or directory cannot be used.
    """

    def __init__(self, repository: Repository, mirror: Path) -> None:
        self._remote = Remote.of(repository)
        self._mirror = Mirror(mirror, repository.directory, repository.timeout)
        # Per branch: to follow another one is the decision of a person with access to the settings, not a rewrite.
        # Quoted, because ``a`` and ``a/b`` cannot be refs side by side.
        name = urllib.parse.quote(repository.branch, safe="")
        self._seen, self._trusted = f"seen/{name}", f"trusted/{name}"
        self._renewed_at = -_BETWEEN_RENEWALS
        self._refusal: tuple[str, str, str] | None = None
        self._untidy = False

    def fetch(self) -> Commit:
        """Ask the remote for the branch's tip; fetch only when it moved.

        Raises:
            Refused: ``HistoryRewritten``: the tip does not descend from the last trusted one.
            Unavailable: With the reason.
        """
        self._mirror.rest()
        tip = self._remote.tip()
        try:
            if self._mirror.damaged is not None:
                raise self._mirror.damaged
            return self._follow(tip)
        except MirrorDamaged as damage:
            self._renew(damage)
        return self._follow(tip)

    def trusted(self) -> Commit | None:
        """The last tip that ``fetch`` returned, from the mirror alone; None before the first."""
        return self._mirror.at(self._trusted)

    def accept(self, revision: str) -> Commit:
        """Trust a revision that a person looked at; what was trusted before stays readable.

        Raises:
            InvalidInput: The mirror does not have it.
        """
        commit = self._mirror.commit(self._mirror.resolve(revision))
        old = self._mirror.ref(self._trusted)
        if old is not None and old != commit.sha:
            kept = f"kept/{old}"
            if self._mirror.ref(kept) is None:
                self._mirror.set_ref(kept, old, None)
        self._mirror.set_ref(self._trusted, commit.sha, old)
        self._mirror.settle(self._trusted)
        log.warning("revision %s is trusted now by a person's decision; before it was %s", commit.sha, old)
        return commit

    def commit(self, revision: str) -> Commit:
        """A commit of the mirror; InvalidInput for an unknown one."""
        return self._mirror.commit(revision)

    def tree(self, revision: str) -> GitTree:
        """The files of a revision below the configured directory."""
        return self._mirror.tree(revision)

    def close(self) -> None:
        """End the processes that reading left behind."""
        self._mirror.close()

    def _follow(self, tip: str) -> Commit:
        self._mirror.ensure()
        last = self._mirror.at(self._trusted)
        if last is not None and last.sha == tip:
            self._tidy()
            return last
        trusted = last.sha if last else None
        if tip != self._mirror.ref(self._seen):
            tip = self._pull()
        lost = None if trusted else self._mirror.pending().get(self._trusted)
        before = trusted or lost
        if before is not None:
            self._check(before, tip)
        self._mirror.set_ref(self._trusted, tip, trusted)
        if lost is not None:
            self._mirror.settle(self._trusted)
        commit = self._mirror.commit(tip)
        log.info("%s is at %s: %s (%s)", self._remote.settings.branch, commit.short, commit.subject, commit.author)
        return commit

    def _tidy(self) -> None:
        """After a fetch, at the next quiet poll: months of commits are not to stay thousands of small packs."""
        if self._untidy:
            self._untidy = False
            self._mirror.run("gc", "--auto", "--quiet")

    def _pull(self) -> str:
        self._untidy = True
        try:
            self._remote.fetch(self._mirror.path, REFS + self._seen)
        except Unavailable as error:
            self._mirror.sweep()
            if error.reason == "GitFailed" and not self._mirror.sound():
                raise self._mirror.report(error.message) from error
            raise
        tip = self._mirror.ref(self._seen)
        if tip is None:
            raise self._mirror.report("it has not kept what was fetched")
        return tip

    def _check(self, before: str, tip: str) -> None:
        if self._refusal is not None and self._refusal[:2] == (before, tip):
            what = self._refusal[2]
        elif not self._mirror.contains(before):
            what = "the trusted revision is no longer in its history"
        elif self._mirror.descends(tip, before):
            return
        else:
            count = int(self._mirror.must("rev-list", "--count", before, f"^{tip}"))
            how = "rewound" if self._mirror.descends(before, tip) else "rewritten"
            what = f"it was {how}, and {count} commit{'s' if count > 1 else ''} would vanish"
        self._refusal = (before, tip, what)
        raise Refused(
            f"branch {self._remote.settings.branch!r} of {self._remote.url} is at {tip}, which does not follow on the "
            f"trusted {before}: {what}. All apps stay as {before[:8]} wants them",
            reason="HistoryRewritten",
            remedy=f"Push a descendant of {before[:8]} (git revert makes one), or run: reconciler accept {tip[:12]}",
        )

    def _renew(self, damage: MirrorDamaged) -> None:
        """Make the mirror anew from the remote, with whatever can be saved of the old one, and then change places."""
        if time.monotonic() - self._renewed_at < _BETWEEN_RENEWALS:
            if not self._mirror.sound():
                raise damage
            self._mirror.absolve()
            return
        log.warning("%s; it is made anew from %s", damage.message, self._remote.url)
        path = self._mirror.path
        new = beside(path, "new")
        create(new, self._remote.settings.timeout)
        known = salvage(path)
        self._remote.fetch(new, REFS + self._seen)
        for name, sha in known.items():
            self._save(new, name, sha)
        missing = {name: sha for name, sha in known.items() if name != self._seen and not _set(new, name, sha)}
        for name, sha in missing.items():
            log.warning("revision %s (%s) cannot be read any more, and the remote's branch does not have it", sha, name)
        write_pending(new, {name: sha for name, sha in missing.items() if name.startswith("trusted/")})
        self._mirror.replace(new)
        self._renewed_at = time.monotonic()
        if self._trusted not in known:
            log.warning("the damaged mirror does not say which revision was trusted; the branch's tip is, from now")
        log.warning("the mirror is new; the damaged one is %s", beside(path, "damaged"))

    def _save(self, new: Path, name: str, sha: str) -> None:
        """Bring over a commit that the remote's branch no longer leads to, if the old mirror can still read it."""
        if name == self._seen or _set(new, name, sha):
            return
        with contextlib.suppress(Unavailable):
            options = ("--quiet", "--no-tags", "--no-write-fetch-head")
            process.run(
                ["git", "fetch", *options, "--", str(self._mirror.path), f"+{REFS}{name}:{REFS}{name}"],
                timeout=self._remote.settings.timeout,
                environment={**environment("file"), "GIT_DIR": str(new)},
            )


def _set(repository: Path, name: str, sha: str) -> bool:
    done = process.run(
        ["git", "update-ref", REFS + name, sha],
        timeout=30,
        environment={**environment(), "GIT_DIR": str(repository)},
    )
    return done.code == 0
