"""From a checked manifest to what this host should have: the container's settings, its mounts, its fingerprint."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reconciler.core.model import App, Secret
from reconciler.core.paths import stored_name
from reconciler.core.target import ContainerSpec, DesiredApp, FileContent, HealthCommand, Mount

SECRETS_TARGET = "/run/secrets"


@dataclass(frozen=True, slots=True)
class Roots:
    """Where mounted files and secrets are kept on this host, as absolute paths."""

    files: str
    secrets: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a manifest refers to."""

    image: str
    """Image id; for an image that is not here yet, any text that stands for it."""
    secrets: Mapping[str, Secret]
    """Everything in the app's SOPS file."""
    files: Mapping[str, bytes]
    """Content by ``File.source``."""


def resolve(app: App, revision: str, inputs: Inputs, key: bytes, roots: Roots) -> DesiredApp:
    """Resolve one app.

    Args:
        app: The manifest, already checked: every secret key and file it names is in ``inputs``.
        revision: The commit it stands in. It does not enter the fingerprint.
        inputs: Image, secrets and files.
        key: The host's key; hashes of secrets are keyed, because a plain hash of a short secret can be guessed.
        roots: Where files will be.
    """
    variables = set(app.secrets.environment) if app.secrets else set()
    hidden = _registry_keys(app)
    secret_environment = {name: inputs.secrets[name] for name in sorted(variables)}
    secret_files = {name: value for name, value in inputs.secrets.items() if name not in variables | hidden}
    files = tuple(FileContent(file.target, inputs.files[file.source], file.mode) for file in app.files)
    hashes = _hashes(app, inputs.image, secret_environment, secret_files, files, key)
    # Ownership of secret files follows the user, which may come from the image: both belong to the directory's name.
    secrets_digest = _combine(
        {name: hashes[name] for name in hashes if name.startswith("secrets.file.")}, app.user or "", inputs.image
    )
    files_digest = _combine({name: hashes[name] for name in hashes if name.startswith("files.")})
    files_directory = f"{roots.files}/{app.name}/{files_digest}" if files else ""
    secrets_directory = f"{roots.secrets}/{app.name}/{secrets_digest}" if secret_files else ""
    return DesiredApp(
        app=app,
        revision=revision,
        fingerprint=_combine(hashes),
        # Where the younger fields are not set they are left out: what older agents gave up stays given up.
        trial=_combine(hashes, repr(app.health), repr(app.before_deploy).replace(", on='', check=()", "")),
        fields={name: value[:12] for name, value in hashes.items()},
        spec=_spec(app, inputs.image, secret_environment, _mounts(app, files_directory, secrets_directory)),
        files=files,
        files_directory=files_directory,
        secret_files=secret_files,
        secrets_directory=secrets_directory,
    )


def changed_fields(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the fields in which two fingerprints differ, for people: ``image``, ``environment.LOG_LEVEL``."""
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _registry_keys(app: App) -> set[str]:
    """Keys of the app's own secrets file that are for us and not for the container."""
    credentials = app.registry_credentials
    if credentials is None or app.secrets is None or credentials.file != app.secrets.file:
        return set()
    return {credentials.username, credentials.password}


def _spec(app: App, image: str, secret_environment: Mapping[str, Secret], mounts: tuple[Mount, ...]) -> ContainerSpec:
    health = None
    if app.health.kind == "command":
        check = app.health
        health = HealthCommand(check.command, check.interval, check.timeout, check.retries, check.start_period)
    return ContainerSpec(
        image=image,
        command=app.command,
        entrypoint=app.entrypoint,
        user=app.user,
        working_dir=app.working_dir,
        environment={**app.environment, **secret_environment},
        mounts=mounts,
        tmpfs=app.tmpfs,
        ports=app.ports,
        labels=app.labels,
        cpus=app.resources.cpus,
        memory=app.resources.memory,
        pids=app.resources.pids,
        cap_add=app.cap_add,
        read_only=app.read_only,
        health=health,
        stop_signal=app.stop_signal,
        stop_grace_period=app.stop_grace_period,
    )


def _mounts(app: App, files_directory: str, secrets_directory: str) -> tuple[Mount, ...]:
    mounts = [
        Mount("bind" if volume.source.startswith("/") else "volume", volume.source, volume.target, volume.read_only)
        for volume in app.volumes
    ]
    mounts += [
        Mount("bind", f"{files_directory}/{stored_name(file.target)}", file.target, read_only=True)
        for file in app.files
    ]
    if secrets_directory:
        mounts.append(Mount("bind", secrets_directory, SECRETS_TARGET, read_only=True))
    return tuple(mounts)


def _hashes(
    app: App,
    image: str,
    secret_environment: Mapping[str, Secret],
    secret_files: Mapping[str, Secret],
    files: tuple[FileContent, ...],
    key: bytes,
) -> dict[str, str]:
    """Field name -> keyed hash. Unset fields are left out, so that an agent that learns a new one redeploys nothing."""
    hashes = {name: _digest(key, name, _canonical(value)) for name, value in _plain(app, image) if value not in _UNSET}
    for kind, secrets in (("environment", secret_environment), ("file", secret_files)):
        for name, secret in secrets.items():
            field = f"secrets.{kind}.{name}"
            hashes[field] = _digest(key, field, secret.reveal())
    for file in files:
        field = f"files.{file.target}"
        hashes[field] = _digest(key, field, b"%o\0" % file.mode + file.content)
    return hashes


_UNSET: tuple[object, ...] = (None, (), [], {}, False)


def _plain(app: App, image: str) -> Iterator[tuple[str, object]]:
    yield "image", image
    yield "command", app.command
    yield "entrypoint", app.entrypoint
    yield "user", app.user
    yield "working_dir", app.working_dir
    for name, value in app.environment.items():
        yield f"environment.{name}", [value]  # in a list: an empty value is not an unset one
    yield "volumes", sorted([v.source, v.target, v.read_only] for v in app.volumes)
    yield "tmpfs", app.tmpfs
    yield "ports", sorted([p.address, p.host, p.container, p.protocol] for p in app.ports)
    for name, value in app.labels.items():
        yield f"labels.{name}", [value]
    yield "resources.cpus", app.resources.cpus
    yield "resources.memory", app.resources.memory
    yield "resources.pids", app.resources.pids
    yield "cap_add", sorted(app.cap_add)
    yield "read_only", app.read_only
    if app.health.kind == "command":
        check = app.health
        yield "health", [check.command, check.interval, check.timeout, check.retries, check.start_period]
    yield "stop_signal", app.stop_signal
    yield "stop_grace_period", app.stop_grace_period


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(key: bytes, name: str, value: bytes) -> str:
    return hmac.new(key, b"%d:%s:%d:" % (len(name), name.encode(), len(value)) + value, hashlib.sha256).hexdigest()


def _combine(hashes: Mapping[str, str], *more: str) -> str:
    return hashlib.sha256(_canonical([sorted(hashes.items()), *more])).hexdigest()[:16]
