"""Where one app stands: what people and metrics are told of it, besides what is done for it."""

from __future__ import annotations

from reconciler.core import actions as act
from reconciler.core.memory import Due, Memory, Quarantined
from reconciler.core.observed import NameState
from reconciler.core.readiness import health_of
from reconciler.core.rehearsal import answer_for, answers
from reconciler.core.status import AppStatus, Condition, Revisions, Sync
from reconciler.core.step import Facts, Step
from reconciler.core.wanted import Wanted

_LAST_LINES, _LAST_CHARACTERS = 50, 16_000  # of a failed version's output in the status; the store keeps more


def standing(facts: Facts, step: Step, wanted: Wanted, memory: Memory) -> AppStatus:
    """The status of one app, from what is known of it and what it needs next."""
    target, name = facts.target, facts.target.name
    blocked = target.blocked if target.pull is None else None
    moving = bool(step.actions or step.wake_at is not None or name in memory.busy) and not (step.done or step.stalled)
    waits = memory.retries.get(name) or memory.retries.get(act.pull_lane(name))
    if waits is not None and waits.fingerprint not in {"", target.desired.fingerprint if target.desired else ""}:
        waits = None
    waiting = blocked is not None or waits is not None or step.next_retry is not None
    health, running, healthy = health_of(facts, moving=moving and not waiting)
    sync: Sync = "Synced" if step.done and blocked is None else "OutOfSync"
    if target.desired is None and name in wanted.targets:
        sync = "Unknown"
    reason, message = step.reason, step.message
    if blocked is not None:
        reason, message = blocked.reason, blocked.message
        if not step.done and step.message:
            message = f"{message} ({step.message})"
    if name in memory.suspended:
        health = "Suspended"
    applied = memory.applied.get(name)
    app = target.desired.app if target.desired else None
    attempted = target.desired.revision if target.desired else ""
    ok = sync == "Synced" and health == "Healthy"
    return AppStatus(
        name=name,
        sync=sync,
        health=health,
        reason=reason,
        message=message,
        revisions=Revisions(wanted.revision, attempted, applied.revision if applied else ""),
        image=app.image if app else next((c.claim.image for c in facts.containers if c.claim), ""),
        fingerprint=target.desired.fingerprint if target.desired else "",
        replicas_desired=app.replicas if app else 0,
        replicas_running=running,
        replicas_healthy=healthy,
        addresses=facts.observed.names.names.get(name, NameState((), 0.0, None)).written,
        conditions=(
            Condition("Ready", ok, reason, message, revision=wanted.revision),
            Condition("Healthy", health == "Healthy", health, f"{healthy} of {running} running replicas are healthy"),
            Condition("Progressing", moving, reason if moving else "Idle", message if moving else ""),
            Condition("Stalled", step.stalled or blocked is not None, reason, message if not ok else ""),
            *_way_back(facts, memory),
        ),
        next_retry=step.next_retry,
        applied_at=applied.at if applied else None,
        last_words=_last_words(memory.quarantined.get(name) if blocked else None, memory.due.get(name), reason),
    )


def _way_back(facts: Facts, memory: Memory) -> list[Condition]:
    """Whether it could go back, where that was tried and the manifest still asks."""
    name, desired = facts.target.name, facts.target.desired
    answer = answer_for(name, memory.applied.get(name), memory)
    if answer is None or (desired is not None and not answers(answer, desired.app)):
        return []
    return [Condition("RollbackReady", answer.ready, answer.reason, answer.message, answer.at, answer.revision)]


def _last_words(quarantined: Quarantined | None, due: Due | None, reason: str) -> str:
    """Why it was given up, or after_deploy failed, in its own words, as long as that is what holds up the app."""
    logs = quarantined.logs if quarantined is not None and quarantined.reason == reason else ""
    if due is not None and due.cause == reason:
        logs = due.logs
    return "\n".join(logs.strip().splitlines()[-_LAST_LINES:])[-_LAST_CHARACTERS:]
