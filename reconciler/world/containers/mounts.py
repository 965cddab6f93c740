"""What a container may mount: nothing that leads elsewhere, and nobody else's volume."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.core import ownership
from reconciler.core.observed import Claim
from reconciler.core.target import Mount
from reconciler.errors import Refused

if TYPE_CHECKING:
    from reconciler.world.containers.wire import Client


def check_binds(claim: Claim, mounts: Iterable[Mount]) -> None:
    """Refuse a directory of the host that is reached through a symbolic link.

    The host's policy has judged the path as text, and Docker follows links: an app that may write below an allowed
    directory could lay a link to /etc there and mount it with the next commit. What this cannot see is a link that is
    laid between this look and the start, or before a later restart by Docker. Nothing but Docker itself could close
    that gap, so the settings say that what one does not trust must not be able to write to an allowed directory.

    Raises:
        Refused: ``BindSourceIsLink``.
    """
    ours = [directory for directory in (claim.files_directory, claim.secrets_directory) if directory]
    for mount in mounts:
        if mount.kind != "bind":
            continue
        source = posixpath.normpath(mount.source)
        if any(source == directory or source.startswith(f"{directory}/") for directory in ours):
            continue  # made by us where only root writes; the operator may have put our state behind a link
        real = os.path.realpath(source)
        if real != source:
            raise Refused(
                f"app {claim.app!r} mounts {source} of the host, which leads through a symbolic link to {real}",
                reason="BindSourceIsLink",
                remedy=f"Look at `namei -l {source}`; if the link is meant, let the manifest and policy.bind_sources "
                "name the real directory",
            )


def take_volume(client: Client, app: str, name: str, key: bytes) -> None:
    """Make a volume, or accept the one of this name that is the app's own.

    Docker cannot label a volume afterwards, so a plain one without our label is the app's too as long as nobody
    else's container uses it: that is how data of before reconciler is taken over.

    Raises:
        Refused: ``ForeignVolume``.
    """
    found = client.create_volume(name, labels={ownership.OWNER: app})  # one that exists is left as it is, labels too
    owner = (found.get("Labels") or {}).get(ownership.OWNER)
    if found.get("Options") or found.get("Driver", "local") != "local":
        why = "it has driver options, so it may lead anywhere on this host"
    elif owner == app:
        return
    elif owner is not None:
        why = f"it belongs to the app {owner!r}"
    elif others := _others(client, app, name, key):
        why = f"it is used by {', '.join(others)}, which reconciler did not make for this app"
    else:
        return
    raise foreign_volume(app, name, why)


def foreign_volume(app: str, name: str, why: str) -> Refused:
    """Why an app does not get a volume, and how it gets the data."""
    return Refused(
        f"the volume {name!r} is not given to the app {app!r}: {why}",
        reason="ForeignVolume",
        remedy="Choose another name. If the app is to have this data: remove the containers that use it (the volume "
        f"stays), or copy it with `docker volume create --label {ownership.OWNER}={app} NEW && docker run --rm "
        f"-v {name}:/from:ro -v NEW:/to busybox cp -a /from/. /to/` and mount NEW",
    )


def _others(client: Client, app: str, name: str, key: bytes) -> list[str]:
    """Containers that use a volume, running or not, and are not this app's."""
    others = []
    for container in client.containers(all=True, filters={"volume": name}):
        if all(mount.get("Name") != name for mount in container.get("Mounts") or ()):
            continue  # Docker's filter also finds what mounts something else at a place of this name
        called = container["Names"][0].lstrip("/")
        claim, owned = ownership.read(called, container.get("Labels") or {}, key)
        if not owned or claim is None or claim.app != app:
            others.append(called)
    return sorted(others)
