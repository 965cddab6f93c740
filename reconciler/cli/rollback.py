"""``reconciler rollback APP``: one commit that puts an app's folder back to how it was.

In a clone that is tidy, and where the remote lets us, it is made and pushed. Everywhere else nothing is changed, and
the commands are printed that do the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler import settings
from reconciler.cli import DEFAULT_CONFIG, DIFFERENCES, IN_SYNC
from reconciler.cli.crossing import command_of, going_back
from reconciler.cli.rollback_text import (
    Answer,
    Move,
    answer_json,
    answer_text,
    body,
    commands_anew,
    commands_beside,
    commands_push,
    subject,
)
from reconciler.cli.text import Style, rehearsed
from reconciler.cli.versions import Choice, named_revision, version_before
from reconciler.cli.wiring import Host, manifest_reader
from reconciler.core import serialise
from reconciler.core.belongings import Belongings, belongings, files_of, owner_of
from reconciler.core.manifest import FLEETS, ManifestReader
from reconciler.core.model import App, Catalog, Problem
from reconciler.core.rehearsal import answer_for
from reconciler.errors import Failed, InvalidInput, ReconcilerError, Refused, Unavailable
from reconciler.world.source.clone import Clone, Obstacle, Standing
from reconciler.world.source.mirror import Mirror
from reconciler.world.source.sketch import Item, Sketch, pathspecs

_NAMED = 5  # problems in an error
_LOOKED_AT = 20  # commits that are taken back


@dataclass(frozen=True, slots=True)
class Place:
    """Where we read: a person's clone, or the mirror of the agent on this host."""

    mirror: Mirror
    prefix: str
    """Where the manifests are below the repository's root; empty, or with a slash at the end."""
    standing: Standing
    clone: Clone | None
    host: Host | None


def rollback(options: argparse.Namespace) -> int:
    """Roll an app back, or say how."""
    place = _place(options)
    with contextlib.closing(place.mirror), Sketch(place.mirror) as sketch:
        try:
            answer = _Rollback(place, sketch, manifest_reader(), options.app).answer(options)
        except Unavailable as error:
            if place.clone is None or error.reason != "MirrorDamaged":
                raise
            raise Unavailable(
                f"the clone at {place.clone.top} does not have all that it should",
                reason="CloneUnusable",
                remedy="Of a partial clone, fetch the rest: git fetch --refetch --no-filter. Else look: git fsck",
            ) from error
    if options.output == "json":
        print(serialise.text(answer_json(answer), indent=2))
    else:
        print(answer_text(answer, Style.of(sys.stdout)))
    return IN_SYNC if answer.result in {"rolled back", "unchanged"} else DIFFERENCES


# --- where we are ---------------------------------------------------------------------------------------------------


def _place(options: argparse.Namespace) -> Place:
    host = _host(options)
    path = options.repository or Path()
    why = Obstacle("NoClone", f"{path.absolute()} lies in no clone of the config repository")
    try:
        clone = Clone.at(path)
    except Unavailable as error:
        if host is None:
            raise
        clone, why = None, Obstacle(error.reason, error.message)
    if clone is not None:
        standing = clone.survey()
        followed = host.source.trusted() if host else None
        if followed is None or clone.has(followed.sha):
            prefix = clone.prefix if options.repository else _directory(host) if host else _climb(clone)
            return Place(Mirror(clone.common, prefix or "."), _slash(prefix), standing, clone, host)
        what = f"{clone.top} does not have the commit that this host is at: another repository's, or not fetched"
        why = Obstacle("NoClone", what)
    if host is None:
        raise InvalidInput(
            f"{why.message}, and no agent's history can be read here",
            reason="NoClone",
            remedy="Go to a clone of the config repository, or name it: reconciler rollback APP --repository PATH; "
            "on a host, be root",
        )
    tip = host.source.trusted()
    if tip is None:
        raise InvalidInput("the agent of this host has not fetched anything yet", reason="UnknownRevision")
    prefix = _directory(host)
    mirror = Mirror(host.settings.state / "mirror.git", prefix or ".", host.settings.repository.timeout)
    return Place(mirror, _slash(prefix), Standing(tip.sha, obstacle=why), None, host)


def _host(options: argparse.Namespace) -> Host | None:
    """This host's agent, where there is one whose files we may read."""
    if options.config == DEFAULT_CONFIG and not os.access(DEFAULT_CONFIG, os.R_OK):
        return None  # a laptop; or a person who is not root, and whose clone is enough
    read = settings.load_settings(options.config)
    return Host(read) if os.access(read.state / "mirror.git" / "HEAD", os.R_OK) else None


def _directory(host: Host) -> str:
    """Where the manifests are that this host follows."""
    prefix = os.path.normpath(host.settings.repository.directory)
    return "" if prefix == "." else prefix


def _climb(clone: Clone) -> str:
    """Where the manifests are, for somebody who stands anywhere in the clone: beside fleet.yaml, else at the top."""
    here = clone.prefix
    while here and not any((clone.top / here / name).exists() for name in FLEETS):
        here = here.rpartition("/")[0]
    return here


