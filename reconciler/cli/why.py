"""``reconciler why APP``: what is known of one app, put in the order in which a person asks.

From the agent's status, and from the store where it can be read: that has the authors, and all that a version which
was given up said last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from reconciler.cli.wiring import Host
from reconciler.core.memory import Due, Quarantined, Rehearsed
from reconciler.core.status import AppStatus, Condition, HostStatus
from reconciler.errors import InvalidInput, ReconcilerError
from reconciler.protocols import HistoryEntry

_APPLIED = frozenset({"deployed", "adopted", "rolled back"})
_ENTRIES, _LATELY, _LAST_LINES, _REHEARSAL_LINES = 200, 3, 50, 10
_USUAL = frozenset({"Ready", "Healthy", "Progressing", "Stalled"})

Stand = Literal["fine", "gone", "suspended", "held up", "on its way", "not well"]

_BASICS = ("manifest", "host policy", "secrets", "image")
"""What is looked at before anything is started, in this order."""
_STAGES: Mapping[str, str] = {
    "InvalidManifest": "manifest",
    "InvalidFleet": "manifest",
    "PolicyViolation": "host policy",
    "NotEncrypted": "secrets",
    "NestedSecret": "secrets",
    "MacMismatch": "secrets",
    "KeyServiceRefused": "secrets",
    "ImageNotFound": "image",
    "ImageMissing": "image",
    "Pulling": "image",
    "WaitingForDependency": "dependencies",
    "WaitingForRelease": "dependencies",
    "BeforeDeploy": "before_deploy",
    "BeforeDeployFailed": "before_deploy",
    "BeforeDeployTimeout": "before_deploy",
    "MigrationBrokeRunning": "before_deploy",
    "RollingOut": "start",
    "CrashLoop": "start",
    "OutOfMemory": "start",
    "ContainerRejected": "start",
    "PortTaken": "start",
    "AddressTaken": "start",
    "MountMissing": "start",
    "ForeignVolume": "start",
    "BindSourceIsLink": "start",
    "SubnetFull": "start",
    "DeadlineExceeded": "health",
    "Switching": "traffic",
    "Canary": "traffic",
    "CanaryFailed": "traffic",
    "Draining": "traffic",
    "Retiring": "traffic",
    "AfterDeploy": "after_deploy",
    "AfterDeployFailed": "after_deploy",
    "AfterDeployTimeout": "after_deploy",
}
_PREFIXES = (("Decrypt", "secrets"), ("Secret", "secrets"), ("Sops", "secrets"), ("AgeKey", "secrets"))
_REGISTRY = ("Registry", "image")
_ADVICE: Mapping[str, tuple[str, ...]] = {
    "manifest": ("mend that line by a commit; before the push: reconciler validate .",),
    "host policy": ("change the manifest, or what this host permits: policy in the agent's settings",),
    "secrets": ("do what is said above; until then the old secrets are used",),
    "image": ("push the image, or name another one by a commit", "or go back: reconciler rollback {}"),
    "before_deploy": ("commit a fix, or go back: reconciler rollback {}", "or go on all the same: reconciler retry {}"),
    "after_deploy": ("mend what it lacks, then run it once more: reconciler retry {}", "or mend it by a commit"),
    "": (
        "see what it says: docker logs CONTAINER (docker ps --filter label=reconciler.app={})",
        "if the last commit did it: reconciler rollback {}",
    ),
}
"""What to do where a stage failed."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """What the store knows of one app."""

    entries: tuple[HistoryEntry, ...] = ()
    """Newest first."""
    quarantined: Quarantined | None = None
    due: Due | None = None
    rehearsed: Rehearsed | None = None
    trouble: str = ""
    """Why it could not be asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A commit, as far as anybody knows about it."""

    revision: str
    author: str = ""
    subject: str = ""
    at: float = 0.0
    """Unix time of the commit, or of what came of it."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A version that is not tried again by itself."""

    revision: str
    reason: str
    message: str
    at: float
    cleared_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that ``why`` tells."""

    app: str
    host: str
    at: float
    """Unix time of the look that this is from."""
    stand: Stand
    status: AppStatus | None
    """None when the app is not here any more."""
    since: float = 0.0
    commit: Asked | None = None
    """Whose wish it is: the version that runs, or the one that does not come to run."""
    changed: str = ""
    checked: Mapping[str, str] = field(default_factory=dict)
    """Stage -> ``fine``, ``failed``, ``under way``."""
    blocked_by: str = ""
    last_words: tuple[str, ...] = ()
    quarantine: Quarantine | None = None
    serves: Asked | None = None
    """The version that answers, where it is not the one of ``commit``."""
    next: str = ""
    next_retry: float | None = None
    advice: tuple[str, ...] = ()
    lately: tuple[HistoryEntry, ...] = ()
    conditions: tuple[Condition, ...] = ()
    """Such as are only said of some apps."""
    rehearsal_words: tuple[str, ...] = ()
    """What the version before said last, when it could not serve again."""
    faults: tuple[tuple[str, str], ...] = ()
    stale: str = ""
    trouble: str = ""

    @property
    def fine(self) -> bool:
        """Nobody has to do or wait for anything."""
        return self.stand in {"fine", "gone"}


def recollect(host: Host, app: str) -> Recollection:
    """What the store knows; a person who is not root is told less, not nothing."""
    path = host.settings.state / "store.db"
    if not os.access(path, os.R_OK):
        return Recollection(trouble=f"{path} cannot be read, so this is without history; root sees more")
    try:
        memory, entries = host.store.memory(), host.store.history(app, _ENTRIES)
    except ReconcilerError as error:
        return Recollection(trouble=f"this is without history: {error}")
    return Recollection(tuple(entries), memory.quarantined.get(app), memory.due.get(app), memory.rehearsed.get(app))


def explain(app: str, host: HostStatus, stale: str, known: Recollection) -> Explanation:
    """Why an app is as it is.

    Args:
        app: Its name.
        host: What the agent says.
        stale: Why that is not fresh; empty when it is.
        known: What the store knows.

    Raises:
        InvalidInput: Nobody has ever heard of this app here.
    """
    status = host.apps.get(app)
    if status is None:
        return _absent(app, host, stale, known)
    stand = _stand(status)
    quarantine = _quarantine(status, known.quarantined) if stand != "fine" else None
    applied = next((entry for entry in known.entries if entry.event in _APPLIED), None)
    runs = _runs(status, applied, host)
    deployed = _stage(status.reason) == "after_deploy"
    kept = stand in {"fine", "suspended"} or status.sync == "Synced" or deployed
    commit = runs if kept else _asked(status, host, known, quarantine)
    logs = known.quarantined.logs.strip() if quarantine and known.quarantined else ""
    if known.due is not None and known.due.cause == status.reason:
        logs = known.due.logs.strip()
    return Explanation(
        app=app,
        host=host.host,
        at=host.at,
        stand=stand,
        status=status,
        since=_since(status, applied, stand),
        commit=commit,
        changed=applied.reason if applied and commit is runs else "",
        checked=_checked(status, stand),
        blocked_by="" if stand == "fine" else quarantine.message if quarantine else status.message,
        last_words=tuple((logs or status.last_words).splitlines()[-_LAST_LINES:]),
        quarantine=quarantine,
        serves=runs if runs is not commit and status.replicas_running else None,
        next=_next(status, stand, quarantine),
        next_retry=status.next_retry,
        advice=() if stand == "fine" else tuple(_advice(status, stand, quarantine, host)),
        lately=tuple(entry for entry in known.entries if entry is not applied and not _about(entry, quarantine))[
            :_LATELY
        ],
        conditions=tuple(condition for condition in status.conditions if condition.type not in _USUAL),
        rehearsal_words=_rehearsal_words(status, known.rehearsed),
        faults=host.faults,
        stale=stale,
        trouble=known.trouble,
    )


def _absent(app: str, host: HostStatus, stale: str, known: Recollection) -> Explanation:
    if not known.entries:
        close = get_close_matches(app, host.apps, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(
            f"there is no app called {app!r} on {host.host}, and there was none",
            reason="UnknownApp",
            remedy=f"{meant}Apps here: {', '.join(sorted(host.apps)) or 'none'}"[:1000],
        )
    last = known.entries[0]
    return Explanation(
        app=app,
        host=host.host,
        at=host.at,
        stand="gone",
        status=None,
        since=last.at,
        commit=None,
        changed=last.reason,
        advice=(f"to have it back: reconciler rollback {app}",),
        lately=known.entries[:_LATELY],
        faults=host.faults,
        stale=stale,
    )


# --- where it stands ------------------------------------------------------------------------------------------------


def _stand(status: AppStatus) -> Stand:
    if status.sync == "Synced" and status.health == "Healthy":
        return "fine"
    if status.health == "Suspended":
        return "suspended"
    said = {condition.type for condition in status.conditions if condition.status}
    if "Stalled" in said or status.next_retry is not None:
        return "held up"
    return "on its way" if "Progressing" in said else "not well"


def _since(status: AppStatus, applied: HistoryEntry | None, stand: Stand) -> float:
    """For one that is fine: since this version came. A later commit that left it alone is no news."""
    ready = next((condition.since for condition in status.conditions if condition.type == "Ready"), 0.0)
    if stand != "fine":
        return ready
    return applied.at if applied is not None else status.applied_at or ready


def _runs(status: AppStatus, applied: HistoryEntry | None, host: HostStatus) -> Asked | None:
    """The commit of the version that was healthy last."""
    if applied is not None and applied.revision:
        return _asked_by(applied)
    revision, tip = status.revisions.applied, host.commit
    if tip is not None and tip.sha == revision:
        return Asked(revision, tip.author, tip.subject, tip.committed_at)
    return Asked(revision, at=status.applied_at or 0.0) if revision else None


def _asked(status: AppStatus, host: HostStatus, known: Recollection, quarantine: Quarantine | None) -> Asked | None:
    """The commit that is not followed: the one that brought the failed version, or the refused manifest."""
    about = next((entry for entry in known.entries if _about(entry, quarantine)), None)
    if about is not None:  # tried again at a later commit, it is still the version of the first
        tries = [e for e in known.entries if e.event == "failed" and e.fingerprint == about.fingerprint]
        return _asked_by(tries[-1])
    for entry in known.entries:
        if entry.event == "refused" and entry.revision and entry.reason.startswith(f"{status.reason}:"):
            return _asked_by(entry)
    tip = host.commit
    return Asked(tip.sha, tip.author, tip.subject, tip.committed_at) if tip else None


def _asked_by(entry: HistoryEntry) -> Asked:
    return Asked(entry.revision, entry.author, entry.subject, entry.at)


def _quarantine(status: AppStatus, quarantined: Quarantined | None) -> Quarantine | None:
    if quarantined is None or quarantined.reason != status.reason:
        return None
    cleared = (f"a commit that changes {status.name}", f"reconciler retry {status.name}")
    return Quarantine(quarantined.revision, quarantined.reason, quarantined.message, quarantined.at, cleared)


def _rehearsal_words(status: AppStatus, rehearsed: Rehearsed | None) -> tuple[str, ...]:
    said = any(condition.type == "RollbackReady" and not condition.status for condition in status.conditions)
    return tuple(rehearsed.logs.strip().splitlines()[-_REHEARSAL_LINES:]) if said and rehearsed is not None else ()


def _about(entry: HistoryEntry, quarantine: Quarantine | None) -> bool:
    """The entry of the very failure that holds up the app."""
    return quarantine is not None and entry.event == "failed" and entry.revision == quarantine.revision


def _stage(reason: str) -> str:
    found = (stage for prefix, stage in (*_PREFIXES, _REGISTRY) if reason.startswith(prefix))
    return _STAGES.get(reason) or next(found, "")


def _checked(status: AppStatus, stand: Stand) -> dict[str, str]:
    """What was looked at on the way, up to where it ended. Of a reason that we cannot place, nothing is claimed."""
    if stand == "fine":
        return {}
    stage = _stage(status.reason)
    if not stage:
        return {}
    before = _BASICS[: _BASICS.index(stage)] if stage in _BASICS else _BASICS
    return {**dict.fromkeys(before, "fine"), stage: "failed" if stand == "held up" else "under way"}


# --- what comes now -------------------------------------------------------------------------------------------------


def _next(status: AppStatus, stand: Stand, quarantine: Quarantine | None) -> str:
    if quarantine is not None:
        retry = f"reconciler retry {status.name}"
        return f"this version is in quarantine: not tried again until a commit changes it, or a person asks: {retry}"
    match stand:
        case "fine" | "gone":
            return ""
        case "suspended":
            return "nothing, before a person takes it up again"
        case "held up" if status.next_retry is not None:
            return "it is tried again by itself"
        case "held up":
            return "nothing, before a commit or a person changes something"
        case "on its way":
            return "the agent goes on by itself"
        case "not well":
            return "the agent goes on looking, and repairs what it can"


def _advice(status: AppStatus, stand: Stand, quarantine: Quarantine | None, host: HostStatus) -> list[str]:
    name, stage = status.name, _stage(status.reason)
    if quarantine is not None:
        back = [f"or go back: reconciler rollback {name}"] if status.revisions.applied else []
        return [
            "mend it by a commit",
            *back,
            f"or, where what it lacked is there now, try it once more: reconciler retry {name}",
        ]
    if stand == "suspended":
        return [f"take it up again: reconciler resume {name}"]
    if status.reason == "PruneBlocked":
        tip = host.commit.short if host.commit else "REV"
        return ["see what would go: reconciler plan", f"if that is meant: reconciler accept {tip}"]
    if stand == "on its way" and stage != "dependencies":
        return ["nothing; see how it goes on: reconciler status"]
    waits = re.search(r"waiting for ([a-z0-9-]+), ", status.message)
    if stage == "dependencies":
        return [f"look there first: reconciler why {waits.group(1)}"] if waits else []
    return [line.format(name) for line in _ADVICE.get(stage, _ADVICE[""])]
