"""What the repository asks of this host at one revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.model import Catalog
from reconciler.core.routes import Clash
from reconciler.core.target import Target


@dataclass(frozen=True, slots=True)
class Wanted:
    """Every app that belongs here, and nginx's configuration for them."""

    revision: str
    catalog: Catalog
    targets: Mapping[str, Target]
    """Every app of the catalog that belongs on this host, and those that stay because their manifest is broken."""
    generation: str
    """Id of nginx's configuration for ``targets``; empty when this host serves no ingress."""
    site_files: tuple[tuple[str, str], ...] = ()
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Apps that this host had when those that are to go were applied last, and what they depended on; empty when that
    is not known."""
    clashes: tuple[Clash, ...] = ()
    """Paths that two apps want."""
    split: frozenset[str] = frozenset()
    """Apps whose requests nginx deals out to slots in this generation."""
    routes_unknown: tuple[str, ...] = ()
    """Apps whose routes nobody knows, so that nginx goes on as it is: ``generation`` is empty."""
    host: str = ""
    """This host's name."""
