"""Images: fetched from registries, asked for the user they run as, and removed when nobody needs them."""

from __future__ import annotations

import io
import posixpath
import re
import secrets
import tarfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.core.images import normalise, other_names, registry_of, repository_of
from reconciler.core.model import Credentials
from reconciler.core.ownership import TEMPORARY, is_temporary, temporary
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable
from reconciler.world.containers.clients import CONFLICT, NOT_FOUND, Answered, Clients

if TYPE_CHECKING:
    from reconciler.world.containers.wire import Client

_PULL_TIMEOUT = 600.0  # seconds for a whole pull
_LEFTOVER = 600.0  # seconds after which a container that only serves to look into an image was left by a crash
_LARGEST_FILE = 4 * 1024 * 1024  # bytes of /etc/passwd that are read
_LAST_ID = 2**31 - 1  # of users and groups; the engine takes no higher ones either


class Images:
    """Pulls and looks into images."""

    def __init__(self, clients: Clients, key: bytes) -> None:
        self._clients = clients
        self._key = key
        self._users: dict[tuple[str, str | None], tuple[int, int]] = {}

    # --- registries

    def pull(self, reference: str, credentials: Credentials | None) -> str:
        """Pull and return the image's id. The engine keeps what it has already when a pull ends early."""
        deadline = time.monotonic() + _PULL_TIMEOUT
        try:
            with self._clients.speaking(f"pull {reference}") as client:
                for line in client.pull(reference, stream=True, decode=True, auth_config=_auth(credentials)):
                    _check_pull(reference, line, deadline)
                return str(client.inspect_image(reference)["Id"])
        except Answered as answer:
            raise _registry_error(reference, answer, credentials) from answer

    # --- those that nobody needs

    def identities(self) -> frozenset[str]:
        """Ids of all images, asked now."""
        with self._clients.speaking("list images") as client:
            return frozenset(each["Id"] for each in client.images())

    def collect(self, image: str, names: Collection[str]) -> None:
        """Remove an image that is called nothing but ``names``. No error when it is gone.

        By its id and never by force: so the engine itself refuses where in this very moment a container is made of it,
        another image builds on it, or a person gives it a name.

        Raises:
            Refused: ``ImageInUse``.
        """
        try:
            with self._clients.speaking(f"remove image {image[:19]}") as client:
                inspected = client.inspect_image(image)
                tags, digests = _names(inspected, "RepoTags"), _names(inspected, "RepoDigests")
                others = other_names(map(normalise, (*tags, *digests)), names)
                if others:
                    raise _in_use(names, f"it is called {', '.join(others)} too")
                spare = _spare_names(tags, digests)
                if spare and client.containers(all=True, quiet=True, filters={"ancestor": image}):
                    raise _in_use(names, "a container was made of it")
                for name in (*spare, image):
                    client.remove_image(name, noprune=True)  # what it was built from, on this host, is a person's
        except Answered as answer:
            if answer.status == CONFLICT:
                raise _in_use(names, answer.text) from answer
            if answer.status != NOT_FOUND:
                raise

    # --- users

    def resolve_user(self, image: str, user: str | None) -> tuple[int, int]:
        """Numeric user and group, by the engine's own rules (a bare number takes its group from /etc/passwd)."""
        known = self._users.get((image, user))
        if known is None:
            known = self._look_up_user(image, user)
            if image.startswith("sha256:"):  # what a tag means may change
                self._users[image, user] = known
        return known

    def _look_up_user(self, image: str, user: str | None) -> tuple[int, int]:
        with self._clients.speaking(f"inspect image {image}") as client:
            effective = user or str((client.inspect_image(image).get("Config") or {}).get("User") or "")
        name, _, group = effective.partition(":")
        if not name:
            return 0, 0
        uid, gid = _number(name), _number(group)
        if uid is not None and gid is not None:
            return uid, gid
        passwd, groups = self._read_files(image, "/etc/passwd", "/etc/group")
        return find_user(passwd, groups, name, group, image)

    def _read_files(self, image: str, *paths: str) -> list[str]:
        """Text files of an image, read from a container that never runs; empty where there is none."""
        name = f"reconciler-look-{secrets.token_hex(6)}"
        with self._clients.speaking(f"look into image {image}") as client:
            self._remove_leftovers(client)
            container = client.create_container(
                image,
                command=["never-started"],
                name=name,
                labels=temporary(name, self._key),
                host_config=client.create_host_config(network_mode="none"),
            )["Id"]
            try:
                return [_read_file(client, container, path) for path in paths]
            finally:
                client.remove_container(container, v=True, force=True)

    def _remove_leftovers(self, client: Client) -> None:
        for each in client.containers(all=True, filters={"label": TEMPORARY, "status": "created"}):
            name = each["Names"][0].lstrip("/")
            if is_temporary(name, each["Labels"], self._key) and time.time() - each["Created"] > _LEFTOVER:
                client.remove_container(each["Id"], v=True, force=True)


def _names(inspected: Mapping[str, Any], kind: str) -> list[str]:
    return sorted(name for name in inspected.get(kind) or () if not name.startswith("<none>"))


def _spare_names(tags: Sequence[str], digests: Sequence[str]) -> list[str]:
    """All but one tag, and digests of other repositories than its: with those the engine removes nothing by id."""
    kept = repository_of(next(iter((*tags, *digests)), ""))
    return [*(digest for digest in digests if repository_of(digest) != kept), *tags[1:]]


