"""What runs once for a version, before any of its replicas: ``before_deploy``. Its container proves that it ran.

Where the manifest names one host that runs it for all (``on``), the others ask, by a command of the app's own
(``check``), until it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reconciler.core import actions as act
from reconciler.core.direction import environment, way_to
from reconciler.core.guarding import healthy_now
from reconciler.core.model import Task
from reconciler.core.observed import Container, Role
from reconciler.core.retiring import is_up, stop, take_away
from reconciler.core.step import Facts, Step
from reconciler.core.target import DesiredApp

ROLES: frozenset[Role] = frozenset({"task", "check", "after"})
"""Of containers that end by themselves."""

_AGAIN = 3.0  # seconds between two questions whether another host has run it
_ASKING = 60.0  # seconds after which a question that hangs is asked anew


def before_deploy(
    step: Step, facts: Facts, desired: DesiredApp, task: Task, containers: Sequence[Container], old: Iterable[Container]
) -> bool:
    """Whether it has run to a good end for this fingerprint; adds to the step what is needed for that.

    Args:
        step: Of this look at the app.
        facts: What is known about the app.
        desired: The version that is to come.
        task: From its manifest.
        containers: The app's task containers, of any version.
        old: Replicas of the versions before.
    """
    role: Role = "check" if task.on not in {"", facts.host} else "task"
    ours = [c for c in containers if c.claim and (c.claim.fingerprint, c.claim.role) == (desired.fingerprint, role)]
    others = [c for c in containers if c not in ours and is_up(c)]
    if others:  # two migrations at once would be worse than a wait
        what = "after_deploy" if others[0].claim and others[0].claim.role == "after" else "before_deploy"
        until = others[0].started_at + _patience(others[0], facts, task)
        if facts.now < until:
            step.wait(until, "BeforeDeploy", f"waiting for {what} of another version to end")
        else:
            end_task(step, desired.name, others[0], f"{what} of another version does not end")
        return False
    if not ours:
        _run(step, facts, desired, task, role, old)
        return False
    if _is_outdated(ours[0], desired) and not (role == "task" and _is_running(ours[0], task, facts.now)):
        end_task(step, desired.name, ours[0], "a commit has changed before_deploy since this one was made")
        return False
    if role == "check":
        return _has_run_there(step, facts, desired, task, ours[0])
    return _has_ended_well(step, facts, desired, task, ours[0])


def _is_outdated(container: Container, desired: DesiredApp) -> bool:
    """It has not ended well, and a commit that changed no replica may have mended it: that is another try."""
    run = container.claim.run if container.claim else ""
    return run not in {"", desired.trial} and not (container.state == "exited" and container.exit_code == 0)


def _is_running(container: Container, task: Task, now: float) -> bool:
    return is_up(container) and now < container.started_at + task.timeout


def end_task(step: Step, app: str, container: Container, why: str) -> None:
    """Take a task's container away."""
    take_away(step, app, container, why)
    step.say("BeforeDeploy", why)


def end_unneeded(step: Step, facts: Facts, desired: DesiredApp, containers: Iterable[Container]) -> None:
    """Take away what was done before versions that are not wanted any more, one at a time.

    One that runs is cut short for the version that is there, but not for a newer one: that waits for its end. What
    runs after a deployment is looked after by ``afterwards``: it may not be on record yet that it ended well.
    """
    needed = {desired.fingerprint, facts.pending}
    for container in containers:
        claim = container.claim
        unneeded = claim and claim.role != "after" and claim.fingerprint not in needed
        if unneeded and not step.actions and not (facts.pending and is_up(container)):
            end_task(step, desired.name, container, "its version is not wanted any more")


def task_of(facts: Facts, desired: DesiredApp, role: Role, command: tuple[str, ...]) -> act.RunTask | None:
    """What runs a command in a container of a version; None where no address is free."""
    word = {"task": "before", "check": "check"}.get(role, role)
    address = facts.pool.take()
    if address is None:
        return None
    way = way_to(facts, desired)
    variables = {**desired.spec.environment, **environment(way, desired)}
    spec = replace(desired.spec, command=command, environment=variables, ports=(), health=None, restart=False)
    name = f"{desired.name}.{word}.{desired.fingerprint[:8]}"
    why = f"{word}_deploy runs once for each version"
    return act.RunTask(desired.name, why, desired, address, name, spec, role, desired.trial)


