"""From the files of a revision to its catalog of apps; everything that is wrong is reported at once.

A manifest is a file called ``app.yaml``, ``app.yml`` or ``app.json``, at any depth, one in a folder.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from reconciler.core.appfile import NAME, Draft, draft
from reconciler.core.crosscheck import Surroundings, check
from reconciler.core.document import Document, read
from reconciler.core.fleet import Fleet, read_fleet
from reconciler.core.model import LARGEST_FILE, App, BrokenManifest, Catalog, Entry, Problem, Tree
from reconciler.core.node import LARGEST, MOST_PROBLEMS, Node, in_order
from reconciler.core.sealed import Sealed, look
from reconciler.core.validation import Validator

MANIFESTS = ("app.yaml", "app.yml", "app.json")
FLEETS = ("fleet.yaml", "fleet.yml", "fleet.json")
_REMEMBERED = 32  # revisions: the tip, and those at which apps stayed whose manifests are broken since
_MOST = 5_000  # manifests of one tree
_MOST_BYTES = 4 * 1024 * 1024  # of all of them; what is read stays in memory, and takes many times this
_MOST_NEAR = 200  # files that look like manifests and are read for their names
_NEAR = 0.85  # one letter more, less, wrong or in the wrong place
# Bounded repeats: these run over text of which nothing is known but its length.
_KIND = re.compile(r"""^[ \t{]{0,8}["']?kind["']?[ \t]{0,8}:[ \t]{0,8}["']?(App|Fleet)\b""", re.MULTILINE)
_NAME_LINE = re.compile(
    r"""^(?:name|[ \t{]{0,8}"name")[ \t]{0,8}:[ \t]{0,8}["']?([a-z0-9-]{1,64})["']?[ \t]{0,8}(?:[,#}]|\r?$)""",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A file that has been read and validated."""

    root: Node | None
    problems: tuple[Problem, ...]
    damaged: frozenset[str]
    name: str | None
    """The app's name, as far as it can be told."""
    said: bool
    """The file itself says the name; else the folder does."""


@dataclass(slots=True, eq=False)
class _Revision:
    """What was made of a tree, kept because most of the next one is the same."""

    entries: Mapping[str, Entry]
    catalog: Catalog = field(default_factory=lambda: Catalog({}))
    checked: dict[tuple[str, str], _Checked] = field(default_factory=dict)
    drafts: dict[tuple[str, str, str], Draft] = field(default_factory=dict)
    sealed: dict[tuple[str, str], Sealed] = field(default_factory=dict)


class ManifestReader:
    """Reads trees, and remembers what it has read by path and blob.

    Args:
        schemas: The schemas ``app`` and ``fleet``.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        others = {str(schema["$id"]).rpartition("/")[2]: schema for schema in schemas.values()}
        self._app = Validator(schemas["app"], others)
        self._fleet = Validator(schemas["fleet"], others)
        self._revisions: deque[_Revision] = deque(maxlen=_REMEMBERED)

    def read(self, tree: Tree) -> Catalog:
        """The catalog of a tree. A tree whose files are all known costs a comparison of the listings."""
        entries = tree.entries
        same = (known for known in self._revisions if known.entries is entries)
        equal = (known for known in self._revisions if known.entries == entries)
        known = next(same, None) or next(equal, None)
        if known is not None:
            self._revisions.remove(known)
            self._revisions.appendleft(known)
            return known.catalog
        revision = _Revision(entries)
        revision.catalog = _Reading(self, tree, revision).catalog()
        self._revisions.appendleft(revision)
        return revision.catalog

    def checked(self, tree: Tree, path: str, now: _Revision) -> _Checked:
        """One file, from memory where it is the same."""
        entry = tree.entries[path]
        key = (path, entry.blob)
        if key not in now.checked:
            remembered = next((each.checked[key] for each in self._revisions if key in each.checked), None)
            now.checked[key] = remembered or self._check(tree, path, entry)
        return now.checked[key]

    def draft(self, checked: _Checked, path: str, blob: str, fleet: tuple[str, Fleet], now: _Revision) -> Draft | None:
        """What a manifest says upon the defaults of a fleet (with its blob); None when it is unreadable."""
        if checked.root is None:
            return None
        key = (path, blob, fleet[0])
        if key not in now.drafts:
            remembered = next((each.drafts[key] for each in self._revisions if key in each.drafts), None)
            now.drafts[key] = remembered or draft(
                path, checked.name or "", fleet[1].apply(checked.root), checked.damaged
            )
        return now.drafts[key]

    def sealed(self, tree: Tree, path: str, now: _Revision) -> Sealed:
        """A look at a SOPS file, from memory where it is the same."""
        key = (path, tree.entries[path].blob)
        if key not in now.sealed:
            remembered = next((each.sealed[key] for each in self._revisions if key in each.sealed), None)
            now.sealed[key] = remembered or _look(tree, path)
        return now.sealed[key]

    def _check(self, tree: Tree, path: str, entry: Entry) -> _Checked:
        document, content = _read(tree, path, entry)
        is_fleet = path in FLEETS
        name, said = (None, False) if is_fleet else _name(path, document, content)
        if document.root is None:
            return _Checked(None, _for_app(document.problems, name), frozenset(), name, said)
        found = (self._fleet if is_fleet else self._app).check(document.root, name, document.problems)
        problems = [*_for_app(document.problems, name), *found.problems]
        if not is_fleet and not isinstance(document.root.value, dict):
            return _Checked(None, in_order(problems), frozenset(), name, said)
        if not is_fleet and not said and name is None and "name" not in document.root.fields:
            problems.append(document.root.problem(_nameless(path)))
        return _Checked(document.root, in_order(problems), found.damaged_keys, name, said)


class _Reading:
    """One tree on its way to a catalog."""

    def __init__(self, reader: ManifestReader, tree: Tree, now: _Revision) -> None:
        self._reader = reader
        self._tree = tree
        self._now = now
        self._problems: list[Problem] = []
        self._broken: dict[str, str | None] = {}

    def catalog(self) -> Catalog:
        every = [path for path in self._tree.entries if path.rpartition("/")[2] in MANIFESTS]
        paths = self._bounded(every)
        fleet, fleet_broken = self._read_fleet()
        checked = {path: self._reader.checked(self._tree, path, self._now) for path in paths}
        drafts = [
            made
            for path in paths
            if (made := self._reader.draft(checked[path], path, self._tree.entries[path].blob, fleet, self._now))
        ]
        near = self._near_misses(drafts, {path.rpartition("/")[0] for path in every})
        claimed = {each.name for each in checked.values() if each.name}
        found = check(
            [each for each in drafts if each.app.name],
            Surroundings(
                files=self._tree.entries,
                manifests=frozenset(every),
                names=claimed | {name for name in near.values() if name},
                fleet=fleet[1],
                sealed=lambda path: self._reader.sealed(self._tree, path, self._now),
            ),
        )
        twins = self._twins(paths, checked)
        usable: dict[str, App] = {}
        for made in drafts:
            path = made.app.manifest
            problems = [*checked[path].problems, *made.problems, *found.get(path, ())]
            self._problems += problems
            if not problems and path not in twins and not fleet_broken:
                usable[made.app.name] = made.app
        for path in paths:
            name = checked[path].name
            if checked[path].root is None:
                self._problems += checked[path].problems
            if name not in usable:
                self._broken[path] = name
            elif usable[name].manifest != path:
                # Unreadable, and its name is another app's: nobody knows which app this was.
                self._broken[path] = None
        self._broken.update({path: name for path, name in near.items() if name not in usable})
        return Catalog(
            apps=dict(sorted(usable.items())),
            problems=in_order(self._problems),
            broken=tuple(BrokenManifest(path, name) for path, name in sorted(self._broken.items())),
            fleet=fleet[1].hosts,
            fleet_broken=fleet_broken,
        )

    def _bounded(self, paths: Sequence[str]) -> list[str]:
        """The manifests that are read. Of the others nobody knows which apps they are, so all of these stay."""
        read: list[str] = []
        total = 0
        for path in sorted(paths):
            total += min(self._tree.entries[path].size, LARGEST)
            if len(read) < _MOST and total <= _MOST_BYTES:
                read.append(path)
                continue
            if len(self._broken) < MOST_PROBLEMS:
                message = (
                    f"this manifest is not read: {_MOST} with {_MOST_BYTES} bytes in all are allowed, and here are "
                    f"{len(paths)}"
                )
                self._problems.append(Problem(path, 1, 1, message))
            self._broken[path] = None
        return read

    def _read_fleet(self) -> tuple[tuple[str, Fleet], bool]:
        """The fleet with the blob it came from, and whether it is broken."""
        paths = [path for path in FLEETS if path in self._tree.entries]
        if not paths:
            misspelt = [path for path in self._tree.entries if "/" not in path and self._is_near(path, FLEETS, "Fleet")]
            self._problems += [
                Problem(path, 1, 1, f"this file is not read; did you mean {_closest(path, FLEETS)!r}?")
                for path in misspelt
            ]
            return ("", Fleet()), bool(misspelt)
        if len(paths) > 1:
            self._problems += [
                Problem(path, 1, 1, f"there can be one fleet; here are {', '.join(paths)}") for path in paths
            ]
        checked = self._reader.checked(self._tree, paths[0], self._now)
        self._problems += checked.problems
        if checked.root is None or checked.problems or len(paths) > 1:
            return ("", Fleet()), True
        fleet, problems = read_fleet(checked.root)
        self._problems += problems
        return (self._tree.entries[paths[0]].blob, fleet), bool(problems)

    def _near_misses(self, drafts: Sequence[Draft], folders: set[str]) -> Mapping[str, str | None]:
        """Files that were probably meant to be manifests, in folders without one, and the apps they would be."""
        mounted = {file.source for made in drafts for file in made.app.files}
        near: dict[str, str | None] = {}
        for path in self._tree.entries:
            folder, _, name = path.rpartition("/")
            if path in mounted or not self._is_near(path, MANIFESTS, "App"):
                continue
            app = _folder_name(path)
            message = f"this file is not read; did you mean {_closest(name, MANIFESTS)!r}?"
            if folder not in folders and len(near) >= _MOST_NEAR:
                near[path] = app = None
            elif folder not in folders:
                app = self._reader.checked(self._tree, path, self._now).name or app
                near[path] = app
                message += f" Until then nothing of app {app!r} is changed or removed" if app else ""
            self._problems.append(Problem(path, 1, 1, message, app, "warning"))
        return near

    def _is_near(self, path: str, names: tuple[str, ...], kind: str) -> bool:
        name = path.rpartition("/")[2]
        if not _looks_like(name, names):
            return False
        if name.lower() in names:
            return True
        entry = self._tree.entries[path]
        text = self._tree.read(path).decode("utf-8", "replace") if entry.size <= LARGEST else ""
        return any(match[1] == kind for match in _KIND.finditer(text))

    def _twins(self, paths: Sequence[str], checked: Mapping[str, _Checked]) -> set[str]:
        by_folder: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            by_folder[path.rpartition("/")[0]].append(path)
        twins = {path for siblings in by_folder.values() if len(siblings) > 1 for path in siblings}
        for path in twins:
            names = ", ".join(sorted(each.rpartition("/")[2] for each in by_folder[path.rpartition("/")[0]]))
            self._problems.append(
                Problem(path, 1, 1, f"a folder holds one manifest, this one holds {names}", checked[path].name)
            )
        return twins


def _look(tree: Tree, path: str) -> Sealed:
    entry = tree.entries[path]
    if entry.size > LARGEST_FILE:  # the tree refuses to read it
        message = f"the file has {entry.size} bytes; at most {LARGEST_FILE} are allowed"
        return Sealed(problems=(Problem(path, 1, 1, message),))
    return look(path, tree.read(path))


def _read(tree: Tree, path: str, entry: Entry) -> tuple[Document, bytes]:
    if entry.size > LARGEST:  # not even read
        message = f"the file has {entry.size} bytes; at most {LARGEST} are allowed"
        return Document(None, (Problem(path, 1, 1, message),)), b""
    content = tree.read(path)
    return read(path, content), content


def _name(path: str, document: Document, content: bytes) -> tuple[str | None, bool]:
    """The app's name as far as it can be told, and whether the file says it."""
    if document.root is None:
        match = _NAME_LINE.search(content.decode("utf-8", "replace"))
        said = match[1] if match and NAME.fullmatch(match[1]) else None
        return (said, True) if said else (_folder_name(path), False)
    node = document.root.at("name")
    if node is None:
        return _folder_name(path), False
    return (node.text, True) if isinstance(node.value, str) and NAME.fullmatch(node.text) else (None, False)


def _folder_name(path: str) -> str | None:
    name = path.rpartition("/")[0].rpartition("/")[2]
    return name if NAME.fullmatch(name) else None


def _nameless(path: str) -> str:
    folder = path.rpartition("/")[0].rpartition("/")[2]
    if not folder:
        return "a manifest at the root of the repository needs a 'name'"
    return (
        f"the folder's name {folder!r} cannot be the app's: give a 'name' of lower-case letters, digits "
        "and '-', at most 40, with a letter or digit at both ends"
    )


def _for_app(problems: Sequence[Problem], app: str | None) -> tuple[Problem, ...]:
    return tuple(Problem(each.path, each.line, each.column, each.message, app, each.severity) for each in problems)


@lru_cache(maxsize=4096)
def _looks_like(name: str, names: tuple[str, ...]) -> bool:
    return name not in names and bool(get_close_matches(name.lower(), names, n=1, cutoff=_NEAR))


def _closest(name: str, names: tuple[str, ...]) -> str:
    return get_close_matches(name.lower(), names, n=1, cutoff=0.0)[0]
