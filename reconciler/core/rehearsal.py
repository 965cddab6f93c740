"""Could we go back? One replica of the version before is tried off the traffic, beside the version that serves.

It has its own files and secrets, sees the database as it is now, and writes to nothing that the other version writes
to. Its health check answers, by the same rules as in a rollout; the answer is written down, and the replica goes. Like
a rollout this is no procedure: each look decides from the container, the store and the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.core import actions as act
from reconciler.core.addresses import AddressPool
from reconciler.core.backoff import is_waiting
from reconciler.core.memory import Applied, Memory, Rehearsed, Version
from reconciler.core.model import App, Health, Rehearsal
from reconciler.core.observed import Container, Observed
from reconciler.core.ownership import is_rehearsal
from reconciler.core.readiness import is_ready, is_sick
from reconciler.core.step import Step
from reconciler.core.target import DesiredApp, HealthCommand, Target, WayBack
from reconciler.core.tasks import how_it_ended

VARIABLE = "RECONCILER_REHEARSAL"
"""Set to 1 in a rehearsal, for apps that send mail or take jobs as soon as they start."""
PASSED, FAILED, IMPOSSIBLE = "RehearsalPassed", "RehearsalFailed", "RehearsalImpossible"

_INTERVAL = 1.0  # seconds between two runs of the manifest's command
_ATTEMPTS = 3
"""So often a replica is tried, if it cannot be started or shows nothing. A way back that works now and then is none."""
_LATER = 60.0  # seconds until what stood in the way may have passed
_SUBNET_FULL = 60.0  # likewise


# --- which version ----------------------------------------------------------------------------------------------------


def unanswered(desired: DesiredApp, applied: Applied | None, memory: Memory) -> Version | None:
    """The version before the one that serves, where the manifest asks and nobody knows yet whether it still could."""
    asked = desired.app.rehearse_rollback
    if asked is None or applied is None or applied.fingerprint != desired.fingerprint:
        return None
    before = served_before(memory.versions.get(desired.name, ()), applied.fingerprint)
    if before is None or _is_answered(memory, desired, before.fingerprint):
        return None
    return before


def served_before(versions: Sequence[Version], fingerprint: str) -> Version | None:
    """To which version one would go back: of those that served here for the first time before it, the last that did.

    Args:
        versions: Of one app, the last one first.
        fingerprint: The version that serves.
    """
    place = next((version.place for version in versions if version.fingerprint == fingerprint), None)
    return next((version for version in versions if place is not None and version.place < place), None)


def _is_answered(memory: Memory, desired: DesiredApp, previous: str) -> bool:
    answer = memory.rehearsed.get(desired.name)
    versions = (desired.fingerprint, previous)
    return answer is not None and (answer.fingerprint, answer.previous) == versions and answers(answer, desired.app)


def answers(answer: Rehearsed, app: App) -> bool:
    """Whether it answers what a manifest asks now. That a version cannot be had any more answers everything."""
    return app.rehearse_rollback is not None and answer.asked in {"", _question(app.rehearse_rollback)}


def _question(asked: Rehearsal) -> str:
    return hashlib.sha256(repr(asked.command).encode()).hexdigest()[:12]


def answer_for(app: str, applied: Applied | None, memory: Memory) -> Rehearsed | None:
    """Whether the app could go back from what it runs now, where that was tried."""
    answer = memory.rehearsed.get(app)
    if answer is None or applied is None or answer.fingerprint != applied.fingerprint:
        return None
    before = served_before(memory.versions.get(app, ()), applied.fingerprint)
    return answer if before is not None and before.fingerprint == answer.previous else None


# --- what its replica is ----------------------------------------------------------------------------------------------


def prepared(previous: DesiredApp, fingerprint: str, applied: str, asked: Rehearsal) -> DesiredApp:
    """The version before, as its rehearsal runs.

    Nothing that two versions must not have at once: no port of the host, and no mount that it could write to. Nothing
    that other tools find it by. It is not started again when it ends, because that is an answer.

    Args:
        previous: That version as it would serve.
        fingerprint: As it was when it served; another agent may have counted another way.
        applied: Fingerprint of the version that serves.
        asked: From the manifest that serves.
    """
    app, spec = previous.app, previous.spec
    if asked.command:
        health = app.health
        app = replace(
            app,
            health=Health(
                "command",
                command=asked.command,
                interval=_INTERVAL,
                timeout=health.deadline,  # it may take as long as it has in all
                retries=1,
                min_healthy_time=health.min_healthy_time,
                deadline=health.deadline,
            ),
        )
    check = app.health
    by_engine = HealthCommand(check.command, check.interval, check.timeout, check.retries, check.start_period)
    return replace(
        previous,
        app=app,
        fingerprint=fingerprint,
        # Not what the version is, but what is asked: another question is another rehearsal.
        fields={"applied": applied, "asked": _question(asked)},
        spec=replace(
            spec,
            ports=(),
            labels={},
            restart=False,
            mounts=tuple(replace(mount, read_only=True, filled=False) for mount in spec.mounts),
            environment={**spec.environment, VARIABLE: "1"},
            health=by_engine if check.kind == "command" else spec.health,
        ),
    )


def name_of(desired: DesiredApp) -> str:
    """What the container of a rehearsal is called."""
    return f"{desired.name}.rehearsal.{desired.fingerprint[:8]}"


def is_of(container: Container, way: WayBack | None) -> bool:
    """Whether a rehearsal's container is the one that is asked for now."""
    claim, desired = container.claim, way.desired if way is not None else None
    if claim is None or desired is None:
        return False
    return (claim.fingerprint, claim.fields) == (desired.fingerprint, desired.fields)


