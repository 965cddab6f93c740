"""What a commit may not remove without a person: most of the apps, or those that a broken file may still ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.memory import Memory
from reconciler.core.observed import Container
from reconciler.core.ownership import by_app
from reconciler.core.target import Target
from reconciler.core.wanted import Wanted

PRUNE_BLOCKED = "PruneBlocked"
Refusal = tuple[frozenset[str], str]


def refused_removals(wanted: Wanted, containers: Iterable[Container], memory: Memory) -> Refusal | None:
    """Apps that the repository no longer names but that must wait for a person, and why.

    The answer is the same once those apps have targets that keep them: ``PRUNE_BLOCKED``.
    """
    owned, _ = by_app(containers)
    # Also those that lost their containers by hand: a refusal must not shrink to something that is allowed.
    there = owned.keys() | memory.applied.keys()
    gone = {name for name in there if name not in wanted.targets or _is_held(wanted.targets[name])}
    if not gone:
        return None
    if wanted.catalog.fleet_broken:
        return frozenset(gone), "fleet.yaml cannot be read, so nobody knows which apps belong here; nothing is removed"
    unknown = _unreadable(wanted, owned)
    if unknown:
        return frozenset(gone), (
            f"{', '.join(sorted(gone))} would be removed, but {unknown} cannot be read, so it may be one of them; "
            f"nothing is removed until it is mended"
        )
    # Against what was there before the commit: new apps beside them make a removal no smaller.
    before = wanted.before.keys() | gone if wanted.before else there
    many = len(gone) > 2 and len(gone) * 2 > len(before)  # noqa: PLR2004  (DESIGN: more than half, and more than two)
    if (many or gone == before) and wanted.revision not in memory.accepted:
        return frozenset(gone), (
            f"{wanted.revision[:8]} removes {len(gone)} of {len(before)} apps ({', '.join(sorted(gone))}); nothing is "
            f"removed until a person accepts it: reconciler accept {wanted.revision[:8]}"
        )
    return None


def still_needed(name: str, wanted: Wanted, owned: Mapping[str, tuple[Container, ...]]) -> list[str]:
    """Apps that go too, or would if they were not suspended, depended on this one, and still run: they go first."""
    stays = {
        app for app, target in wanted.targets.items() if not target.blocked or target.blocked.reason != "Suspended"
    }
    return sorted(
        other
        for other, dependencies in wanted.before.items()
        if name in dependencies and other not in stays and other in owned and other not in _all_needs(name, wanted)
    )


def _all_needs(name: str, wanted: Wanted) -> set[str]:
    """What an app depended on, all the way. Apps of different revisions may need each other: then nobody waits."""
    found: set[str] = set()
    look = [name]
    while look:
        fresh = set(wanted.before.get(look.pop(), ())) - found
        found |= fresh
        look += fresh
    return found


def _is_held(target: Target) -> bool:
    return target.blocked is not None and target.blocked.reason == PRUNE_BLOCKED


def _unreadable(wanted: Wanted, owned: Mapping[str, tuple[Container, ...]]) -> str:
    """A broken manifest that could belong to any app: its name cannot be read, and no container came from its path."""
    known = {container.claim.manifest for containers in owned.values() for container in containers if container.claim}
    return next(
        (broken.path for broken in wanted.catalog.broken if broken.app is None and broken.path not in known), ""
    )
