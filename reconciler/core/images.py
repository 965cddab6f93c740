"""Image references as people write them and as Docker stores them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

DOCKER_HUB = "docker.io"
_HUB_NAMES = (DOCKER_HUB, "index.docker.io")


def normalise(reference: str) -> str:
    """The form that Docker itself lists: ``nginx`` and ``docker.io/library/nginx:latest`` are ``nginx:latest``.

    A digest wins over a tag, as it does in a pull: ``shop:1@sha256:...`` is ``shop@sha256:...``.
    """
    name, tag, digest = _parts(reference)
    host, _, path = name.partition("/")
    if path and host in _HUB_NAMES:
        name = path
    if name.count("/") == 1:
        name = name.removeprefix("library/")
    return f"{name}@{digest}" if digest else f"{name}:{tag or 'latest'}"


def registry_of(reference: str) -> str:
    """The registry's host, with its port where one is written; ``docker.io`` where none is named."""
    host, slash, _ = _parts(reference)[0].partition("/")
    if not slash or (host != "localhost" and "." not in host and ":" not in host):
        return DOCKER_HUB
    return DOCKER_HUB if host in _HUB_NAMES else host


def repository_of(reference: str) -> str:
    """The reference without tag and digest."""
    return _parts(reference)[0]


def other_names(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Those of an image's names that somebody else gave it; all are normalised.

    Args:
        names: Tags and digests that lead to the image.
        known: What it was pulled by. A pull gives it a digest too, so one of the same repository says nothing.
    """
    ours = set(map(repository_of, known))
    return [name for name in names if name not in known and not ("@" in name and repository_of(name) in ours)]


def _parts(reference: str) -> tuple[str, str, str]:
    """Name, tag and digest; the last two may be empty."""
    name, _, digest = reference.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")  # a colon before the last slash belongs to a registry's port
    return f"{head}{slash}{last}", tag, digest
