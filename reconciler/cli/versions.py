"""Which version of an app was there before the present one.

A rollback never goes forward: who runs it twice must not get the bad version back. So versions are a stack. Each new
one is laid on top, and one that returns takes away what was laid upon it; the version before is the one below the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reconciler.cli.wiring import Host
from reconciler.core.belongings import Belongings, belongings
from reconciler.core.manifest import MANIFESTS
from reconciler.core.memory import Applied, Quarantined
from reconciler.core.model import Catalog
from reconciler.errors import InvalidInput, ReconcilerError
from reconciler.protocols import HistoryEntry
from reconciler.world.source.sketch import Sketch, pathspecs

ReadCatalog = Callable[[str], Catalog]
"""The catalog of a revision."""

_APPLIED = frozenset({"deployed", "adopted", "rolled back"})
"""Events that say: this version was healthy."""
_ENTRIES = 200


@dataclass(frozen=True, slots=True)
class Choice:
    """A revision, and how it was found."""

    revision: str
    because: str
    why: str = ""
    """Why the present version is not wanted, where the agent knows."""


def named_revision(sha: str) -> Choice:
    """A revision that a person named."""
    return Choice(sha, "which was asked for")


def version_before(app: str, tip: str, host: Host | None, sketch: Sketch, read: ReadCatalog, prefix: str) -> Choice:
    """The last version before the present one: as the agent's history knows it, else as the repository's does.

    Args:
        app: The app.
        tip: The revision at which it is as it should not be.
        host: The agent on this host, if any.
        sketch: Asks the repository.
        read: Reads a revision's catalog.
        prefix: Where the manifests are in the repository; empty, or with a slash at the end.

    Raises:
        InvalidInput: There is no earlier version, or no such app.
    """
    walk = _Walk(app, tip, sketch, read, prefix)
    choice = _as_applied(app, host, walk) if host is not None else None
    return choice or walk.before()


# --- as the agent knows it ------------------------------------------------------------------------------------------


def _as_applied(app: str, host: Host, walk: _Walk) -> Choice | None:
    try:
        memory, entries = host.store.memory(), host.store.history(app, _ENTRIES)
    except ReconcilerError:  # a store that cannot be read does not bar the way back
        return None
    applied, name = memory.applied.get(app), host.settings.host
    if applied is not None and not walk.same_at(applied.revision):
        failed = _given_up(memory.quarantined.get(app), applied, name)
        return Choice(applied.revision, f"which is what {name} runs", failed)
    below = previous_version(entries, applied)
    if below is None:
        return None
    if not below.revision:
        raise InvalidInput(
            f"{name} knows of an earlier version of {app}, but not its commit",
            reason="NoEarlierVersion",
            remedy="Name the revision: --to REV",
        )
    return Choice(below.revision, f"which is what {name} ran before")


def previous_version(entries: Sequence[HistoryEntry], applied: Applied | None) -> HistoryEntry | None:
    """The entry of the version before the one that is applied; where none is any more, that of the last one.

    Args:
        entries: The app's history, newest first.
        applied: What the app runs.
    """
    stack: list[HistoryEntry] = []
    for entry in reversed(entries):
        if entry.event not in _APPLIED:
            continue
        known = [i for i, below in enumerate(stack) if below.fingerprint == entry.fingerprint]
        stack = [*stack[: known[0]], entry] if known else [*stack, entry]
    if applied is not None and stack and stack[-1].fingerprint == applied.fingerprint:
        stack.pop()
    return stack[-1] if stack else None


def _given_up(quarantined: Quarantined | None, applied: Applied, host: str) -> str:
    if quarantined is None or quarantined.at < applied.at:  # of an earlier version, long mended
        return ""
    return f"{host} gave {quarantined.revision[:8]} up: {quarantined.message}"


# --- as the repository knows it -------------------------------------------------------------------------------------


class _Walk:
    """Back along the branch, from a tip."""

    def __init__(self, app: str, tip: str, sketch: Sketch, read: ReadCatalog, prefix: str) -> None:
        self._app = app
        self._tip = tip
        self._sketch = sketch
        self._read = read
        self._prefix = prefix

    def same_at(self, revision: str) -> bool:
        """Whether the app's files at a revision are those of the tip, at the same place."""
        then, now = self._read(revision), self._read(self._tip)
        there, here = belongings(self._app, then, [now]), belongings(self._app, now, [then])
        if there is None or here is None:
            return there is here
        return self._files(revision, there) == self._files(self._tip, here)

    def before(self) -> Choice:
        """The version before the tip's; the last one of an app that is gone."""
        here = belongings(self._app, self._read(self._tip))
        return self._before_removal() if here is None else self._before_present(here)

    def _before_present(self, here: Belongings) -> Choice:
        place = self._prefix + (here.folder or here.manifest)
        specs = pathspecs([self._prefix + path for path in here.places], [self._prefix + p for p in here.foreign])
        changes = self._sketch.changes(self._tip, specs)
        below = _below(changes, [self._state(change, here) for change in changes])
        if below is not None:
            return Choice(below, f"the version of {place} before")
        earlier = self._sketch.parent(changes[-1]) if changes else None
        if earlier is not None and belongings(self._app, self._read(earlier)) is not None:
            return Choice(earlier, f"before {changes[-1][:8]} moved it to {place}")
        raise InvalidInput(
            f"{place} has no earlier version in this history",
            reason="NoEarlierVersion",
            remedy=f"Look for the revision you want and name it with --to: git log -- {place} (a shallow clone has "
            "not all of it: git fetch --unshallow)",
        )

    def _before_removal(self) -> Choice:
        manifests = [f":(top,glob){self._prefix}**/{name}" for name in MANIFESTS]
        for change in self._sketch.changes(self._tip, manifests):
            earlier = self._sketch.parent(change)
            if earlier is not None and belongings(self._app, self._read(earlier)) is not None:
                return Choice(earlier, f"before {change[:8]} removed it")
        known = sorted(self._read(self._tip).apps)
        raise InvalidInput(
            f"there is no app called {self._app!r}, and none was removed lately",
            reason="UnknownApp",
            remedy=f"Apps of now: {', '.join(known[:10]) or 'none'}; of long ago: name the revision with --to",
        )

    def _state(self, revision: str, share: Belongings) -> str:
        """Of the app's own files, without those of an app in its folder; empty where it was not there."""
        files = self._files(revision, share)
        return "\n".join(f"{path} {mode} {item}" for path, (mode, item) in sorted(files.items()))

    def _files(self, revision: str, share: Belongings) -> dict[str, tuple[str, str]]:
        listing, start = self._sketch.listing(revision), len(self._prefix)
        return {p: item for p, item in listing.items() if p.startswith(self._prefix) and share.has(p[start:])}


def _below(changes: Iterable[str], states: Iterable[str]) -> str | None:
    """The newest commit that made the version below the top; ``changes`` newest first, ``states`` what each made."""
    stack: list[tuple[str, str]] = []
    for revision, state in reversed(list(zip(changes, states, strict=True))):
        if not state:  # it was not there for a while
            continue
        known = [i for i, (_, below) in enumerate(stack) if below == state]
        stack = [*stack[: known[0]], (revision, state)] if known else [*stack, (revision, state)]
    return stack[-2][0] if len(stack) > 1 else None
