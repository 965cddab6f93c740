"""``plan --against REV``: what a change of the config repository would do, told in its own CI.

No Docker, no root, no keys: a host on paper is brought to REV, and from there to the directory as it is now. Secrets
stay sealed: what is compared is whether they changed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler import process
from reconciler.cli import ERROR, IN_SYNC
from reconciler.cli.crossing import command_of
from reconciler.cli.plan_text import forecast_exit_code, plan_json, plan_text
from reconciler.cli.render_text import problems_text
from reconciler.cli.text import Style
from reconciler.cli.wiring import manifest_reader
from reconciler.core import sealed, serialise
from reconciler.core.desired import Inputs, Roots, resolve
from reconciler.core.manifest import ManifestReader
from reconciler.core.memory import Memory, Version
from reconciler.core.model import App, Catalog, Commit, Secret, Tree
from reconciler.core.plan import plan
from reconciler.core.policy import belongs
from reconciler.core.simulate import empty_host, forecast
from reconciler.core.target import Blocked, DesiredApp, Target
from reconciler.core.wanted import Wanted
from reconciler.errors import InvalidInput
from reconciler.world.directory import DirectoryTree
from reconciler.world.source.mirror import Mirror
from reconciler.world.source.sketch import Sketch, pathspecs

_SUBNET = "10.0.0.0/8"  # on paper there is room for everyone
_ANY_HOST = "any host"
_LOOKED_AT = 20  # changes of a manifest, for the versions before
Versions = tuple[Version, ...]


def plan_against(options: argparse.Namespace) -> int:
    """Print, for each host, what would happen between REV and now."""
    reader = manifest_reader()
    mirror, prefix, commit = _revision(options.path, options.against)
    old_tree = mirror.tree(commit.sha)
    new_tree = DirectoryTree(options.path)
    old, new = reader.read(old_tree), reader.read(new_tree)
    here = Commit("0" * 40, "", f"{options.path} as it is now, after {commit.short}", time.time())
    style, code, answers = Style.of(sys.stdout), IN_SYNC, {}
    history = _history(mirror, prefix, commit, reader, _changed(old, new))
    for host in _hosts(options.host, new):
        before = _wanted(host, commit.sha, old, old_tree, Catalog({}))
        base = forecast(before, empty_host(), Memory(versions=history), _SUBNET, time.time())
        after = _wanted(host, here.sha, new, new_tree, old)
        applied = {name: app for name, app in old.apps.items() if belongs(app, host, old.fleet)}
        later = time.time() + 1_000_000  # long after the host on paper settled
        start = plan(after, base.observed, base.memory, _SUBNET, later)
        expected = forecast(after, base.observed, base.memory, _SUBNET, later)
        code = max(code, forecast_exit_code(expected, start))
        if options.output == "json":
            answers[host] = plan_json(expected, start, here, base.observed, host=host, applied=applied)
        else:
            print(plan_text(expected, start, here, base.observed, style, host=host, applied=applied))
    if options.output == "json":
        print(serialise.text(answers, indent=2))
    if any(problem.severity == "error" for problem in new.problems):
        if options.output == "text":
            print(problems_text(new.problems, len(new.apps) + len(new.broken), style))
        return ERROR
    return code


def _changed(old: Catalog, new: Catalog) -> list[App]:
    """Apps that were there already and are not as they were."""
    pairs = ((app, new.apps.get(name)) for name, app in old.apps.items())
    return [was for was, now in pairs if now is not None and now != was]


def _history(
    mirror: Mirror, prefix: str, commit: Commit, reader: ManifestReader, apps: Iterable[App]
) -> dict[str, Versions]:
    """The versions that a host has had which followed the repository, as far as manifests tell."""
    found: dict[str, Versions] = {}
    with contextlib.closing(mirror), Sketch(mirror) as sketch:
        for app in apps:
            here = [f"{prefix}{app.manifest}"]
            for revision in reversed(sketch.changes(commit.sha, pathspecs(here))[:_LOOKED_AT]):
                tree = mirror.tree(revision)
                then = reader.read(tree).apps.get(app.name)
                if then is not None:
                    found[app.name] = _with(found.get(app.name, ()), _resolved(then, revision, tree))
    return found


def _with(versions: Versions, desired: DesiredApp) -> Versions:
    """One more version, as the newest."""
    app, known = desired.app, [v for v in versions if v.fingerprint == desired.fingerprint]
    place = known[0].place if known else len(versions) + 1
    ran = " ".join(command_of(app))
    fresh = Version(desired.fingerprint, desired.spec.image, 0.0, desired.revision, place, app.image, ran)
    return (fresh, *(v for v in versions if v not in known))


def _revision(path: Path, revision: str) -> tuple[Mirror, str, Commit]:
    """The repository that ``path`` stands in, the way there, and the commit of a revision as a person names it."""
    done = process.run(
        ["git", "-C", str(path), "rev-parse", "--absolute-git-dir", "--show-prefix", f"{revision}^{{commit}}"],
        timeout=30,
    )
    lines = done.stdout.decode().splitlines()
    if done.code != 0 or revision.startswith("-"):
        raise InvalidInput(
            f"{revision!r} is no revision of the Git repository at {path}",
            reason="UnknownRevision",
            remedy="In CI, fetch it first: git fetch origin main",
        )
    mirror = Mirror(Path(lines[0]), lines[1] or ".")
    return mirror, lines[1], mirror.commit(lines[2])


def _hosts(wanted: str | None, catalog: Catalog) -> list[str]:
    known = sorted(catalog.fleet or {})
    if wanted is None:
        return known or [_ANY_HOST]
    if known and wanted not in known:
        raise InvalidInput(f"fleet.yaml lists no host {wanted!r}", reason="HostUnknown", remedy=f"Known: {known}")
    return [wanted]


def _wanted(host: str, revision: str, catalog: Catalog, tree: Tree, before: Catalog) -> Wanted:
    targets = {}
    for name, app in catalog.apps.items():
        if belongs(app, host, catalog.fleet):
            targets[name] = Target(name, _resolved(app, revision, tree))
    for broken in catalog.broken:
        known = {name for name, app in before.apps.items() if broken.app == name or broken.path == app.manifest}
        for name in known - targets.keys():
            targets[name] = Target(name, None, Blocked("InvalidManifest", f"{broken.path} cannot be used"))
    routes = {name: t.desired.app.ingress for name, t in targets.items() if t.desired and t.desired.app.ingress}
    return Wanted(revision, catalog, targets, repr(sorted(routes.items())), host=host)


def _resolved(app: App, revision: str, tree: Tree) -> DesiredApp:
    return resolve(app, revision, _inputs(app, tree), b"", Roots("/files", "/secrets"))


def _inputs(app: App, tree: Tree) -> Inputs:
    secrets: Mapping[str, Secret] = {}
    if app.secrets is not None:
        blob = tree.entries[app.secrets.file].blob.encode()
        keys = sealed.look(app.secrets.file, tree.read(app.secrets.file)).keys
        secrets = {key: Secret(blob) for key in keys}
    files = {file.source: tree.read(file.source) for file in app.files}
    return Inputs(f"image of {app.image}", secrets, files)
