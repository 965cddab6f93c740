"""From a revision's manifests to a target for each app of this host: the tip's version, or the last applied one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.core.desired import Inputs, Roots, resolve
from reconciler.core.images import normalise
from reconciler.core.memory import Memory, Version
from reconciler.core.model import App, Catalog, Credentials, Problem, Secret, Tree
from reconciler.core.observed import Container, EngineState
from reconciler.core.ownership import is_rehearsal
from reconciler.core.policy import Policy, belongs, violation
from reconciler.core.rehearsal import prepared, unanswered
from reconciler.core.target import Blocked, DesiredApp, Pull, Target, WayBack
from reconciler.errors import ReconcilerError, Unavailable
from reconciler.protocols import Source, Vault

log = logging.getLogger(__name__)

ReadCatalog = Callable[[Tree], Catalog]


@dataclass(frozen=True, slots=True)
class Place:
    """This host, as far as resolving needs to know it."""

    host: str
    key: bytes
    roots: Roots
    policy: Policy


class Targets:
    """Builds targets, and remembers what it resolved as long as nothing that went in has changed."""

    def __init__(self, source: Source, vault: Vault, read_catalog: ReadCatalog, place: Place) -> None:
        self._source = source
        self._vault = vault
        self._read_catalog = read_catalog
        self._place = place
        self._resolved: dict[tuple[str, str], tuple[tuple[object, ...], DesiredApp]] = {}
        self._said: dict[str, str] = {}
        self._ways_back: dict[str, tuple[tuple[object, ...], WayBack]] = {}
        self._apps: tuple[Catalog | None, Sequence[App]] = (None, ())

    def build(self, revision: str, catalog: Catalog, engine: EngineState, memory: Memory) -> dict[str, Target]:
        """A target for every app that belongs here, and for every one that stays because its manifest is broken."""
        tree = self._source.tree(revision)
        owned = _owned(engine)
        here = self._here(catalog)
        targets = {app.name: self._target(app, tree, revision, engine, memory, owned) for app in here}
        for name, blocked in self._broken(catalog, owned):
            if name not in targets:
                targets[name] = self._staying(name, blocked, engine, memory, owned)
        return targets

    def _here(self, catalog: Catalog) -> Sequence[App]:
        """The apps that belong on this host. Asked once for each catalog: a fleet's repository may hold thousands."""
        if self._apps[0] is not catalog:
            apps = [app for app in catalog.apps.values() if belongs(app, self._place.host, catalog.fleet)]
            self._apps = (catalog, apps)
        return self._apps[1]

    def held(self, names: Iterable[str], why: Blocked, engine: EngineState, memory: Memory) -> dict[str, Target]:
        """Targets that keep apps as they are, although the repository no longer names them."""
        owned = _owned(engine)
        return {name: self._staying(name, why, engine, memory, owned) for name in names}

    def _target(
        self,
        app: App,
        tree: Tree,
        revision: str,
        engine: EngineState,
        memory: Memory,
        owned: Mapping[str, list[Container]],
    ) -> Target:
        def fall_back(blocked: Blocked, pull: Pull | None = None) -> Target:
            return replace(self._staying(app.name, blocked, engine, memory, owned), pull=pull)

        def previous(desired: DesiredApp) -> DesiredApp | None:
            """The version that runs, where it is another one."""
            claims = [c.claim for c in owned.get(app.name, ()) if c.claim and c.claim.role == "replica"]
            if all(claim.fingerprint == desired.fingerprint for claim in claims):
                return None
            before = self._staying(app.name, Blocked("", ""), engine, memory, owned, but=desired.fingerprint).desired
            return before if before is not None and before.fingerprint != desired.fingerprint else None

        forbidden = violation(app, self._place.policy)
        if forbidden:
            return fall_back(Blocked("PolicyViolation", f"{app.manifest}: {forbidden}"))
        image = _image(app, engine, owned)
        missing = image is None or (app.pull_policy == "always" and (app.image, revision) not in memory.pulled)
        try:
            desired = self._desired(app, tree, revision, image or f"provisional:{app.image}")
            pull = self._pull(app, tree, desired) if missing else None
        except ReconcilerError as error:
            return fall_back(Blocked(error.reason, f"{app.manifest}: {error}"))
        if pull is not None:
            why = Blocked("Pulling", f"{app.image} is being pulled; the applied version goes on")
            target = fall_back(why, pull)
            return target if target.desired else Target(app.name, desired, None, pull)
        quarantined = memory.quarantined.get(app.name)
        if quarantined is not None and quarantined.fingerprint == desired.trial:
            text = f"{quarantined.message}; not tried again until a commit changes it or: reconciler retry {app.name}"
            why = Blocked(quarantined.reason, text)
            staying = self._staying(app.name, why, engine, memory, owned, but=desired.fingerprint)
            return staying if staying.desired else replace(staying, failed=desired.fingerprint)
        way_back = self._way_back(desired, memory)
        return Target(app.name, desired, previous=previous(desired), way_back=way_back)

    def _broken(self, catalog: Catalog, owned: Mapping[str, list[Container]]) -> Iterable[tuple[str, Blocked]]:
        """Apps that stay as they are, and why."""
        if catalog.fleet_broken:
            why = _first(problem for problem in catalog.problems if problem.path.startswith("fleet."))
            yield from ((name, Blocked("InvalidFleet", why)) for name in owned)
        by_path = {c.claim.manifest: name for name, containers in owned.items() for c in containers if c.claim}
        for broken in catalog.broken:
            # What is wrong may stand in another file of the app: its secrets, its settings.
            apps = {broken.app} - {None}
            why = _first(each for each in catalog.problems if each.path == broken.path or each.app in apps)
            for name in {broken.app, by_path.get(broken.path)} - {None}:
                if name is not None and (name in owned or broken.app == name):
                    yield name, Blocked("InvalidManifest", why or f"{broken.path} cannot be used")

    def _staying(
        self,
        name: str,
        why: Blocked,
        engine: EngineState,
        memory: Memory,
        owned: Mapping[str, list[Container]],
        *,
        but: str = "",
    ) -> Target:
        """The version that was healthy last: where the store is lost, the one that the containers say they are of.

        ``but``: a fingerprint that is not meant, because it is the one that failed, or the one that is to come.
        """
        applied = memory.applied.get(name)
        claimed = [c for c in owned.get(name, ()) if c.claim and c.claim.role == "replica"]
        containers = [c for c in claimed if c.claim and c.claim.fingerprint != but]
        newest = max(containers, key=lambda c: c.created_at, default=None)
        revision = applied.revision if applied else newest.claim.revision if newest and newest.claim else None
        app: App | None = None
        if revision is None:
            return Target(name, None, why)
        try:
            tree = self._source.tree(revision)
            app = self._read_catalog(tree).apps.get(name)
            if app is None:
                return Target(name, None, why)
            wanted = applied.fingerprint if applied else ""
            running = (c.image for c in containers if c.claim and c.claim.fingerprint == wanted)
            image = next(running, None) or _image(app, engine, owned)
            desired = self._desired(app, tree, revision, image) if image is not None else None
            return Target(name, desired, why, app=app)
        except ReconcilerError as error:
            said = f"the applied version at {revision[:8]} cannot be read: {error}"
            if self._said.get(name) != said:
                self._said[name] = said
                log.warning("%s: %s", name, said)
            return Target(name, None, why, app=app)

    def _way_back(self, desired: DesiredApp, memory: Memory) -> WayBack | None:
        """The version that served before this one, where it is to be tried whether it still could."""
        asked, before = desired.app.rehearse_rollback, unanswered(desired, memory.applied.get(desired.name), memory)
        if asked is None or before is None:
            self._ways_back.pop(desired.name, None)
            return None
        key = (before, desired.fingerprint, asked)
        known = self._ways_back.get(desired.name)
        if known is not None and known[0] == key:  # a revision never changes
            return known[1]
        made: DesiredApp | None = None
        obstacle, passing = "", False
        try:
            made, obstacle = self._before(desired.name, before)
        except ReconcilerError as error:
            # Without the key to its secrets it cannot come back; a program that was too slow may be quicker next time.
            passing = isinstance(error, Unavailable) and not error.reason.startswith("Decrypt")
            obstacle = f"the version of {before.revision[:8]} cannot be had any more: {error}"
        ready = prepared(made, before.fingerprint, desired.fingerprint, asked) if made is not None else None
        way = WayBack(desired.fingerprint, before.fingerprint, before.revision, ready, obstacle, passing)
        if not passing:
            self._ways_back[desired.name] = (key, way)
        return way

    def _before(self, name: str, version: Version) -> tuple[DesiredApp | None, str]:
        """A version that served here, from the very image that it ran from; or why it could not serve again."""
        if not version.revision:
            return None, "nobody knows any more at which revision the version before was"
        where = f"the version of {version.revision[:8]}"
        tree = self._source.tree(version.revision)
        app = self._read_catalog(tree).apps.get(name)
        if app is None:
            return None, f"{where} cannot be had any more: its manifest cannot be used today"
        forbidden = violation(app, self._place.policy)
        if forbidden:
            return None, f"{where} is not allowed here any more: {forbidden}"
        return self._desired(app, tree, version.revision, version.image, "rehearsal"), ""

    def _desired(self, app: App, tree: Tree, revision: str, image: str, purpose: str = "") -> DesiredApp:
        """``purpose``: what is resolved for another one is remembered apart, so that neither drives out the other."""
        blobs = tuple(tree.entries[path].blob for path in _referred(app))
        slot = (f"{app.name} {purpose}", image)
        cached = self._resolved.get(slot)
        if cached is not None and cached[0] == (app, blobs):
            desired = cached[1]
            if desired.revision != revision:
                desired = replace(desired, revision=revision)
                self._resolved[slot] = ((app, blobs), desired)
            return desired
        secrets = self._reveal(app.secrets.file, tree) if app.secrets else {}
        files = {file.source: tree.read(file.source) for file in app.files}
        desired = resolve(app, revision, Inputs(image, secrets, files), self._place.key, self._place.roots)
        if len(self._resolved) > 4 * len(tree.entries) + 64:
            self._resolved.clear()
        self._resolved[slot] = ((app, blobs), desired)
        return desired

    def _pull(self, app: App, tree: Tree, desired: DesiredApp) -> Pull:
        never = app.pull_policy == "never"
        return Pull(app.image, desired.revision, self._credentials(app, tree), never, desired)

    def _credentials(self, app: App, tree: Tree) -> Credentials | None:
        wanted = app.registry_credentials
        if wanted is None:
            return None
        secrets = self._reveal(wanted.file, tree)
        return secrets[wanted.username].reveal().decode(errors="replace"), secrets[wanted.password]

    def _reveal(self, path: str, tree: Tree) -> Mapping[str, Secret]:
        return self._vault.reveal(path, tree.entries[path].blob, tree.read(path))


def _referred(app: App) -> list[str]:
    files = [file.source for file in app.files]
    return [*files, app.secrets.file] if app.secrets else files


def _owned(engine: EngineState) -> dict[str, list[Container]]:
    owned: dict[str, list[Container]] = {}
    for container in engine.containers:
        if container.owned and container.claim and not is_rehearsal(container):
            owned.setdefault(container.claim.app, []).append(container)
    return owned


def _image(app: App, engine: EngineState, owned: Mapping[str, list[Container]]) -> str | None:
    """The image's id here; a replica that runs keeps an image that lost its tag."""
    known = engine.images.get(normalise(app.image))
    if known is not None:
        return known
    return next((c.image for c in owned.get(app.name, ()) if c.claim and c.claim.image == app.image), None)


def _first(problems: Iterable[Problem]) -> str:
    """The first error, and how many more there are."""
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if not errors:
        return ""
    return f"{errors[0]} (and {len(errors) - 1} more)" if len(errors) > 1 else errors[0]
