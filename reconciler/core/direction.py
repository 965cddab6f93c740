"""From where an app comes, and whether that is forward or back: what before_deploy and after_deploy are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.memory import Version, Way
from reconciler.core.observed import Container
from reconciler.core.step import Facts
from reconciler.core.target import DesiredApp

RESERVED = "RECONCILER_"
"""Variables that begin so are ours."""


def way_to(facts: Facts, desired: DesiredApp) -> Way:
    """The way from the version that was applied last; at the first deployment it comes from nowhere."""
    applied = facts.applied
    if applied is None:
        return Way()
    known = next((v for v in facts.versions if v.fingerprint == applied.fingerprint), None)
    there = _newest(facts.containers, applied.fingerprint)
    image = known.image if known else there.image if there else ""
    reference = known.reference if known else ""
    if not reference and there is not None and there.claim is not None:
        reference = there.claim.image
    back = is_back(facts.versions, (image, applied.fingerprint), (desired.spec.image, desired.fingerprint))
    return Way("back" if back else "forward", applied.revision, reference)


def is_back(versions: Sequence[Version], come: tuple[str, str], go: tuple[str, str]) -> bool:
    """Whether what is gone to served here before what is come from did. What never served lies ahead.

    Args:
        versions: Those that served here.
        come: Image id and fingerprint of the version that is left.
        go: Likewise, of the one that is to come.
    """
    here = _by(come, go)
    was, will = (_first(versions, pair[here], here) for pair in (come, go))
    return was is not None and will is not None and will < was


def crossed(versions: Sequence[Version], come: tuple[str, str], go: tuple[str, str]) -> tuple[Version, ...]:
    """Versions whose before_deploy ran and is gone back over, the latest first; none on a way forward."""
    if not is_back(versions, come, go):
        return ()
    here = _by(come, go)
    first = _first(versions, go[here], here) or 0
    last = next((v.place for v in versions if v.fingerprint == come[1]), 0)
    over = [v for v in versions if first < v.place <= max(last, first) and v.before and v.fingerprint != go[1]]
    return tuple(sorted(over, key=lambda version: -version.place))


def environment(way: Way, desired: DesiredApp) -> Mapping[str, str]:
    """Variables for the container of a task."""
    return {
        f"{RESERVED}DIRECTION": way.direction,
        f"{RESERVED}FROM_REVISION": way.revision,
        f"{RESERVED}FROM_IMAGE": way.image,
        f"{RESERVED}TO_REVISION": desired.revision,
        f"{RESERVED}TO_IMAGE": desired.app.image,
    }


def _by(come: tuple[str, str], go: tuple[str, str]) -> int:
    """Which of the two tells the order: the image; where that is the same, what else changed."""
    return 0 if come[0] != go[0] else 1


def _first(versions: Iterable[Version], name: str, by: int) -> int | None:
    return min((v.place for v in versions if (v.image, v.fingerprint)[by] == name), default=None)


def _newest(containers: Iterable[Container], fingerprint: str) -> Container | None:
    ours = [c for c in containers if c.claim and c.claim.role == "replica" and c.claim.fingerprint == fingerprint]
    return max(ours, key=lambda container: container.created_at, default=None)
