"""The actions of one app's forecast as numbered steps in people's words.

Also the waits between them, which are no actions, but what people see most of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from reconciler.cli.text import clean, count, duration, listed, shorten
from reconciler.core import actions as act
from reconciler.core.model import App
from reconciler.core.rollout import Strategy

Kind = Literal["first deployment", "upgrade", "return", "scale", "repair", "removal", "routes", "pull"]
"""``return``: to the version applied last, because the tip's cannot be followed."""

_Phase = Literal["pull", "write", "task", "start", "restart", "mend", "name", "share", "retire", "give up"]
_CHANGING: frozenset[_Phase] = frozenset({"task", "start", "restart", "name", "share", "retire"})
_STARTING: frozenset[_Phase] = frozenset({"start", "restart"})
_PHASES: Mapping[type[act.Action], _Phase] = {
    act.PullImage: "pull",
    act.WriteFiles: "write",
    act.WriteSecrets: "write",
    act.RunTask: "task",
    act.StartReplica: "start",
    act.StartContainer: "restart",
    act.RestartContainer: "mend",
    act.Unpause: "mend",
    act.Reconnect: "mend",
    act.UpdateLimits: "mend",
    act.SetName: "name",
    act.SetSlots: "share",
    act.StopContainer: "retire",
    act.RemoveContainer: "retire",
    act.Quarantine: "give up",
}
_REMOVAL_DRAIN = 30.0
_LONGEST_COMMAND = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """What the words depend on."""

    name: str
    kind: Kind
    app: App | None
    """The manifest that is followed; None for a removal."""
    strategy: Strategy | None
    """Of what follows an older version."""
    answers: bool
    """Somebody who asks for it now reaches it."""
    waits_for: tuple[str, ...] = ()
    """Dependencies that change too, and come first."""

    @property
    def recreate(self) -> bool:
        """The old version stops first."""
        return self.strategy == "recreate"


def noticeable(action: act.Action) -> bool:
    """Whether an action changes something that runs; the others are book-keeping, which people need not read."""
    match action:
        case act.SetSlots():
            return action.weight > 0
        case act.ForgetSlots() | act.RecordApplied() | act.RecordPruned() | act.RemoveLeftovers() | act.CollectImage():
            return False
        case (
            act.Rehearse()
            | act.RecordRehearsal()
            | act.EndRehearsal()
            | act.AfterDeployDone()
            | act.AfterDeployFailed()
        ):
            return False
        case act.RemoveContainer():
            return not _is_task(action)
        case _:
            return True


def steps_of(actions: Iterable[act.Action], scene: Scene) -> tuple[str, ...]:
    """What happens, in order, one sentence for each thing that people would call one step."""
    phases = _phases(actions)
    lines: list[str] = []
    waiting = list(scene.waits_for)
    before: _Phase | None = None
    for phase, group in phases:
        if waiting and phase in _CHANGING:
            lines.append(
                f"wait until {listed(waiting)} {'is' if len(waiting) == 1 else 'are'} healthy at this revision"
            )
            waiting = []
        if _needs_health(before, phase, group, scene):
            lines.append(_until_healthy(scene))
        if phase == "retire" and _shared(phases) and scene.app is not None and scene.app.rollout.bake:
            lines.append(
                f"keep {_whom(_names(group), scene)} for {duration(scene.app.rollout.bake)}, to go back at once"
            )
        stopped = [a for a in group if isinstance(a, act.StopContainer) and not _is_task(a)]
        if phase == "retire" and not scene.recreate and stopped:
            lines.append(_until_drained(group, scene))
        lines.append(_sentence(phase, group, scene))
        before = phase
    if before in _STARTING:
        lines.append(_until_healthy(scene))
    return tuple(lines)


def _phases(actions: Iterable[act.Action]) -> list[tuple[_Phase, list[act.Action]]]:
    phases: list[tuple[_Phase, list[act.Action]]] = []
    for action in actions:
        phase = _phase(action)
        if phase is None:
            continue
        if phases and phases[-1][0] == phase:
            phases[-1][1].append(action)
        else:
            phases.append((phase, [action]))
    return phases


