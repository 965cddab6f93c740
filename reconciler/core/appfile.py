"""A manifest that its schema accepts becomes an App, and what no schema can say about one manifest is checked."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from reconciler.core.convert import (
    as_bool,
    as_bytes,
    as_float,
    as_int,
    as_mapping,
    as_mode,
    as_seconds,
    as_text,
    as_texts,
    as_volume,
    given,
)
from reconciler.core.direction import RESERVED
from reconciler.core.model import (
    App,
    CanaryStep,
    File,
    Health,
    Ingress,
    Problem,
    PublishedPort,
    RegistryCredentials,
    Rehearsal,
    Resources,
    Rollout,
    SecretsFile,
    Task,
)
from reconciler.core.node import Node, in_order
from reconciler.core.units import size

NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""An app's name: a DNS label that leaves room for what is made of it."""

_RESERVED = {
    "unix": "nginx takes http://unix:8080 for a socket file",
    "localhost": "every program takes it for itself",
}

SECRETS_TARGET = "/run/secrets"
_LEAST_MEMORY = 6 * 1024 * 1024  # the engine refuses less
_LAST_PORT = 65_535
_LAST_ID = 2**31 - 1  # the engine takes no higher ones
_LAST_BYTE = 255
_OUR_HOSTS = "reconciler.invalid"  # nginx answers for the agent under these names


@dataclass(frozen=True, slots=True)
class Draft:
    """What a manifest says, usable or not."""

    app: App
    """Where something is wrong the defaults stand; only a draft without problems may be used."""
    root: Node
    """The manifest upon the fleet's defaults."""
    damaged: frozenset[str]
    """Keys that were left out because something is wrong under them."""
    problems: tuple[Problem, ...]


def draft(path: str, name: str, root: Node, damaged: frozenset[str]) -> Draft:
    """Make what can be made of a manifest.

    Args:
        path: The manifest's path in the tree.
        name: The app's name.
        root: The document upon the fleet's defaults.
        damaged: Keys of its top level that the schema does not accept.
    """
    drafting = _Drafting(path, name, root.without(damaged), damaged)
    app = drafting.app()
    drafting.check(app)
    return Draft(app, root, damaged, in_order(drafting.problems))


def resolve(folder: str, source: str) -> str | None:
    """A path relative to a folder of the tree, or to its root when it begins with ``/``; None when it leads outside."""
    parts = [] if source.startswith("/") else [part for part in folder.split("/") if part]
    for part in source.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts) or None


