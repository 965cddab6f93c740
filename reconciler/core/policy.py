"""What a host permits, whatever the repository says."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.images import registry_of
from reconciler.core.model import App, FleetHost

DEFAULT_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
"""What Docker itself gives to every container: an app may ask for these without further permission."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The host's own rules, from the agent's settings."""

    registries: tuple[str, ...] = ()
    """Allowed registries; empty: any."""
    bind_sources: tuple[str, ...] = ()
    """Host directories that apps may mount, with all below them; empty: none. Judged as text here; that no symbolic
    link leads out of them is seen where the container is created."""
    capabilities: tuple[str, ...] = ()
    """Capabilities beyond Docker's default set that apps may add."""


def violation(app: App, policy: Policy) -> str | None:
    """Why this host does not run the app; None when it does."""
    registry = registry_of(app.image)
    if policy.registries and registry not in policy.registries:
        allowed = ", ".join(policy.registries)
        return f"image {app.image} comes from {registry}, but this host's policy.registries allows only {allowed}"
    for volume in app.volumes:
        if volume.source.startswith("/") and not _below(volume.source, policy.bind_sources):
            allowed = ", ".join(policy.bind_sources) or "none"
            return f"it mounts {volume.source} of the host, but this host's policy.bind_sources allows {allowed}"
    for capability in app.cap_add:
        if capability not in DEFAULT_CAPABILITIES | set(policy.capabilities):
            return f"it asks for the capability {capability}, which this host's policy.capabilities does not allow"
    return None


def belongs(app: App, host: str, fleet: Mapping[str, FleetHost] | None) -> bool:
    """Whether a manifest's ``hosts`` picks this host, by name or by label."""
    if not app.hosts:
        return True
    labels = fleet[host].labels if fleet and host in fleet else ()
    return any(wanted == host or wanted in labels for wanted in app.hosts)


def _below(path: str, roots: tuple[str, ...]) -> bool:
    clean = posixpath.normpath(path)
    return any(clean == root.rstrip("/") or clean.startswith(root.rstrip("/") + "/") for root in roots)
