"""Which containers are ours. A label alone proves nothing: containers inherit their image's labels.

Each container carries its Claim in labels, and a signature by this host's key over these and its name. So an image's
LABEL, a container that was renamed and one that another host's agent made are all told apart from ours, and a lost
store changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from typing import get_args

from reconciler.core.observed import Claim, Container, Role
from reconciler.core.target import DesiredApp

PREFIX = "reconciler."
SIGNATURE = f"{PREFIX}signature"
TEMPORARY = f"{PREFIX}temporary"
"""Marks a container that never runs and that its maker removes again."""
OWNER = f"{PREFIX}owner"
"""On networks and volumes. They are never removed by us, so a name is enough and needs no signature."""

_CLAIM = tuple(
    PREFIX + word
    for word in (
        "app",
        "fingerprint",
        "slot",
        "role",
        "manifest",
        "revision",
        "image",
        "fields",
        "files-directory",
        "secrets-directory",
    )
)
_LATER = (f"{PREFIX}run", f"{PREFIX}well")
"""Always written, so that an image cannot bring them, but containers of older agents have none."""


def claim_of(desired: DesiredApp, role: Role, slot: int = 0, *, run: str = "", well: tuple[str, ...] = ()) -> Claim:
    """What a container of this version says it is."""
    return Claim(
        app=desired.name,
        fingerprint=desired.fingerprint,
        slot=slot,
        role=role,
        manifest=desired.app.manifest,
        revision=desired.revision,
        image=desired.app.image,
        fields=desired.fields,
        files_directory=desired.files_directory,
        secrets_directory=desired.secrets_directory,
        run=run,
        well=well,
    )


def labels(name: str, claim: Claim, key: bytes) -> dict[str, str]:
    """The labels that make a container of this name ours."""
    written = dict(
        zip(
            _CLAIM,
            (
                claim.app,
                claim.fingerprint,
                str(claim.slot),
                claim.role,
                claim.manifest,
                claim.revision,
                claim.image,
                json.dumps(dict(claim.fields), sort_keys=True, separators=(",", ":")),
                claim.files_directory,
                claim.secrets_directory,
            ),
            strict=True,
        )
    )
    written |= dict(zip(_LATER, (claim.run, json.dumps(claim.well, separators=(",", ":"))), strict=True))
    return {**written, SIGNATURE: _sign("claim", name, written, key)}


def read(name: str, found: Mapping[str, str], key: bytes) -> tuple[Claim | None, bool]:
    """What a container of this name claims by its labels, and whether our key signed that.

    None where there is no complete claim.
    """
    # Only the words that we write ourselves: an image may bring more labels with our prefix.
    written = {label: found[label] for label in (*_CLAIM, *_LATER) if label in found}
    claim = _parse(written) if all(label in written for label in _CLAIM) else None
    if claim is None:
        return None, False
    return claim, hmac.compare_digest(found.get(SIGNATURE, "").encode(), _sign("claim", name, written, key).encode())


def temporary(name: str, key: bytes) -> dict[str, str]:
    """The labels of a container that only serves to look into an image."""
    return {TEMPORARY: _sign("temporary", name, {}, key)}


def is_temporary(name: str, found: Mapping[str, str], key: bytes) -> bool:
    """Whether ``temporary`` made these labels for this name."""
    return hmac.compare_digest(found.get(TEMPORARY, "").encode(), temporary(name, key)[TEMPORARY].encode())


def _sign(purpose: str, name: str, written: Mapping[str, str], key: bytes) -> str:
    canonical = json.dumps([purpose, name, dict(written)], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()


def _parse(written: Mapping[str, str]) -> Claim | None:
    app, fingerprint, slot, role, manifest, revision, image, fields, files, secrets = (written[word] for word in _CLAIM)
    run, well = written.get(_LATER[0], ""), written.get(_LATER[1], "[]")
    try:
        parsed, names = json.loads(fields), json.loads(well)
        number = int(slot)
    except ValueError:
        return None
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    for known in get_args(Role):
        if role == known:
            return Claim(
                app, fingerprint, number, known, manifest, revision, image, parsed, files, secrets, run, tuple(names)
            )
    return None


def by_app(
    containers: Iterable[Container],
) -> tuple[dict[str, tuple[Container, ...]], dict[str, tuple[Container, ...]]]:
    """Containers by app: those we own, and those that claim to be ours and are not.

    A replica of a rehearsal is none of an app's own: it serves nobody, and nothing may take it for one that does.
    """
    owned: dict[str, tuple[Container, ...]] = {}
    foreign: dict[str, tuple[Container, ...]] = {}
    for container in containers:
        if container.claim is not None and not is_rehearsal(container):
            side = owned if container.owned else foreign
            side[container.claim.app] = (*side.get(container.claim.app, ()), container)
    return owned, foreign


def is_rehearsal(container: Container) -> bool:
    """Whether it is our replica of a version before, tried off the traffic."""
    return container.owned and container.claim is not None and container.claim.role == "rehearsal"
