"""What only shows when all manifests lie side by side.

Two apps that claim the same thing are both unusable: nobody knows which of them is right, and both stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.appfile import Draft, collide, is_sops, published, resolve, route
from reconciler.core.fleet import Fleet
from reconciler.core.model import LARGEST_FILE, Entry, Problem
from reconciler.core.node import Node
from reconciler.core.sealed import Sealed
from reconciler.core.validation import listed, suggestion


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the manifests stand in."""

    files: Mapping[str, Entry]
    """Every file of the tree."""
    manifests: Collection[str]
    """Those of them that are manifests, usable or not."""
    names: Collection[str]
    """Every name that a manifest claims, usable or not."""
    fleet: Fleet
    sealed: Callable[[str], Sealed]
    """Looks at a SOPS file of the tree."""


@dataclass(slots=True)
class _Entry:
    """One manifest, and what is found about it."""

    draft: Draft
    hosts: frozenset[str] | None
    """None: every host."""
    placed: bool
    """``hosts:`` is sound, so that we know where the app would run."""
    problems: list[Problem] = field(default_factory=list)
    seals: list[tuple[Node, str, str]] = field(default_factory=list)
    """The SOPS files that it uses: where it names one, its path, and ``Sealed.identity``."""

    @property
    def name(self) -> str:
        return self.draft.app.name

    @property
    def place(self) -> str:
        return self.draft.app.manifest

    def blame(self, node: Node, message: str) -> None:
        self.problems.append(node.problem(message, self.name))

    def meets(self, other: _Entry) -> bool:
        """Some host runs both."""
        if not (self.placed and other.placed):
            return False
        return self.hosts is None or other.hosts is None or not self.hosts.isdisjoint(other.hosts)


def check(drafts: Sequence[Draft], around: Surroundings) -> Mapping[str, Sequence[Problem]]:
    """Find what is wrong between manifests, and between them and their files: manifest's path -> problems."""
    entries = [_entry(draft, around) for draft in drafts]
    by_name: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
    _names(by_name)
    _dependencies(entries, by_name, around)
    _claims(entries, _routes)
    _claims(entries, _volumes)
    _claims(entries, _binds)
    _claims(entries, _ports, _collide)
    for entry in entries:
        _task_host(entry, around.fleet)
        _files(entry, around)
        _secrets(entry, around)
    _copies(entries)
    return {entry.place: entry.problems for entry in entries if entry.problems}


def _entry(draft: Draft, around: Surroundings) -> _Entry:
    fleet = around.fleet
    entry = _Entry(draft, fleet.hosts_of(draft.app.hosts), "hosts" not in draft.damaged)
    if fleet.hosts is not None and entry.placed:
        known = fleet.words
        for node in draft.root.each("hosts"):
            if node.text not in known:
                guess = suggestion(node.text, known) or f"; it has {listed(known) or 'no hosts'}"
                entry.blame(node, f"no host of fleet.yaml has the name or label {node.text!r}{guess}")
                entry.placed = False
    return entry


def _names(by_name: Mapping[str, Sequence[_Entry]]) -> None:
    for name, entries in by_name.items():
        if len(entries) > 1:
            for entry in entries:
                others = ", ".join(other.place for other in entries if other is not entry)
                node = entry.draft.root.at("name") or entry.draft.root
                entry.blame(node, f"the name {name!r} is also claimed by {others}; give one of them another 'name'")


def _task_host(entry: _Entry, fleet: Fleet) -> None:
    """The one host that runs before_deploy for all must be one of the app's."""
    node = entry.draft.root.at("before_deploy", "on")
    if node is None or "before_deploy" in entry.draft.damaged or not entry.placed:
        return
    hosts = entry.hosts if entry.hosts is not None else fleet.hosts
    if hosts is not None and node.text not in hosts:
        guess = suggestion(node.text, hosts) or f"; it runs on {listed(sorted(hosts)) or 'no host'}"
        entry.blame(node, f"'on' must name a host that {entry.name!r} runs on, and {node.text!r} is none{guess}")


# --- dependencies ---------------------------------------------------------------------------------------------------


def _dependencies(entries: Sequence[_Entry], by_name: Mapping[str, Sequence[_Entry]], around: Surroundings) -> None:
    for entry in entries:
        for node in _sound(entry, "depends_on"):
            if node.text not in around.names:
                guess = suggestion(node.text, [name for name in around.names if name != entry.name])
                entry.blame(node, f"there is no app {node.text!r}{guess}")
                continue
            for other in by_name.get(node.text, ())[:1]:
                _same_hosts(entry, node, other, around.fleet)
    edges = {entry.name: [node.text for node in _sound(entry, "depends_on")] for entry in entries}
    for name, cycle in _cycles(edges).items():
        for entry in by_name[name]:
            for node in _sound(entry, "depends_on"):
                if node.text == cycle[1]:
                    entry.blame(node, f"these apps wait for one another for ever: {_shown(cycle)}")


