"""What runs once for a version, before any of its replicas: ``before_deploy``. Its container proves that it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.core import actions as act
from reconciler.core.model import Container, DesiredApp, Task
from reconciler.core.retiring import take_away
from reconciler.core.step import Facts, Step


def before_deploy(step: Step, facts: Facts, desired: DesiredApp, task: Task, containers: Sequence[Container]) -> bool:
    """Whether it has run to a good end for this fingerprint; adds to the step what is needed for that.

    Args:
        step: Of this look at the app.
        facts: What is known about the app.
        desired: The version that is to come.
        task: From its manifest.
        containers: The app's task containers, of any version.
    """
    ours = [c for c in containers if c.claim and c.claim.fingerprint == desired.fingerprint]
    others = [c for c in containers if c not in ours and c.state == "running"]
    if others:  # two migrations at once would be worse than a wait
        until = others[0].started_at + task.timeout
        if facts.now < until:
            step.wait(until, "BeforeDeploy", "waiting for before_deploy of another version to end")
        else:
            end_task(step, desired.name, others[0], "before_deploy of another version does not end")
        return False
    if ours:
        return _has_ended_well(step, facts, desired, task, ours[0])
    _run(step, facts, desired, task)
    return False


def end_task(step: Step, app: str, container: Container, why: str) -> None:
    """Take a task's container away."""
    take_away(step, app, container, why)
    step.say("BeforeDeploy", why)


def _run(step: Step, facts: Facts, desired: DesiredApp, task: Task) -> None:
    name = f"{desired.name}.before.{desired.fingerprint[:8]}"
    address = facts.pool.take()
    if address is None:
        step.subnet_full(facts.now)
        return
    spec = replace(desired.spec, command=task.command, ports=(), health=None, restart=False)
    why = "before_deploy runs once for each version"
    step.actions.append(act.RunTask(desired.name, why, desired, address, name, spec))
    step.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")


def _has_ended_well(step: Step, facts: Facts, desired: DesiredApp, task: Task, container: Container) -> bool:
    until = container.started_at + task.timeout
    if container.state == "created" and container.error:
        end_task(step, desired.name, container, f"before_deploy could not be started: {container.error}")
    elif container.state == "created":
        why = "before_deploy was created but not started"
        step.actions.append(act.StartContainer(desired.name, why, container.id, container.name))
        step.say("BeforeDeploy", "before_deploy is starting; nothing has changed yet")
    elif container.state == "running" and facts.now < until:
        step.wait(until, "BeforeDeploy", "before_deploy is running; no traffic has moved")
    elif container.state == "running":
        step.give_up(desired, "BeforeDeployTimeout", f"before_deploy did not end within {task.timeout:g} s", container)
    elif container.state != "exited" or container.exit_code != 0:
        end = "ran out of memory" if container.oom_killed else f"ended with exit code {container.exit_code}"
        step.give_up(desired, "BeforeDeployFailed", f"before_deploy {container.error or end}", container)
    else:
        return True
    return False