# --- what is to be done -----------------------------------------------------------------------------------------------


def rehearse(
    targets: Mapping[str, Target],
    observed: Observed,
    memory: Memory,
    pool: AddressPool,
    now: float,
    serving: Collection[str],
    *,
    at_rest: bool,
) -> tuple[Step, str]:
    """The next step of the host's one rehearsal, and whose it is while one is under way.

    Args:
        targets: Of all apps.
        observed: The host as it is.
        memory: What was answered already.
        pool: Free addresses.
        now: Unix time.
        serving: Apps that are in sync and healthy, with nothing left to do.
        at_rest: Nothing at all is done on this host, nor on its way.
    """
    step, under_way = Step(), next((act.app_of(lane) or "" for lane in memory.busy if act.is_rehearsal_lane(lane)), "")
    asked = {name: way for name, target in sorted(targets.items()) if (way := _asked(target, memory)) is not None}
    for container in filter(is_rehearsal, observed.engine.containers):
        app = container.claim.app if container.claim else ""
        under_way, way = under_way or app, asked.get(app)
        if act.rehearsal_lane(app) in memory.busy or container.state == "removing":
            continue
        if way is not None and is_of(container, way):
            _look_at(step, container, way, observed, memory, now, is_well=app in serving)
        else:
            _end(step, container, app, "its answer is known, or nobody asks for it any more", memory, now)
    if not under_way:
        _begin(step, {name: way for name, way in asked.items() if name in serving}, memory, pool, now, at_rest=at_rest)
    return step, under_way or next((action.app for action in step.actions), "")


def _asked(target: Target, memory: Memory) -> WayBack | None:
    """What is to be rehearsed for an app; nothing while a person wants it left alone."""
    way = target.way_back
    if way is None or target.desired is None or target.name in memory.suspended:
        return None
    return None if _is_answered(memory, target.desired, way.previous) else way