def _patience(container: Container, facts: Facts, task: Task) -> float:
    """How long another task may take, in seconds: as long as its own version says, where that is known."""
    previous = facts.target.previous
    after = previous.app.after_deploy if previous is not None else None
    ends_late = container.claim is not None and container.claim.role == "after" and after is not None
    return after.timeout if after is not None and ends_late else task.timeout


def _run(step: Step, facts: Facts, desired: DesiredApp, task: Task, role: Role, old: Iterable[Container]) -> None:
    well = healthy_now(facts, desired, old)
    if well is None:
        step.wait(facts.now + 1.0, "BeforeDeploy", "waiting until it is known how the version that runs is")
        return
    made = task_of(facts, desired, role, task.check if role == "check" else task.command)
    if made is None:
        step.subnet_full(facts.now)
    elif role == "check":
        step.actions.append(replace(made, reason=f"before_deploy runs on {task.on}; check asks for it", well=well))
        step.say("BeforeDeploy", f"waiting until {task.on} has run before_deploy; nothing has changed yet")
    else:
        step.actions.append(replace(made, well=well))
        step.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")


def _is_started(step: Step, desired: DesiredApp, container: Container) -> bool:
    """Whether it ever ran; else it is brought to that."""
    if container.state == "created" and container.error:
        end_task(step, desired.name, container, f"before_deploy could not be started: {container.error}")
    elif container.state == "created":
        why = "before_deploy was created but not started"
        step.actions.append(act.StartContainer(desired.name, why, container.id, container.name))
        step.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")
    return container.state != "created"


def _has_ended_well(step: Step, facts: Facts, desired: DesiredApp, task: Task, container: Container) -> bool:
    if not _is_started(step, desired, container):
        return False
    if container.state == "removing":  # somebody's hand; what is not there has not run
        step.say("BeforeDeploy", "before_deploy is being removed, and runs again then")
    elif _is_running(container, task, facts.now):
        until = container.started_at + task.timeout
        step.wait(until, "BeforeDeploy", "before_deploy is running; no traffic has moved")
    elif is_up(container):
        step.give_up(desired, "BeforeDeployTimeout", f"before_deploy did not end within {task.timeout:g} s", container)
    elif container.state != "exited" or container.exit_code != 0:
        step.give_up(desired, "BeforeDeployFailed", f"before_deploy {how_it_ended(container)}", container)
    else:
        return True
    return False


def _has_run_there(step: Step, facts: Facts, desired: DesiredApp, task: Task, container: Container) -> bool:
    """Ask again and again. It is the same container each time: when it was made tells since when we ask."""
    if container.state == "exited" and container.exit_code == 0:
        return True
    if not _is_started(step, desired, container):
        return False
    until = container.created_at + task.timeout
    if facts.now >= until:
        running = container.state == "running"
        last = "and the last check does not end" if running else f"and the last check {how_it_ended(container)}"
        message = f"{task.on} has not run before_deploy within {task.timeout:g} s, {last}; look there first"
        step.give_up(desired, "BeforeDeployTimeout", message, container)
        return False
    waiting = f"waiting until {task.on} has run before_deploy (the last check {how_it_ended(container)})"
    again_at = min(until, container.finished_at + _AGAIN)
    if container.state == "running":
        late = min(until, container.started_at + _ASKING)
        if facts.now < late:
            step.wait(late, "BeforeDeploy", f"waiting until {task.on} has run before_deploy")
        else:
            stop(step, desired.name, container, "check hangs")
            step.say("BeforeDeploy", f"waiting until {task.on} has run before_deploy; its check hangs")
    elif facts.now < again_at <= facts.now + _AGAIN:  # later only where the clock was put back
        step.wait(again_at, "BeforeDeploy", waiting)
    else:
        again = f"{task.on} may have run before_deploy by now"
        step.actions.append(act.StartContainer(desired.name, again, container.id, container.name))
        step.say("BeforeDeploy", waiting)
    return False


def how_it_ended(container: Container) -> str:
    """In words: ``ended with exit code 3``."""
    end = "ran out of memory" if container.oom_killed else f"ended with exit code {container.exit_code}"
    return container.error or end
