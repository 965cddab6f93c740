"""Which app's routes nginx should have now: a version's routes belong to its replicas, and come and go with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from reconciler.core import slots
from reconciler.core.memory import Memory
from reconciler.core.model import App, Ingress
from reconciler.core.observed import Observed, SiteState
from reconciler.core.target import Target


@dataclass(frozen=True, slots=True)
class Routing:
    """What nginx's configuration is rendered from."""

    apps: tuple[App, ...]
    """Of two that want the same path the first has it."""
    unknown: tuple[str, ...]
    """Apps that may have routes, but no manifest of theirs can be read."""
    split: frozenset[str] = frozenset()
    """Apps whose requests are dealt out to slots."""
    is_early: bool = False
    """Some of their slots are not answered yet, so nginx is told of nothing before they are."""

    def lost_on(self, site: SiteState) -> tuple[str, ...]:
        """Those whose routes a new configuration would lose: nginx has one, even if it is down or slow just now."""
        return self.unknown if site.loaded or site.written else ()


def route(targets: Mapping[str, Target], observed: Observed, memory: Memory) -> Routing:
    """Of each app take that version which its name answers.

    A port or path that a commit changes together with the version belongs to the new replicas, and changes with them.
    Nobody takes a path from an app that stays as it was, for a moment or because it is held up: whoever has been at its
    revision for longest comes first. And an app that has never served takes no visitors from one that does.
    """
    claims = [c.claim for c in observed.engine.containers if c.owned and c.claim and c.claim.role == "replica"]
    there = {claim.app for claim in claims}
    fingerprints = {
        c.address: c.claim.fingerprint for c in observed.engine.containers if c.owned and c.claim and c.address
    }
    found: list[tuple[tuple[bool, float, str], bool, App]] = []
    unknown = []
    for name, target in sorted(targets.items()):
        state = observed.names.names.get(name)
        serving = {fingerprints.get(address) for address in (state.written if state else ())}
        app = target.desired.app if target.desired is not None else target.app
        stays = target.blocked is not None
        if target.previous is not None and target.previous.fingerprint in serving:
            app, stays = target.previous.app, True
        if app is None:
            unknown += [name] if name in there else []
        elif app.ingress:
            applied = memory.applied.get(name)
            rank = (not stays, applied.at if applied else inf, name)
            found.append((rank, bool(serving or applied), app))
    found.sort(key=lambda each: each[0])
    proven = [app for _, has_served, app in found if has_served]
    apps = (app if has_served else _modest(app, proven) for _, has_served, app in found)
    split = {
        name
        for name, target in targets.items()
        if (app := target.desired.app if target.desired is not None else target.app) is not None
        and slots.wants(app)
        and slots.are_there(observed.names, name)
    }
    early = any(slots.are_unheard(observed.names, name) for name in split)
    return Routing(tuple(app for app in apps if app.ingress), tuple(unknown), frozenset(split), early)


def _modest(app: App, proven: Iterable[App]) -> App:
    """Without the routes whose visitors another app answers so far."""
    others = [ingress for other in proven for ingress in other.ingress]
    kept = [ingress for ingress in app.ingress if not any(_covers(other, ingress) for other in others)]
    return replace(app, ingress=tuple(kept))


def _covers(wide: Ingress, narrow: Ingress) -> bool:
    path = f"{wide.path.rstrip('/')}/"
    return wide.host == narrow.host and f"{narrow.path.rstrip('/')}/".startswith(path)
