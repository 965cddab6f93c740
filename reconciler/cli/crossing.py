"""What going back leaves as it is: a before_deploy that ran since, in words."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.cli.text import clean, listed, shorten
from reconciler.core.direction import crossed, is_back
from reconciler.core.memory import Version
from reconciler.core.model import App
from reconciler.core.observed import Claim, Container
from reconciler.core.target import DesiredApp

_LONGEST_COMMAND = 60


def crossing(
    versions: Sequence[Version], runs: Sequence[Container], desired: DesiredApp, applied: App | None = None
) -> str:
    """What a person should know before this version replaces the one that runs; empty on the way forward.

    Args:
        versions: Those that served on this host.
        runs: Replicas, the newest first.
        desired: The version that is to come.
        applied: The manifest of the one that was applied last, where it can be read.
    """
    # One that is still on its way never served: what is gone back from is what was applied last.
    served = versions[0].fingerprint if versions else ""
    others = [c for c in runs if c.claim and c.claim.fingerprint != desired.fingerprint]
    old = next((c for c in others if c.claim and c.claim.fingerprint == served), next(iter(others), None))
    if old is None or old.claim is None:
        return ""
    come, go = (old.image, old.claim.fingerprint), (desired.spec.image, desired.fingerprint)
    commands = [version.before for version in crossed(versions, come, go)]
    left = next((v for v in versions if v.fingerprint == come[1]), None)
    # An older agent did not write down what ran before a version.
    if left is not None and not left.reference and is_back(versions, come, go) and applied is not None:
        commands += command_of(applied)
    return going_back(_named(old.claim), _to(versions, desired), commands, desired.app) if commands else ""


def going_back(come: str, go: str, commands: Sequence[str], to: App) -> str:
    """The sentence.

    Args:
        come: The version that is left, as people know it.
        go: Likewise, of the one that is to come.
        commands: What ran before the versions that are gone back over.
        to: The manifest of the one that is to come.
    """
    ran = listed([shorten(clean(command), _LONGEST_COMMAND) for command in dict.fromkeys(commands)])
    undone = f", unless before_deploy of {go} undoes it (RECONCILER_DIRECTION=back)"
    if to.before_deploy is None:
        undone = f", and {go} has no before_deploy that could undo it"
    return (
        f"going back from {come} to {go}: before_deploy ({ran}) has run since; what it changed in the database "
        f"stays{undone}"
    )


def command_of(app: App) -> list[str]:
    """What runs before it, in words."""
    return [] if app.before_deploy is None else [app.before_deploy.words]


def _named(claim: Claim) -> str:
    return f"{claim.image} ({claim.revision[:8]})"


def _to(versions: Sequence[Version], desired: DesiredApp) -> str:
    """As it was called when it served; the commit that brings it back is a new one."""
    known = next((v for v in versions if v.fingerprint == desired.fingerprint and v.revision), None)
    return f"{desired.app.image} ({(known.revision if known else desired.revision)[:8]})"