def _slash(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


# --- what goes back -------------------------------------------------------------------------------------------------


class _Rollback:
    """One app on its way back."""

    def __init__(self, place: Place, sketch: Sketch, reader: ManifestReader, app: str) -> None:
        self._place = place
        self._sketch = sketch
        self._reader = reader
        self._app = app
        self._now = self._read(place.standing.base)

    def answer(self, options: argparse.Namespace) -> Answer:
        """Do it, unless something is in the way or a person only asks."""
        place, standing = self._place, self._place.standing
        choice = self._choose(options.to)
        was = self._read(choice.revision)
        here, there = belongings(self._app, self._now, [was]), belongings(self._app, was, [self._now])
        to = place.mirror.commit(choice.revision)
        if there is None:
            raise self._not_there(to.short, here)
        changes = self._changes(choice.revision, here, there)
        move = self._move(choice, here, there, sorted(changes), options.why)
        if not changes:
            return Answer("unchanged", move)
        tree = self._sketch.draw(standing.base, changes)
        self._check(self._reader.read(tree), to.short)
        answer = Answer("not done", move, notes=tuple(self._notes(choice, was, there)))
        obstacle = standing.obstacle or self._in_the_way(changes)
        if options.dry_run:
            answer = replace(answer, result="would roll back", diff=self._sketch.diff(standing.base))
            if obstacle is None:
                return replace(answer, pushed_to=f"{standing.branch} of {standing.remote}")
            return replace(answer, reason=obstacle.reason, message=obstacle.message)
        if obstacle is not None or place.clone is None:
            return self._told(answer, obstacle)
        return self._push(answer, place.clone)

    def _choose(self, revision: str | None) -> Choice:
        place = self._place
        if revision is not None:
            sha = place.clone.resolve(revision) if place.clone else place.mirror.resolve(revision)
            return named_revision(sha)
        return version_before(self._app, place.standing.base, place.host, self._sketch, self._read, place.prefix)

    def _read(self, revision: str) -> Catalog:
        clone = self._place.clone
        if clone is not None and not self._place.mirror.contains(revision):
            raise InvalidInput(
                f"the clone at {clone.top} does not have {revision}",
                reason="UnknownRevision",
                remedy="Fetch it: git fetch (of a shallow clone: git fetch --unshallow)",
            )
        return self._reader.read(self._place.mirror.tree(revision))

    def _not_there(self, short: str, here: Belongings | None) -> ReconcilerError:
        if here is None:
            known = ", ".join(sorted(self._now.apps)[:10]) or "none"
            return InvalidInput(
                f"there is no app called {self._app!r}, neither now nor at {short}",
                reason="UnknownApp",
                remedy=f"Apps of now: {known}",
            )
        return Refused(
            f"at {short} there was no {self._app}; to roll back to that would remove it",
            reason="NotThere",
            remedy=f"Name a revision that has it: git log -- {self._place.prefix}{here.manifest}",
        )

    def _changes(self, revision: str, here: Belongings | None, there: Belongings) -> dict[str, Item | None]:
        """Path from the repository's root -> what it becomes; None where it goes."""
        now, then = self._sketch.listing(self._place.standing.base), self._sketch.listing(revision)
        owner = owner_of(there.folder, self._now)
        if there.folder and owner not in {None, self._app}:
            raise Refused(
                f"{self._app} stood in {self._place.prefix}{there.folder}, where {owner} is now",
                reason="PlaceTaken",
                remedy=f"Move {owner} away, or put the files of {self._app} elsewhere by hand",
            )
        leaving = {path: None for path in now if here and self._owns(here, path)}
        coming = {path: item for path, item in then.items() if self._owns(there, path)}
        both: dict[str, Item | None] = {**leaving, **coming}
        return {path: item for path, item in both.items() if now.get(path) != item}

    def _owns(self, share: Belongings, path: str) -> bool:
        prefix = self._place.prefix
        return path.startswith(prefix) and share.has(path[len(prefix) :])

    def _move(self, choice: Choice, here: Belongings | None, there: Belongings, files: Iterable[str], why: str) -> Move:
        mirror, base, prefix = self._place.mirror, self._place.standing.base, self._place.prefix
        restore = tuple(prefix + path for path in there.places)
        left = [path for path in here.places if path not in there.places] if here else []
        foreign = {prefix + path for share in (here, there) if share for path in share.foreign}
        touched = pathspecs([*restore, *(prefix + path for path in left)], sorted(foreign))
        return Move(
            app=self._app,
            base=mirror.commit(base),
            to=mirror.commit(choice.revision),
            because=choice.because,
            restore=restore,
            remove=tuple(prefix + path for path in left),
            foreign=tuple(sorted(foreign)),
            files=tuple(files),
            takes_back=tuple(self._sketch.commits(choice.revision, base, touched, 11)),
            why=why or choice.why,
        )

    def _check(self, result: Catalog, short: str) -> None:
        """The same look as ``reconciler validate`` takes: what was wrong before, elsewhere, is not our doing."""

        def errors(catalog: Catalog) -> set[Problem]:
            return {problem for problem in catalog.problems if problem.severity == "error"}

        found = sorted(errors(result) - errors(self._now))
        if self._app not in result.apps:
            found = found or sorted(p for p in errors(result) if p.app == self._app)
        elif not found:
            return
        listed = "; ".join(str(problem) for problem in found[:_NAMED])
        more = f" (and {len(found) - _NAMED} more)" if len(found) > _NAMED else ""
        raise InvalidInput(
            f"with {self._app} as it was at {short} the repository would not be valid, so nothing is changed: "
            f"{listed or f'no manifest of {self._app} can be used'}{more}",
            reason="InvalidResult",
            remedy="Name another revision with --to, or mend it by hand",
        )

    def _notes(self, choice: Choice, was: Catalog, there: Belongings) -> Iterator[str]:
        """What a person would be surprised by."""
        place, base = self._place, self._place.standing.base
        if not self._sketch.is_ancestor(choice.revision, base):
            yield f"{choice.revision[:8]} is not in the history of {place.standing.branch or 'the branch'}"
        now, then = self._sketch.listing(base), self._sketch.listing(choice.revision)
        app = was.apps.get(self._app)
        outside = [place.prefix + path for path in files_of(app) if not there.has(path)] if app else []
        differ = [path for path in outside if now.get(path) != then.get(path)]
        if differ:
            yield f"{', '.join(differ)} has changed since, is not in the app's folder, and stays as it is now"
        fleets = [place.prefix + name for name in FLEETS]
        if any(now.get(path) != then.get(path) for path in fleets):
            yield "the fleet file has changed since; its defaults apply as they are now"
        yield from self._way_back(choice.revision, there)
        if app is not None:
            yield from self._crossed(choice, app, there)
        branch = place.host.settings.repository.branch if place.host else ""
        if place.clone is not None and branch and place.standing.branch not in {"", branch}:
            yield f"this clone is on {place.standing.branch}; this host follows {branch}"

    def _way_back(self, revision: str, there: Belongings) -> Iterator[str]:
        """What this host's agent found when it tried that version beside the one that runs."""
        host, answer = self._place.host, None
        if host is not None:
            with contextlib.suppress(ReconcilerError):  # a store that cannot be read does not bar the way back
                memory = host.store.memory()
                answer = answer_for(self._app, memory.applied.get(self._app), memory)
        if answer is None or not answer.revision or not self._place.mirror.contains(answer.revision):
            return
        then, tried = self._sketch.listing(revision), self._sketch.listing(answer.revision)
        ours = {path for path in then.keys() | tried.keys() if self._owns(there, path)}
        if all(then.get(path) == tried.get(path) for path in ours):
            yield f"could we go back: {rehearsed(answer)}"

    def _crossed(self, choice: Choice, to: App, there: Belongings) -> Iterator[str]:
        """What ran before the versions that are taken back, as their manifests had it."""
        base, mirror = self._place.standing.base, self._place.mirror
        paths = [self._place.prefix + path for path in there.places]
        since = self._sketch.commits(choice.revision, base, pathspecs(paths), _LOOKED_AT)
        ran = (self._read(commit.sha).apps.get(self._app) for commit in since)
        commands = [command for app in (self._now.apps.get(self._app), *ran) if app for command in command_of(app)]
        if commands:
            yield going_back(mirror.commit(base).short, mirror.commit(choice.revision).short, commands, to)

    # --- doing it ---

    def _in_the_way(self, changes: dict[str, Item | None]) -> Obstacle | None:
        clone = self._place.clone
        now = self._sketch.listing(self._place.standing.base)
        coming = [path for path, item in changes.items() if item is not None and path not in now]
        return clone.in_the_way(coming) if clone else None

    def _told(self, answer: Answer, obstacle: Obstacle | None) -> Answer:
        place, standing = self._place, self._place.standing
        if obstacle is not None:
            answer = replace(answer, reason=obstacle.reason, message=obstacle.message)
        if place.clone is not None and standing.remote and standing.ref:
            commands = commands_beside(answer.move, place.clone.top, standing.remote, standing.ref)
        elif place.host is not None:
            followed = place.host.settings.repository
            commands = commands_anew(answer.move, followed.url, followed.branch)
        else:
            commands = commands_anew(answer.move, "URL", "BRANCH")
        return replace(answer, commands=commands)

    def _push(self, answer: Answer, clone: Clone) -> Answer:
        standing, move, sha = self._place.standing, answer.move, ""
        try:
            sha = clone.commit(self._sketch.keep(), standing.base, f"{subject(move)}\n\n{body(move)}\n")
            clone.push(sha, standing)
        except (Failed, Refused, Unavailable) as error:
            answer = replace(answer, reason=error.reason, message=error.message, commit=sha)
            if sha and error.reason != "PushedMeanwhile":
                return replace(answer, commands=commands_push(move, clone.top, standing.remote, standing.ref, sha))
            return replace(self._told(answer, None), commit="")
        behind = clone.follow(sha)
        note = f"your clone was not brought forward ({behind}); run: git -C {clone.top} pull"
        return replace(
            answer,
            result="rolled back",
            commit=sha,
            pushed_to=f"{standing.branch} of {standing.remote}",
            notes=(*answer.notes, *([note] if behind else [])),
        )