def _same_hosts(entry: _Entry, node: Node, other: _Entry, fleet: Fleet) -> None:
    if not (entry.placed and other.placed) or other.hosts is None:
        return
    mine = entry.hosts if entry.hosts is not None else frozenset(fleet.hosts or ())
    missing = sorted(mine - other.hosts)
    if entry.hosts is None and fleet.hosts is None:
        where = f"every host, but {other.name!r} only on {listed(sorted(other.hosts))}"
    elif missing:
        where = f"{listed(missing)}, but {other.name!r} does not"
    else:
        return
    entry.blame(node, f"{entry.name!r} runs on {where}; apps reach one another on the same host only")


def _cycles(edges: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """The shortest way from each app back to itself, for apps that have one."""
    waiting = {name: {each for each in wanted if each in edges} for name, wanted in edges.items()}
    waited_for: dict[str, list[str]] = defaultdict(list)
    for name, wanted in waiting.items():
        for each in wanted:
            waited_for[each].append(name)
    free = [name for name, wanted in waiting.items() if not wanted]
    for name in free:  # peel off apps that wait for nobody: what remains is in a cycle or waits for one
        for each in waited_for[name]:
            waiting[each].discard(name)
            if not waiting[each]:
                free.append(each)
    left = {name: sorted(wanted) for name, wanted in waiting.items() if wanted}
    return {name: way for name in left if (way := _way_back(name, left))}


def _shown(cycle: Sequence[str]) -> str:
    if len(cycle) > 12:  # noqa: PLR2004  (a line that can still be read)
        cycle = [*cycle[:8], "...", *cycle[-3:]]
    return " -> ".join(cycle)


def _way_back(start: str, edges: Mapping[str, Sequence[str]]) -> list[str]:
    came_from: dict[str, str] = {}
    queue = [start]
    for name in queue:
        for following in edges[name]:
            if following == start:
                way = [start, name]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1] if len(way) > 1 else way
            if following not in came_from:
                came_from[following] = name
                queue.append(following)
    return []


# --- claims that only one app may have on a host --------------------------------------------------------------------

Claimed = tuple[str, str, Node]
"""What two apps must not share, how a message calls it, and where it is claimed."""


def _claims(
    entries: Sequence[_Entry],
    claims_of: Callable[[_Entry], Iterable[Claimed]],
    overlaps: Callable[[Node, Node], bool] = lambda _, __: True,
) -> None:
    claimed: dict[str, list[tuple[_Entry, Node, str]]] = defaultdict(list)
    for entry in entries:
        for key, words, node in claims_of(entry):
            claimed[key].append((entry, node, words))
    for claims in claimed.values():
        if len(claims) == 1:
            continue
        for entry, node, words in claims:
            others = [
                f"{other.name!r} ({theirs.path}:{theirs.line})"
                for other, theirs, _ in claims
                if other is not entry and entry.meets(other) and overlaps(node, theirs)
            ]
            if others:
                entry.blame(node, f"{words} is also claimed by {listed(others)}, on the same host")


def _routes(entry: _Entry) -> Iterator[Claimed]:
    for node in _sound(entry, "ingress"):
        host, path = node.fields["host"], node.at("path")
        key = route(host.text, path.text if path else "/")
        yield key, key, path or host


def _volumes(entry: _Entry) -> Iterator[Claimed]:
    for node, volume in zip(_sound(entry, "volumes"), entry.draft.app.volumes, strict=True):
        if not volume.source.startswith("/"):
            yield volume.source, f"the volume {volume.source!r}", node


def _binds(entry: _Entry) -> Iterator[Claimed]:
    for node, volume in zip(_sound(entry, "volumes"), entry.draft.app.volumes, strict=True):
        if volume.source.startswith("/") and not volume.read_only:
            yield volume.source, f"writing to {volume.source}", node


def _ports(entry: _Entry) -> Iterator[Claimed]:
    for node in _sound(entry, "ports"):
        port = published(node.text)
        if port is not None:
            yield f"{port.host}/{port.protocol}", f"port {port.host} of the host", node


