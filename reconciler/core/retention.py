"""Which images may go: those that we brought to this host ourselves, and that nothing here needs any more.

The last five applied versions of every app keep theirs, so that ``git revert`` needs no pull. An image that was there
before we pulled it, that a container (of anybody's, running or not) was made of, or that has a name which we did not
give it, is not ours to remove. Who lost the store no longer knows what is ours: then images stay.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.core import actions as act
from reconciler.core.images import normalise, other_names
from reconciler.core.memory import Memory
from reconciler.core.observed import EngineState
from reconciler.core.wanted import Wanted

KEPT = 5
"""Applied versions of an app whose images stay."""
GONE = 7 * 86_400.0
"""Seconds for which they stay after the app was removed: reverting the removal needs no pull either."""


def unneeded(wanted: Wanted, engine: EngineState, memory: Memory, now: float) -> list[act.CollectImage]:
    """What may be removed, the longest known first; also what is not here any more, to forget that it was ours.

    Nothing while fleet.yaml is broken: nobody knows then which apps belong here.
    """
    if wanted.catalog.fleet_broken or not memory.brought:
        return []
    used = _used(wanted, engine, memory, now)
    names: dict[str, list[str]] = {image: [] for image in memory.brought if image not in used}
    for name, image in engine.images.items():
        if image in names:
            names[image].append(name)
    if not names:
        return []
    asked = frozenset(map(normalise, _asked(wanted)))
    found = []
    for image, brought in sorted(memory.brought.items(), key=lambda item: (item[1].at, item[0])):
        if image not in names or other_names(names[image], brought.names) or not asked.isdisjoint(names[image]):
            continue
        called = ", ".join(sorted(brought.names))
        here = f"no container and none of the last {KEPT} versions of any app needs {called}"
        why = here if names[image] else f"{called} is not here any more"
        found.append(act.CollectImage("", why, image, brought.names))
    return found


def _used(wanted: Wanted, engine: EngineState, memory: Memory, now: float) -> frozenset[str]:
    """Ids of images that containers, targets and the last versions of apps need."""
    used = {container.image for container in engine.containers}
    for target in wanted.targets.values():
        rehearsed = target.way_back.desired if target.way_back is not None else None
        needed = (target.desired, target.previous, rehearsed)
        used |= {version.spec.image for version in needed if version is not None}
    for app, versions in memory.versions.items():
        here = app in memory.applied or app in wanted.targets
        used |= {version.image for version in versions[:KEPT] if here or now - version.at < GONE}
    return frozenset(used)


def _asked(wanted: Wanted) -> Iterable[str]:
    """References that the repository names now: one that were removed would only be pulled again."""
    for app in wanted.catalog.apps.values():
        yield app.image
    for target in wanted.targets.values():
        if target.pull is not None:
            yield target.pull.reference
        if target.app is not None:
            yield target.app.image