def _in_use(names: Collection[str], why: str) -> Refused:
    return Refused(f"the image {', '.join(sorted(names))} stays on this host: {why}", reason="ImageInUse")


def find_user(passwd: str, groups: str, name: str, group: str, image: str) -> tuple[int, int]:
    """User and group by name or number in the texts of /etc/passwd and /etc/group.

    Raises:
        Failed: A name that is not there.
    """
    # As the engine does: the first line wins; a number is never a user's name, but may be a group's.
    number = _number(name)
    entry = next((fields for fields in _records(passwd, 4) if fields[0 if number is None else 2] == name), None)
    if entry is None and number is None:
        raise _unknown(image, "user", name, "passwd")
    uid, gid = (int(entry[2]), int(entry[3])) if entry is not None else (number or 0, 0)
    if not group:
        return uid, gid
    named = next((fields[2] for fields in _records(groups, 3) if group in {fields[0], fields[2]}), group)
    found = _number(named)
    if found is None:
        raise _unknown(image, "group", group, "group")
    return uid, found


def _number(text: str) -> int | None:
    """A user or group as a number; None for a name, and for a number that no kernel knows."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_LAST_ID))
    return int(text) if digits and int(text) <= _LAST_ID else None


def _unknown(image: str, what: str, name: str, file: str) -> Failed:
    return Failed(
        f"the image {image} has no {what} {name!r} in /etc/{file}",
        reason="UserUnknown",
        remedy=f"Write the number (up to {_LAST_ID}) instead, or add the {what} to the image",
    )


def _records(text: str, fields: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        record = line.split(":")
        if len(record) >= fields and all(_number(each) is not None for each in record[2:fields]):
            yield record


def _read_file(client: Client, container: str, path: str) -> str:
    """A text file of a container, through symbolic links; empty where there is none."""
    import docker.errors  # noqa: PLC0415  (loaded already: there is a client)

    for _ in range(5):
        try:
            stream, _ = client.get_archive(container, path)
        except docker.errors.NotFound:
            return ""
        archive = io.BytesIO()
        for chunk in stream:
            archive.write(chunk)
            if archive.tell() > _LARGEST_FILE:
                return ""
        archive.seek(0)
        with tarfile.open(fileobj=archive) as opened:
            member = opened.next()
            if member is None:
                return ""
            if member.issym():
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
                continue
            content = opened.extractfile(member)
            return content.read().decode(errors="replace") if content is not None else ""
    return ""


def _check_pull(reference: str, line: Mapping[str, str], deadline: float) -> None:
    if "error" in line:
        raise Answered(f"pull {reference}", 0, line["error"])
    if time.monotonic() > deadline:
        raise Unavailable(
            f"pulling {reference} took longer than {_PULL_TIMEOUT:g} s",
            reason="RegistryUnavailable",
            remedy="Look at the network; layers that were fetched are kept, and the next pull goes on from there",
        )


def _auth(credentials: Credentials | None) -> dict[str, str] | None:
    """What the SDK encodes into one header; None lets it use what ``docker login`` left for root."""
    return None if credentials is None else {"username": credentials[0], "password": credentials[1].reveal().decode()}


_MISSING = (
    "manifest unknown",
    "not found",
    "no matching manifest",
    "name unknown",
    "invalid reference format",
    "invalid tag format",
    "name invalid",
)
_DENIED = re.compile(r"\b(?:unauthorized|no basic auth credentials|denied|forbidden|401|403)\b")
_ADDRESS = re.compile(r"https?://[^\s\"]+")


def _said(reference: str, text: str) -> str:
    """What is left of an answer without the image's name: ``shop:403`` is not forbidden."""
    repository = re.sub(r"(?<=[^/]):[^/]*$|@.*$", "", reference)
    said = _ADDRESS.sub(" ", text.lower())
    for name in (reference, repository, repository.partition("/")[2]):
        said = re.sub(rf"(?<![\w/.-]){re.escape(name.lower())}(?![\w-])", " ", said) if name else said
    return said


def _registry_error(reference: str, answer: Answered, credentials: Credentials | None) -> ReconcilerError:
    """Engines of all versions say in words, not in codes, what a registry answered."""
    registry, text = registry_of(reference), _said(reference, answer.text)
    if answer.reason == "DiskFull":
        return answer
    # First: "lookup HOST: no such host" and "dial tcp ..." may go on with words of the two below.
    if "dial tcp" in text or "lookup " in text or "timeout" in text or "toomanyrequests" in text:
        pass
    elif _DENIED.search(text):
        remedy = (
            "Check the user and password in the SOPS file that registry_credentials names"
            if credentials is not None
            else "Name a SOPS file under registry_credentials, or check the image's name"
        )
        return Failed(
            f"the registry {registry} denies {reference}: {answer.text}", reason="RegistryDenied", remedy=remedy
        )
    elif answer.status == NOT_FOUND or any(word in text for word in _MISSING):
        return Failed(
            f"there is no image {reference} in {registry}: {answer.text}",
            reason="ImageNotFound",
            remedy="Check name and tag, and that the build has pushed it",
        )
    return Unavailable(
        f"the registry {registry} cannot give {reference} now: {answer.text}",
        reason="RegistryUnavailable",
        remedy="Look at the registry and the way to it; the agent tries again by itself",
    )