class _Drafting:
    """One manifest on its way."""

    def __init__(self, path: str, name: str, root: Node, damaged: frozenset[str]) -> None:
        self._path = path
        self._name = name
        self._root = root
        self._damaged = damaged
        self.problems: list[Problem] = []

    def app(self) -> App:
        """The values."""
        root = self._root
        image = root.at("image")
        return App(
            name=self._name,
            manifest=self._path,
            image=image.text if image else "",
            health=self._health(),
            ports=tuple(port for node in root.each("ports") if (port := self._port(node))),
            **given(
                root,
                replicas=as_int,
                hosts=as_texts,
                command=self.command,
                entrypoint=self.command,
                user=as_text,
                working_dir=as_text,
                environment=as_mapping,
                secrets=self._secrets,
                files=lambda node: tuple(file for item in node.items if (file := self._file(item))),
                volumes=lambda node: tuple(as_volume(item) for item in node.items),
                tmpfs=as_texts,
                labels=as_mapping,
                resources=self._resources,
                cap_add=as_texts,
                read_only=as_bool,
                ingress=lambda node: tuple(self._ingress(item) for item in node.items),
                rollout=_rollout,
                depends_on=as_texts,
                before_deploy=self._task,
                after_deploy=self._task,
                rehearse_rollback=self._rehearsal,
                stop_grace_period=as_seconds,
                stop_signal=as_text,
                pull_policy=as_text,
                registry_credentials=self._registry_credentials,
            ),
        )

    def check(self, app: App) -> None:
        """What concerns several keys."""
        self._check_name()
        self._check_user()
        self._check_targets()
        self._check_sources(app)
        self._check_ports(app)
        self._check_ingress()
        self._check_variables(app)
        self._check_health(app)
        self._check_rollout(app)

    def _problem(self, node: Node, message: str) -> None:
        self.problems.append(node.problem(message, self._name))

    def command(self, node: Node) -> tuple[str, ...]:
        """Words, split as a shell would where the manifest has text."""
        if isinstance(node.value, list):
            return as_texts(node)
        try:
            words = tuple(shlex.split(node.text))
        except ValueError:
            self._problem(node, "a quote or backslash in this command is not closed; a list of words needs none")
            return ()
        if not words:
            self._problem(node, "this command is empty")
        return words

    def _resolved(self, node: Node) -> str:
        folder = self._path.rpartition("/")[0]
        resolved = resolve(folder, node.text)
        if resolved is None:
            self._problem(node, "this path leads out of the config repository")
        return resolved or ""

    def _own_file(self, node: Node) -> str:
        """A file that only this app may use: another folder's secrets would decrypt just as well."""
        folder = self._path.rpartition("/")[0]
        resolved = self._resolved(node)
        if resolved and folder and not resolved.startswith(f"{folder}/"):
            self._problem(
                node, f"a SOPS file must stand in the app's own folder, {folder}/, or below it, encrypted for this app"
            )
            return ""
        return resolved

    def _secrets(self, node: Node) -> SecretsFile:
        return SecretsFile(self._own_file(node.fields["file"]), **given(node, environment=as_texts))

    def _registry_credentials(self, node: Node) -> RegistryCredentials:
        return RegistryCredentials(
            self._own_file(node.fields["file"]), **given(node, username=as_text, password=as_text)
        )

    def _file(self, node: Node) -> File | None:
        source = self._resolved(node.fields["source"])
        if is_sops(source):
            self._problem(
                node.fields["source"], "a SOPS file would be mounted as it is, encrypted; name it under 'secrets'"
            )
            return None
        return File(source, node.fields["target"].text, **given(node, mode=as_mode)) if source else None

    def _port(self, node: Node) -> PublishedPort | None:
        port = published(node.text)
        if port is None:
            self._problem(node, f"ports must be from 1 to {_LAST_PORT}, and an address four numbers up to 255")
        return port

    def _resources(self, node: Node) -> Resources:
        memory = node.at("memory")
        if memory is not None and size(memory.text) < _LEAST_MEMORY:
            self._problem(memory, "'memory' must be at least 6MiB; the engine refuses less")
        return Resources(**given(node, cpus=as_float, memory=as_bytes, pids=as_int))

    def _ingress(self, node: Node) -> Ingress:
        return Ingress(
            host=node.fields["host"].text,
            **{"path": "/", **given(node, path=as_text)},
            **given(node, port=as_int, tls=as_text, max_body=as_bytes, timeout=as_seconds),
        )

    def _rehearsal(self, node: Node) -> Rehearsal | None:
        if isinstance(node.value, bool):
            return Rehearsal() if node.value else None
        return Rehearsal(**given(node, command=self.command))

    def _task(self, node: Node) -> Task:
        return Task(**given(node, command=self.command, timeout=as_seconds, on=as_text, check=self.command))

    def _health(self) -> Health:
        node = self._root.at("health")
        ingress = self._root.each("ingress")
        port = as_int(ingress[0].fields["port"]) if ingress else 0
        common = given(
            node,
            interval=as_seconds,
            timeout=as_seconds,
            retries=as_int,
            start_period=as_seconds,
            min_healthy_time=as_seconds,
            deadline=as_seconds,
        )
        match [key for key in ("http", "tcp", "command") if node is not None and key in node.fields]:
            case ["http"] if node is not None:
                http = node.fields["http"]
                own = node.at("port")
                if not port and own is None and "ingress" not in self._damaged:
                    self._problem(
                        http, "'http' needs 'port' beside it, as the app has no ingress whose port could be used"
                    )
                return Health("http", path=http.text, port=as_int(own) if own else port, **common)
            case ["tcp"] if node is not None:
                return Health("tcp", port=as_int(node.fields["tcp"]), **common)
            case ["command"] if node is not None:
                return Health("command", command=self.command(node.fields["command"]), **common)
        return Health("tcp", port=port, **common) if port else Health("engine", **common)

    def _check_name(self) -> None:
        if self._name in _RESERVED:
            why = f"no app can be called {self._name!r}, as {_RESERVED[self._name]}"
            self._problem(self._root.at("name") or self._root, f"{why}; give another 'name'")

    def _check_user(self) -> None:
        node = self._root.at("user")
        for part in node.text.split(":") if node is not None else ():
            if node is not None and part.isdigit() and int(part) > _LAST_ID:
                self._problem(node, f"numbers of users and groups go up to {_LAST_ID}")

    def _check_targets(self) -> None:
        root = self._root
        nodes = [(node, as_volume(node).target) for node in root.each("volumes")]
        nodes += [(node.fields["target"], node.fields["target"].text) for node in root.each("files")]
        nodes += [(node, node.text) for node in root.each("tmpfs")]
        seen: dict[str, Node] = {}
        for node, target in nodes:
            if target == SECRETS_TARGET or target.startswith(f"{SECRETS_TARGET}/"):
                self._problem(node, f"{SECRETS_TARGET} is where the app's secrets are mounted; choose another place")
            elif target in seen:
                self._problem(node, f"something else is mounted at {target} already, by line {seen[target].line}")
            seen.setdefault(target, node)

    def _check_sources(self, app: App) -> None:
        sealed = {each.file for each in (app.secrets, app.registry_credentials) if each is not None}
        for node in self._root.each("files"):
            source = node.fields["source"]
            if resolve(app.folder, source.text) in sealed:
                self._problem(source, "the app's SOPS file would be mounted as it is, encrypted")

    def _check_ports(self, app: App) -> None:
        seen: list[tuple[Node, PublishedPort]] = []
        for node in self._root.each("ports"):
            port = published(node.text)
            if port is None:
                continue
            twin = next((other for other, theirs in seen if collide(port, theirs)), None)
            if twin is not None:
                self._problem(node, f"port {port.host} of the host is published twice, here and in line {twin.line}")
            elif app.replicas > 1:
                self._problem(
                    node,
                    f"{app.replicas} replicas cannot share port {port.host} of the host; use 'ingress', or one replica",
                )
            seen.append((node, port))

    def _check_ingress(self) -> None:
        seen: dict[str, Node] = {}
        for node in self._root.each("ingress"):
            host = node.fields["host"]
            path = node.at("path")
            key = route(host.text, path.text if path else "/")
            if key in seen:
                self._problem(path or host, f"{key} is listed twice, here and in line {seen[key].line}")
            seen.setdefault(key, node)
            if host.text == _OUR_HOSTS or host.text.endswith(f".{_OUR_HOSTS}"):
                self._problem(host, f"host names below {_OUR_HOSTS} are the agent's own")

    def _check_variables(self, app: App) -> None:
        for node in self._root.each("secrets", "environment"):
            if node.text in app.environment:
                self._problem(node, f"{node.text!r} stands under 'environment' too; a variable has one source")
        ours = (
            f"variables that begin with {RESERVED} are the agent's own: it tells before_deploy and after_deploy by them"
        )
        for name, node in (self._root.at("environment") or self._root.without(self._root.fields)).fields.items():
            if name.startswith(RESERVED):
                self.problems.append(node.key_problem(f"{ours}; choose another name", self._name))
        for node in self._root.each("secrets", "environment"):
            if node.text.startswith(RESERVED):
                self._problem(node, f"{ours}; give this key another name, or leave it a file in {SECRETS_TARGET}")

    def _check_health(self, app: App) -> None:
        health = app.health
        if health.min_healthy_time >= health.deadline:
            node = self._root.at("health", "min_healthy_time") or self._root.at("health", "deadline")
            if node is not None:
                self._problem(
                    node,
                    f"app {app.name!r} could never become healthy: 'min_healthy_time' ({health.min_healthy_time:g}s) "
                    f"must be shorter than 'deadline' ({health.deadline:g}s)",
                )

    def _check_rollout(self, app: App) -> None:
        strategy = self._root.at("rollout", "strategy")
        if strategy is not None and app.rollout.strategy == "canary":
            self._check_canary(app, strategy)
        steps = self._root.at("rollout", "steps")
        if steps is not None and steps.path == self._path and app.rollout.strategy != "canary":
            self._problem(steps, f"app {app.name!r}: 'steps' count for 'strategy: canary' alone")
        if strategy is None or app.rollout.strategy in {None, "recreate"}:
            return
        writable = next((volume for volume in app.volumes if not volume.read_only), None)
        why = ""
        if app.ports:
            why = f"both would need port {app.ports[0].host} of the host"
        if writable is not None:
            why = f"both would write to {writable.source}"
        if why:
            self._problem(
                strategy,
                f"app {app.name!r} cannot use {app.rollout.strategy}: the old and the new version run side by side "
                f"for a while, and {why}; use recreate, or leave 'strategy' out",
            )

    def _check_canary(self, app: App, strategy: Node) -> None:
        if not app.ingress and "ingress" not in self._damaged:
            self._problem(
                strategy,
                f"app {app.name!r} has no 'ingress', so there are no requests of which nginx could give a new version "
                "its share; leave 'strategy' out",
            )
        if not app.rollout.steps:
            self._problem(strategy, "canary needs 'steps' beside it, such as steps: [{weight: 10, for: 5m}]")
        before = 0
        for node in self._root.each("rollout", "steps"):
            weight = node.fields["weight"]
            if as_int(weight) <= before:
                self._problem(weight, f"each step's weight must be larger than the one before, which is {before}")
            before = as_int(weight)