def _phase(action: act.Action) -> _Phase | None:
    if not noticeable(action):
        return None
    if isinstance(action, act.StartContainer) and _is_task(action):
        return "task"
    return _PHASES.get(type(action))


def _is_task(action: act.StartContainer | act.StopContainer | act.RemoveContainer) -> bool:
    return action.name.startswith(tuple(f"{action.app}.{word}." for word in ("before", "check", "after")))


def _needs_health(before: _Phase | None, phase: _Phase, group: Sequence[act.Action], scene: Scene) -> bool:
    """Between a start and what follows; and first of all where a rollout is already under way."""
    if before in _STARTING:
        return phase not in _STARTING
    under_way = before is None and phase == "name" and scene.kind in {"upgrade", "return", "first deployment"}
    return under_way and any(isinstance(action, act.SetName) and action.addresses for action in group)


# --- sentences ------------------------------------------------------------------------------------------------------


def _sentence(  # noqa: C901, PLR0911  (one flat table)
    phase: _Phase, group: Sequence[act.Action], scene: Scene
) -> str:
    match phase:
        case "pull":
            return _pull(group, scene)
        case "write":
            return _write(group)
        case "task":
            return _task(group, scene)
        case "start":
            return _start(group, scene)
        case "restart":
            return f"start {listed(_names(group))} again"
        case "mend":
            return ", then ".join(map(_mend, group))
        case "name":
            return _name(group, scene)
        case "share":
            return _shares(group, scene)
        case "retire":
            return _retire(group, scene)
        case "give up":
            return "give this version up: it is not tried again before a commit changes it"
        case _:
            assert_never(phase)


def _pull(group: Sequence[act.Action], scene: Scene) -> str:
    pull = f"pull {listed([action.reference for action in group if isinstance(action, act.PullImage)])}"
    if scene.kind == "pull" and scene.app is not None and scene.app.pull_policy == "always":
        return f"{pull} again (pull_policy: always); only then is it known whether anything changes"
    return pull


def _write(group: Sequence[act.Action]) -> str:
    what = []
    if any(isinstance(action, act.WriteFiles) for action in group):
        what.append("its files to disk")
    if any(isinstance(action, act.WriteSecrets) for action in group):
        what.append("its secrets to memory (tmpfs)")
    return f"write {listed(what)}"


def _task(group: Sequence[act.Action], scene: Scene) -> str:
    app, action = scene.app, group[0]
    name = action.name if isinstance(action, act.RunTask | act.StartContainer) else ""
    kind = name.removeprefix(f"{scene.name}.").partition(".")[0]
    task = None if app is None else app.after_deploy if kind == "after" else app.before_deploy
    if task is None:
        return f"run {'after' if kind == 'after' else 'before'}_deploy"
    most = f"at most {duration(task.timeout)}"
    match kind:
        case "check":
            return f"wait until {task.on} has run before_deploy, as {_command(task.check)} says ({most})"
        case "after":
            return (
                f"run after_deploy: {_command(task.command)} ({most}); if it fails the new version serves all the same"
            )
        case _:
            return f"run before_deploy: {_command(task.command)} ({most}); if it fails nothing changes"


def _start(group: Sequence[act.Action], scene: Scene) -> str:
    number = len(group)
    match scene.kind:
        case "scale":
            return f"start {number} more replica{'' if number == 1 else 's'}"
        case "repair":
            return f"start {listed(_names(group))}"
        case "upgrade" | "return":
            new = "the new replica" if number == 1 else f"{number} new replicas"
            return f"start {new}{'' if scene.recreate else ' beside the old'}"
        case _:
            return f"start {count(number, 'replica')}"


def _mend(action: act.Action) -> str:
    match action:
        case act.RestartContainer():
            return f"restart {action.name}"
        case act.Unpause():
            return f"let {action.name} go on"
        case act.Reconnect():
            return f"connect {action.name} to the network again"
        case act.UpdateLimits():
            return f"set the limits of {action.name} back"
        case _:
            return action.reason


