"""What comes when a version serves and the old one is gone: it is recorded as applied, then ``after_deploy`` runs once.

That it is due stands in the store, written with the deployment itself; that it has begun, and how it ended, its
container tells. So each crash in between leads on from where it was: nothing is skipped, and nothing that ended well is
repeated. A container is of this deployment, and not of an earlier one of the same version, where ``Claim.run`` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reconciler.core import actions as act
from reconciler.core.direction import environment, way_to
from reconciler.core.memory import Due
from reconciler.core.model import Task
from reconciler.core.observed import Container
from reconciler.core.retiring import take_away
from reconciler.core.step import Facts, Step
from reconciler.core.target import DesiredApp
from reconciler.core.tasks import how_it_ended, task_of


def record(step: Step, facts: Facts, desired: DesiredApp, replicas: Iterable[Container], change: str) -> bool:
    """Record the version as applied. Whether it can be done with: not when that very record makes after_deploy due.

    Args:
        step: Of this look at the app.
        facts: What is known about the app.
        desired: The version that serves.
        replicas: Its replicas.
        change: What differs from the version before, in words.
    """
    applied = facts.applied
    now = (desired.fingerprint, desired.revision)
    if facts.target.blocked is not None or (applied is not None and (applied.fingerprint, applied.revision) == now):
        return True
    # Docker tells whole seconds. A store from the future, made before the clock was set right, says nothing.
    since = int(facts.since) if facts.since <= facts.now else 0
    adopted = applied is None and all(container.created_at < since for container in replicas)
    why = "it ran before this store was made" if adopted else change
    step.actions.append(act.RecordApplied(desired.name, why, desired, adopted, way_to(facts, desired)))
    same = adopted or (applied is not None and applied.fingerprint == desired.fingerprint)
    if not same and desired.app.after_deploy is not None:
        step.say("AfterDeploy", "after_deploy comes next; the new version serves")
        return False
    return True


def after_deploy(step: Step, facts: Facts, desired: DesiredApp, containers: Sequence[Container]) -> bool:
    """Whether nothing of it is left to do for the version that serves; adds to the step what is needed for that.

    Args:
        step: Of this look at the app.
        facts: What is known about the app.
        desired: The version that serves and is recorded as applied.
        containers: The app's task containers, of any version.
    """
    if facts.pending:  # a newer version is on its way; what it runs before must not meet what this one runs after
        return True
    due = facts.due if facts.due is not None and facts.due.fingerprint == desired.fingerprint else None
    task = desired.app.after_deploy
    mine = [c for c in containers if due is not None and _is_of(c, due)]
    there = [c for c in containers if c not in mine and (c.state == "running" or (c.claim and c.claim.role == "after"))]
    for container in there:
        _clear(step, facts, container, task)
    if due is None:
        return True
    if task is None:
        step.actions.append(act.AfterDeployDone(desired.name, "the manifest has no after_deploy any more", desired))
        return True
    if due.cause:
        for container in mine:
            take_away(step, desired.name, container, "after_deploy has failed")
        return _has_failed(step, desired, due)
    if mine:
        _lead_on(step, facts, desired, task, mine[0])
    elif there:
        step.say("AfterDeploy", "after_deploy waits for the task of another version to end; this version serves")
    elif not step.actions:
        _run(step, facts, desired, task, due)
    step.say("AfterDeploy", "after_deploy comes next; the new version serves")
    return False


def in_words(task: Task | None) -> str:
    """What is due, and by when it must have ended."""
    return f"{task.words} within {task.timeout:g} s" if task else ""


def _is_of(container: Container, due: Due) -> bool:
    claim = container.claim
    return claim is not None and (claim.role, claim.fingerprint, claim.run) == ("after", due.fingerprint, due.run)


def _clear(step: Step, facts: Facts, container: Container, task: Task | None) -> None:
    """What an earlier deployment left may come to its end, if it does in time."""
    until = container.started_at + (task or Task(())).timeout
    if container.state == "running" and facts.now < until:
        step.wait(until, "", "")
    else:
        take_away(step, facts.target.name, container, "the task of an earlier deployment is over")


def _run(step: Step, facts: Facts, desired: DesiredApp, task: Task, due: Due) -> None:
    made = task_of(facts, desired, "after", task.command)
    if made is None:
        step.subnet_full(facts.now)
        return
    told = {**made.spec.environment, **environment(due.way, desired)}  # from where it came, not from where it is
    why = "after_deploy runs once for each deployment"
    step.actions.append(replace(made, reason=why, spec=replace(made.spec, environment=told), run=due.run))
    step.say("AfterDeploy", "after_deploy is starting; the new version serves")


def _lead_on(step: Step, facts: Facts, desired: DesiredApp, task: Task, container: Container) -> None:
    name, until = desired.name, container.started_at + task.timeout
    match container.state:
        case "created":  # it did nothing yet, so another one takes its place
            take_away(step, name, container, container.error or "after_deploy was created but not started")
        case "running" | "paused" | "restarting" if facts.now < until:
            step.wait(until, "AfterDeploy", "after_deploy is running; the new version serves")
        case "running" | "paused" | "restarting":
            _fail(step, desired, "AfterDeployTimeout", f"after_deploy did not end within {task.timeout:g} s", container)
        case "removing":
            pass
        case "exited" if container.exit_code == 0:
            step.actions.append(act.AfterDeployDone(name, "after_deploy has ended well", desired))
            take_away(step, name, container, "after_deploy has ended well")
        case _:
            _fail(step, desired, "AfterDeployFailed", f"after_deploy {how_it_ended(container)}", container)
    step.say("AfterDeploy", "after_deploy has begun; the new version serves")


def _fail(step: Step, desired: DesiredApp, cause: str, message: str, container: Container) -> None:
    step.actions.append(act.AfterDeployFailed(desired.name, message, desired, cause, message, container.id))
    take_away(step, desired.name, container, message)


def _has_failed(step: Step, desired: DesiredApp, due: Due) -> bool:
    step.stalled = True
    step.say(
        due.cause,
        f"{due.message}; {desired.app.image} is deployed and goes on serving, nothing is taken back. Once it can go "
        f"well: reconciler retry {desired.name}; or mend it by a commit",
    )
    return False