def _rollout(node: Node) -> Rollout:
    return Rollout(
        **given(
            node,
            strategy=as_text,
            max_parallel=as_int,
            drain=as_seconds,
            steps=lambda steps: tuple(
                CanaryStep(as_int(step.fields["weight"]), as_seconds(step.fields["for"])) for step in steps.items
            ),
            bake=as_seconds,
            max_errors=as_float,
        )
    )


def is_sops(path: str) -> bool:
    """By its name, as .sops.yaml's rules see it: an encrypted file."""
    return ".sops." in path.rpartition("/")[2]


def route(host: str, path: str) -> str:
    """What two apps must not both claim; a ``/`` at the end makes no difference to people."""
    return f"{host}{path.rstrip('/')}/"


def published(text: str) -> PublishedPort | None:
    """A published port in Compose's short form; None where a number is out of range."""
    numbers, _, protocol = text.partition("/")
    *address, host, container = numbers.split(":")
    if not all(1 <= int(port) <= _LAST_PORT for port in (host, container)):
        return None
    if address and not all(str(int(part)) == part and int(part) <= _LAST_BYTE for part in address[0].split(".")):
        return None
    return PublishedPort(int(host), int(container), "udp" if protocol == "udp" else "tcp", *address)


def collide(one: PublishedPort, other: PublishedPort) -> bool:
    """The host could not listen for both."""
    anywhere = PublishedPort(0, 0).address
    same_address = one.address == other.address or anywhere in {one.address, other.address}
    return same_address and (one.host, one.protocol) == (other.host, other.protocol)