def _collide(one: Node, other: Node) -> bool:
    ports = published(one.text), published(other.text)
    return ports[0] is not None and ports[1] is not None and collide(ports[0], ports[1])


# --- files ----------------------------------------------------------------------------------------------------------


def _files(entry: _Entry, around: Surroundings) -> None:
    for item in _sound(entry, "files"):
        node = item.fields["source"]
        source = resolve(entry.draft.app.folder, node.text)
        if source is None or is_sops(source) or not _exists(entry, node, source, around):
            continue
        size = around.files[source].size
        if size > LARGEST_FILE:
            entry.blame(node, f"{source} has {size} bytes; at most {LARGEST_FILE} can be mounted; use a volume")


def _exists(entry: _Entry, node: Node, path: str, around: Surroundings) -> bool:
    if path in around.files:
        return True
    if any(each.startswith(f"{path}/") for each in around.files):
        entry.blame(node, f"{path} is a directory; name its files one by one")
        return False
    folders = {entry.draft.app.folder, path.rpartition("/")[0]}
    near = [each for each in around.files if each.rpartition("/")[0] in folders and each not in around.manifests]
    entry.blame(node, f"there is no file {path} in the config repository{suggestion(path, near)}")
    return False


def _secrets(entry: _Entry, around: Surroundings) -> None:
    app = entry.draft.app
    looked: set[str] = set()
    if app.secrets is not None:
        node = entry.draft.root.fields["secrets"]
        sealed = _look(entry, node.fields["file"], app.secrets.file, around, looked)
        for item in node.each("environment") if sealed else ():
            if sealed and item.text not in sealed.keys:
                guess = suggestion(item.text, sealed.keys) or f"; it has {listed(sealed.keys) or 'no keys'}"
                # The word is not repeated here, nor below: people write the secret itself where its key belongs.
                entry.blame(item, f"{app.secrets.file} has no such key{guess}")
    if app.registry_credentials is not None:
        credentials = app.registry_credentials
        node = entry.draft.root.fields["registry_credentials"]
        sealed = _look(entry, node.fields["file"], credentials.file, around, looked)
        for key, wanted in (("username", credentials.username), ("password", credentials.password)):
            if sealed and wanted not in sealed.keys:
                entry.blame(
                    node.at(key) or node.fields["file"],
                    f"{key!r} must name a key of {credentials.file}; it has {listed(sealed.keys) or 'no keys'}",
                )


def _look(entry: _Entry, node: Node, path: str, around: Surroundings, looked: set[str]) -> Sealed | None:
    """Look at a SOPS file; None when nothing more can be said about it."""
    if not path or not _exists(entry, node, path, around):
        return None
    owner = _owner(path, around.manifests)
    if owner is not None and owner != entry.place:
        entry.blame(
            node, f"{path} belongs to the app of {owner}; a SOPS file is used by the app in whose folder it stands"
        )
        return None
    if around.files[path].link:
        entry.blame(node, f"{path} is a symbolic link; a SOPS file must itself stand in the app's folder")
        return None
    sealed = around.sealed(path)
    entry.seals.append((node, path, sealed.identity))
    if path not in looked:
        entry.problems += [
            Problem(each.path, each.line, each.column, each.message, entry.name, each.severity)
            for each in sealed.problems
        ]
    looked.add(path)
    return None if sealed.problems else sealed


def _copies(entries: Sequence[_Entry]) -> None:
    """The host's key opens every app's file, wherever a copy of it stands. Who copied cannot be told."""
    users: dict[str, list[tuple[_Entry, Node, str]]] = defaultdict(list)
    for entry in entries:
        for node, path, identity in entry.seals:
            if identity:
                users[identity].append((entry, node, path))
    for uses in users.values():
        for entry, node, path in uses:
            others = sorted({theirs for other, _, theirs in uses if other is not entry})
            if others:
                entry.blame(
                    node,
                    f"{path} and {listed(others)} are copies of one SOPS file, used by several apps; encrypt each "
                    f"app's secrets for themselves (`sops rotate -i {path}` does), and remove what was copied",
                )


def _owner(path: str, manifests: Collection[str]) -> str | None:
    """The manifest in the nearest folder above."""
    folder = path.rpartition("/")[0]
    while True:
        for name in ("app.yaml", "app.yml", "app.json"):
            manifest = f"{folder}/{name}" if folder else name
            if manifest in manifests:
                return manifest
        if not folder:
            return None
        folder = folder.rpartition("/")[0]


def _sound(entry: _Entry, key: str) -> Sequence[Node]:
    return () if key in entry.draft.damaged else entry.draft.root.each(key)
