"""Apps in every kind of trouble, as ``reconciler why`` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.cli.why import Explanation, Recollection, explain
from reconciler.core.memory import Due, Quarantined, Rehearsed, Way
from reconciler.core.model import Commit
from reconciler.core.status import AppStatus, Condition, HostStatus, Revisions
from reconciler.protocols import HistoryEntry

NOW = 1_800_000_000.0
GOOD, BAD = "1a2b3c4d" * 5, "5e6f7a8b" * 5

DEPLOYED = HistoryEntry(
    NOW - 300_000, "shop", "deployed", GOOD, "f1", "shop:1", "Ada", "Use shop 1", "image shop:0 -> shop:1", 4.0
)
REPAIRED = HistoryEntry(NOW - 4_000, "shop", "repaired", reason="container shop.1.3fa9c2d1 is gone")
FAILED = HistoryEntry(NOW - 700, "shop", "failed", BAD, "f2", "", "Bob", "Use shop 2", "CrashLoop: it ended 3 times")
CRASHED = "shop.1.3fa9c2d1 ended 3 times before it was healthy, last exit code 1"
LOGS = "\n".join([*(f"line {number}" for number in range(80)), "\x1b[31mthe database is not there"])
QUARANTINED = Quarantined("t2", "CrashLoop", CRASHED, BAD, NOW - 700, LOGS)


def shop(**changes: Any) -> AppStatus:
    """A shop that is fine; with these differences."""
    status = AppStatus(
        name="shop",
        sync="Synced",
        health="Healthy",
        reason="Applied",
        message="runs as the repository says",
        revisions=Revisions(BAD, BAD, GOOD),
        image="shop:1",
        replicas_desired=2,
        replicas_running=2,
        replicas_healthy=2,
        addresses=("10.201.0.4", "10.201.0.5"),
        conditions=(Condition("Ready", True, "Applied", "", NOW - 600),),
        applied_at=NOW - 600,
    )
    return replace(status, **changes)


def stalled(reason: str, message: str, **changes: Any) -> AppStatus:
    """A shop that is held up."""
    conditions = (
        Condition("Ready", False, reason, message, NOW - 690),
        Condition("Stalled", True, reason, message, NOW - 690),
    )
    return shop(sync="OutOfSync", reason=reason, message=message, conditions=conditions, **changes)


def moving(reason: str, message: str, **changes: Any) -> AppStatus:
    """A shop that goes on by itself."""
    conditions = (
        Condition("Ready", False, reason, message, NOW - 8),
        Condition("Progressing", True, reason, message, NOW - 8),
    )
    return shop(
        sync="OutOfSync", health="Progressing", reason=reason, message=message, conditions=conditions, **changes
    )


def host(*apps: AppStatus, **changes: Any) -> HostStatus:
    """The host that they are on."""
    status = HostStatus(
        host="web-1",
        version="1",
        at=NOW - 3,
        verdict="",
        result="blocked",
        apps={one.name: one for one in apps},
        commit=Commit(BAD, "Bob", "Use shop 2", NOW - 720),
        last_fetch_at=NOW - 9,
    )
    return replace(status, **changes)


def because(status: AppStatus, known: Recollection | None = None, **changes: Any) -> Explanation:
    """The explanation of one."""
    stale = changes.pop("stale", "")
    known = Recollection((REPAIRED, DEPLOYED)) if known is None else known
    return explain("shop", host(status, **changes), stale, known)


def cases() -> Mapping[str, Explanation]:
    """Name of a golden file -> what is told."""
    given_up = Recollection((FAILED, REPAIRED, DEPLOYED), QUARANTINED)
    crash = stalled("CrashLoop", f"{CRASHED}; not tried again until a commit changes it")
    rehearsed = Condition("RollbackReady", False, "RehearsalFailed", "no such column: total", NOW - 500)
    return {
        "fine": because(shop(conditions=(Condition("Ready", True, "Applied", "", NOW - 600), rehearsed))),
        "no-way-back": because(
            shop(conditions=(Condition("Ready", True, "Applied", "", NOW - 600), rehearsed)),
            Recollection(
                (REPAIRED, DEPLOYED),
                rehearsed=Rehearsed("f2", "f1", False, "RehearsalFailed", "no", BAD, NOW - 500, LOGS),
            ),
        ),
        "given-up": because(crash, given_up),
        "first-ever": because(
            replace(crash, revisions=Revisions(BAD, "", ""), replicas_running=0, replicas_healthy=0, addresses=()),
            Recollection((FAILED,), QUARANTINED),
        ),
        "manifest": because(
            stalled("InvalidManifest", 'apps/shop/app.yaml:4:1: unknown key "imgae"; did you mean "image"?')
        ),
        "image": because(
            stalled("RegistryUnavailable", "the registry r.example.com cannot give shop:2", next_retry=NOW + 34)
        ),
        "migration-broke": because(
            stalled(
                "MigrationBrokeRunning",
                "shop.1.3fa9c2d1 was healthy when before_deploy of 5e6f7a8b began and is not any more (GET /: 500), so "
                "the rollout stops here",
                replicas_healthy=1,
            )
        ),
        "after-deploy": because(
            stalled("AfterDeployFailed", "after_deploy ended with exit code 3; shop:1 is deployed and goes on serving"),
            Recollection(
                (replace(FAILED, event="after_deploy failed", reason="AfterDeployFailed: ended with 3"), DEPLOYED),
                due=Due("f1", Way(), NOW - 300, "AfterDeployFailed", "ended with 3", "warming\nno such cache\n"),
            ),
        ),
        "dependency": because(moving("WaitingForDependency", "waiting for db, which is not healthy at this revision")),
        "on-its-way": because(
            moving("RollingOut", "waiting until shop.1.3fa9c2d1 is healthy; the old version goes on serving")
        ),
        "suspended": because(
            stalled("Suspended", "suspended: a look at it; reconciler resume shop", health="Suspended")
        ),
        "sick": because(
            shop(
                health="Degraded",
                replicas_healthy=1,
                reason="Unhealthy",
                message="not healthy: GET /healthz: 500",
                conditions=(Condition("Ready", False, "Unhealthy", "", NOW - 40),),
            )
        ),
        "stale": because(
            stalled("PruneBlocked", "this would remove 3 of 3 apps; reconciler accept 5e6f7a8b"),
            Recollection(trouble="/var/lib/reconciler/store.db cannot be read; root sees more"),
            stale="the agent is not running; this is what it saw last",
            faults=(("GitUnreachable", "git.example.com cannot be reached"),),
        ),
        "gone": explain(
            "shop",
            host(),
            "",
            Recollection(
                (HistoryEntry(NOW - 90, "shop", "pruned", reason="the repository no longer names it"), DEPLOYED)
            ),
        ),
    }