def _name(group: Sequence[act.Action], scene: Scene) -> str:
    last = group[-1]
    addresses = last.addresses if isinstance(last, act.SetName) else ()
    if not addresses:
        if scene.kind == "repair" and not scene.answers:
            return f"empty the name {scene.name}, so that nobody waits for what is not there"
        down = ": it is down from here" if scene.answers and scene.kind != "removal" else ""
        return f"take the name {scene.name} out of use{down}"
    number = len(addresses)
    if scene.kind in {"upgrade", "return"}:
        new = f"the {'new' if scene.kind == 'upgrade' else 'good'} replica{'' if number == 1 else 's'}"
        if scene.strategy == "rolling":
            return f"let the name {scene.name} answer new replicas in place of as many old ones"
        if scene.recreate:
            return f"let the name {scene.name} answer {new}: it is up again"
        return f"switch the name {scene.name} to {new}"
    which = "its replica" if number == 1 else f"{number} replicas"
    return f"let the name {scene.name} answer {which}"


def _shared(phases: Sequence[tuple[_Phase, object]]) -> bool:
    return any(phase == "share" for phase, _ in phases)


def _shares(group: Sequence[act.Action], scene: Scene) -> str:
    rollout = scene.app.rollout if scene.app is not None else None
    times = {step.weight: duration(step.seconds) for step in rollout.steps} if rollout is not None else {}
    weights = [action.weight for action in group if isinstance(action, act.SetSlots)]
    shares = [f"{weight} % for {times[weight]}" if weight in times else f"{weight} %" for weight in weights]
    worse = f"; it is taken back if more than {rollout.max_errors:g} % of its answers are 5xx" if rollout else ""
    return f"give the new replicas {', then '.join(shares)} of nginx's requests{worse}, or one is sick"


def _retire(group: Sequence[act.Action], scene: Scene) -> str:
    stops = [action for action in group if isinstance(action, act.StopContainer)]
    names = _names(group)
    removes = any(isinstance(action, act.RemoveContainer) for action in group)
    whom = _whom(names, scene)
    them = "it" if len(names) == 1 else "them"
    if not stops:
        return f"remove {whom}"
    signal = scene.app.stop_signal if scene.app and scene.app.stop_signal else "SIGTERM"
    stop = f"stop {whom} ({signal}, SIGKILL after {duration(max(action.grace for action in stops))})"
    if scene.kind == "removal":
        return f"{stop} and remove {them}; volumes stay"
    return f"{stop} and remove {them}" if removes else stop


def _whom(names: Sequence[str], scene: Scene) -> str:
    number = len(names)
    match scene.kind:
        case "upgrade" | "return" if scene.strategy == "rolling":
            return listed(names)
        case "upgrade":
            return "the old replica" if number == 1 else f"the {number} old replicas"
        case "return":
            return "the failed replica" if number == 1 else f"the {number} failed replicas"
        case "removal":
            return "its container" if number == 1 else f"its {number} containers"
        case _:
            return listed(names)


def _until_drained(group: Sequence[act.Action], scene: Scene) -> str:
    whom = _whom(_names(group), scene)
    drain = scene.app.rollout.drain if scene.app else _REMOVAL_DRAIN
    return f"wait until nobody is connected to {whom} (at most {duration(drain)})"


def _until_healthy(scene: Scene) -> str:
    app = scene.app
    if app is None:
        return "wait until healthy"
    how = ""
    match app.health.kind:
        case "http":
            how = f": GET :{app.health.port}{app.health.path}"
        case "tcp":
            how = f": port {app.health.port} accepts connections"
        case "command":
            how = f": {_command(app.health.command)}"
        case "engine":
            pass
    return f"wait until healthy{how} (at most {duration(app.health.deadline)})"


def _command(words: Sequence[str]) -> str:
    return shorten(clean(" ".join(words)), _LONGEST_COMMAND)


def _names(group: Iterable[act.Action]) -> list[str]:
    """Names of the containers, each once, in order."""
    found = [
        action.name
        for action in group
        if isinstance(action, act.StartReplica | act.StartContainer | act.StopContainer | act.RemoveContainer)
    ]
    return list(dict.fromkeys(found))