def _begin(
    step: Step, asked: Mapping[str, WayBack], memory: Memory, pool: AddressPool, now: float, *, at_rest: bool
) -> None:
    """Start one, when nobody is at work: what people wait for comes first."""
    for app, way in asked.items():
        retry = memory.retries.get(act.rehearsal_lane(app))
        failed = retry if retry is not None and retry.fingerprint == way.applied else None
        if way.desired is None and way.passing:
            step.wait(now + _LATER, "", "")
        elif way.desired is None:
            _answer(step, way, None, app, (False, IMPOSSIBLE, way.obstacle), memory, now)
        elif failed is not None and failed.attempts >= _ATTEMPTS:
            _answer(step, way, None, app, (False, IMPOSSIBLE, failed.message), memory, now)
        elif failed is not None and is_waiting(failed, now):
            step.wait(failed.not_before, "", "")
        elif at_rest:
            address = pool.take()
            if address is None:
                step.wait(now + _SUBNET_FULL, "", "")
                return
            why = f"whether {app} could go back to {_called(way)} is tried off the traffic"
            step.actions.append(act.Rehearse(app, why, way.desired, address, name_of(way.desired)))
            return


def _look_at(
    step: Step, container: Container, way: WayBack, observed: Observed, memory: Memory, now: float, *, is_well: bool
) -> None:
    """What its replica has shown so far. ``is_well``: what serves is, and so has what both of them need."""
    desired = way.desired
    if desired is None:
        return
    app, health, called = desired.name, desired.app.health, _called(way)
    until, ended = container.started_at + health.deadline, container.state in {"exited", "dead"}
    ready, look_at, why = is_ready(container, desired.app, observed, now)
    if container.state == "created":
        _end(step, container, app, "it was made, but could not be started", memory, now)
    elif not ended and (container.state != "running" or container.address is None):
        _end(step, container, app, "somebody has paused it or taken it off the network", memory, now, unclear=True)
    elif ready:
        text = f"{called} became healthy beside the version that serves, with the data as it was then"
        _answer(step, way, container, app, (True, PASSED, text), memory, now)
    elif not ended and (now < until or not is_sick(container, desired.app, observed)):
        look_at = now + _LATER if look_at is None else look_at
        step.wait(min(until, look_at) if now < until else look_at, "", "")
    elif not is_well or _was_interrupted(container, observed.engine.containers):
        text = f"{called} was tried while what serves was not well either, which says nothing about it"
        _end(step, container, app, text, memory, now, unclear=True)
    else:
        how = f"{how_it_ended(container)} before it was healthy"
        if not ended:
            how = f"was not healthy within {health.deadline:g} s{f': {why}' if why else ''}"
        _answer(step, way, container, app, (False, FAILED, f"{called} {how}"), memory, now)


def _was_interrupted(container: Container, containers: Iterable[Container]) -> bool:
    """Replicas of its app started after it did: it was not the only one that ended, as when the host was restarted."""
    app = container.claim.app if container.claim else ""
    own = (c for c in containers if c.owned and c.claim and c.claim.app == app and c.claim.role == "replica")
    return any(replica.started_at > container.started_at for replica in own)


def _called(way: WayBack) -> str:
    """The version before, for people."""
    image = f"{way.desired.app.image} of " if way.desired is not None else ""
    return f"{image}{way.revision[:8] or 'a revision that nobody knows any more'}"


def _answer(
    step: Step,
    way: WayBack,
    container: Container | None,
    app: str,
    said: tuple[bool, str, str],
    memory: Memory,
    now: float,
) -> None:
    ready, reason, message = said
    asked = way.desired.fields["asked"] if way.desired is not None else ""
    answer = Rehearsed(way.applied, way.previous, ready, reason, message, way.revision, now, asked=asked)
    record = act.RecordRehearsal(app, message, answer, way.desired, container.id if container else None)
    _add(step, record, memory, now)


def _end(
    step: Step, container: Container, app: str, why: str, memory: Memory, now: float, *, unclear: bool = False
) -> None:
    grace = container.stop_grace_period
    _add(step, act.EndRehearsal(app, why, container.id, container.name, grace, unclear), memory, now)


def _add(step: Step, action: act.Action, memory: Memory, now: float) -> None:
    """Do it now, or later where it has failed."""
    retry = memory.retries.get(act.retry_lane(action))
    if retry is not None and is_waiting(retry, now):
        step.wait(retry.not_before, "", "")
    else:
        step.actions.append(action)
