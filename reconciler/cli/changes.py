"""One app that changes, in words: what, why, how, in which steps, and who notices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.cli.crossing import crossing
from reconciler.cli.steps import Kind, Scene, noticeable, steps_of
from reconciler.cli.text import duration, listed, rehearsed
from reconciler.core import actions as act
from reconciler.core.desired import changed_fields
from reconciler.core.model import App
from reconciler.core.observed import Container, Observed
from reconciler.core.plan import Plan
from reconciler.core.rollout import Strategy, strategy_of
from reconciler.core.simulate import Forecast
from reconciler.core.status import AppStatus
from reconciler.core.target import DesiredApp


@dataclass(frozen=True, slots=True)
class Downtime:
    """How long nobody answers an app's name, in seconds."""

    expected: float
    at_most: float
    """Then it has either become healthy, or is given up and the old version put back."""
    because: str


@dataclass(frozen=True, slots=True)
class Change:
    """One app that changes."""

    app: str
    kind: Kind
    why: tuple[str, ...]
    impact: str
    steps: tuple[str, ...] = ()
    strategy: str = ""
    strategy_because: str = ""
    down: Downtime | None = None
    down_now: bool = False
    """Nobody answers its name at the moment."""
    note: str = ""
    way_back: str = ""
    """Of one that goes back: what a rehearsal has shown."""
    back: str = ""
    """What stays as it is although this goes back."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that is known."""

    forecast: Forecast
    start: Plan
    before: Observed
    applied: Mapping[str, App]
    """Apps as the revision applied last had them, where it can be read."""
    containers: Mapping[str, tuple[Container, ...]]
    """Owned replicas by app, newest first, before anything happens."""

    @classmethod
    def of(cls, forecast: Forecast, start: Plan, before: Observed, applied: Mapping[str, App] | None) -> Case:
        """Everything that is known, sorted by app."""
        return cls(forecast, start, before, applied or {}, _replicas(before))

    def desired(self, app: str) -> DesiredApp | None:
        """The version that is followed in the end."""
        target = self.forecast.wanted.targets.get(app)
        return target.desired if target else None

    def status(self, app: str) -> AppStatus | None:
        """Where the app stands now."""
        return self.start.statuses.get(app)


# --- one app that changes -------------------------------------------------------------------------------------------


def change_of(case: Case, app: str, actions: list[act.Action], moving: Mapping[str, object]) -> Change:
    """One app, read from its actions. ``moving`` has all apps that change, as keys."""
    desired, containers = case.desired(app), case.containers.get(app, ())
    kind = _kind(case, app, actions)
    strategy: Strategy | None = None
    because = ""
    if desired is not None and kind in {"upgrade", "return"}:
        strategy, because = strategy_of(desired.app)
    new_version = kind in {"first deployment", "upgrade"}
    if strategy == "canary" and not any(isinstance(action, act.SetSlots) and action.weight for action in actions):
        strategy, because = "blue_green", "a way back takes no steps, and a canary needs an old version that serves"
    dependencies = tuple(d for d in desired.app.depends_on if d in moving) if desired and new_version else ()
    manifest = None if kind == "removal" or desired is None else desired.app
    scene = Scene(app, kind, manifest, strategy, _answers(case, app), dependencies)
    down = _downtime(case, app, actions)
    return Change(
        app=app,
        kind=kind,
        why=_why(case, app, kind, actions),
        impact=_impact(case, app, kind, down),
        steps=steps_of(actions, scene),
        strategy=strategy or "",
        strategy_because=because,
        down=down,
        down_now=kind not in {"first deployment", "removal"} and not _answers(case, app),
        back=_back(case, app, kind),
        note=_last_attempt(case, app) or ("goes on from where it is" if _under_way(desired, containers, kind) else ""),
        way_back=_way_back(case, app, desired, containers),
    )


def _kind(case: Case, app: str, actions: Iterable[act.Action]) -> Kind:
    target, desired = case.forecast.wanted.targets.get(app), case.desired(app)
    if target is None:
        return "removal"
    actions = list(actions)
    if all(isinstance(action, act.PullImage) for action in actions if noticeable(action)):
        return "pull"
    containers = case.containers.get(app, ())
    if desired is None:
        return "repair"
    if any(c.claim and c.claim.fingerprint != desired.fingerprint for c in containers):
        return "upgrade" if target.blocked is None else "return"
    status = case.status(app)
    if not containers and not (status and status.revisions.applied):
        return "first deployment"
    return "scale" if _scales(desired, containers, actions) else "repair"


def _scales(desired: DesiredApp, containers: Iterable[Container], actions: list[act.Action]) -> bool:
    slots = {c.claim.slot for c in containers if c.claim}
    drift = any(action.drift for action in actions if isinstance(action, act.StartReplica))
    if not slots or drift:
        return False
    new = {action.slot for action in actions if isinstance(action, act.StartReplica)}
    return max(slots) > desired.app.replicas or (bool(new) and min(new) > max(slots))


def _under_way(desired: DesiredApp | None, containers: Iterable[Container], kind: Kind) -> bool:
    fingerprint = desired.fingerprint if desired else ""
    return kind == "upgrade" and any(c.claim and c.claim.fingerprint == fingerprint for c in containers)


def _way_back(case: Case, app: str, desired: DesiredApp | None, containers: Iterable[Container]) -> str:
    """Where it goes back to a version that was tried beside the one that runs: what came of that."""
    answer = case.forecast.memory.rehearsed.get(app)
    runs = {c.claim.fingerprint for c in containers if c.claim}
    if answer is None or desired is None or desired.fingerprint != answer.previous or answer.fingerprint not in runs:
        return ""
    return rehearsed(answer)


def _back(case: Case, app: str, kind: Kind) -> str:
    desired = case.desired(app)
    if kind != "upgrade" or desired is None:
        return ""
    versions = case.forecast.began.versions.get(app, ())
    return crossing(versions, case.containers.get(app, ()), desired, case.applied.get(app))


def _last_attempt(case: Case, app: str) -> str:
    status = case.status(app)
    if status is None or status.next_retry is None:
        return ""
    return f"the last attempt failed, the next one waits a little: {status.reason}: {status.message}"


def _why(case: Case, app: str, kind: Kind, actions: Iterable[act.Action]) -> tuple[str, ...]:
    desired = case.desired(app)
    target = case.forecast.wanted.targets.get(app)
    if kind == "removal":
        named = app in case.forecast.wanted.catalog.apps
        return ("its hosts do not include this one any more" if named else "the repository no longer names it",)
    if desired is None or kind == "repair":
        return _reasons(actions)
    if kind == "pull":
        return ("pull_policy: always",) if desired.app.pull_policy == "always" else _reasons(actions)
    if kind == "first deployment":
        return ("nothing of it is on this host",)
    if kind == "return" and target is not None and target.blocked is not None:
        return (f"{case.forecast.wanted.revision[:8]} cannot be followed ({target.blocked.reason})",)
    return (*_fields(desired, case.containers.get(app, ())), *_scaling(desired, case.containers.get(app, ())))


def _reasons(actions: Iterable[act.Action]) -> tuple[str, ...]:
    """What the actions say; that of a name only where there is nothing else."""
    noticed = [action for action in actions if noticeable(action)]
    telling = [action for action in noticed if not isinstance(action, act.SetName)] or noticed
    gone = [action.name for action in telling if isinstance(action, act.StartReplica)]
    told = [f"{listed(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []
    told += [action.reason for action in telling if not isinstance(action, act.StartReplica)]
    return tuple(dict.fromkeys(told))


def _fields(desired: DesiredApp, containers: Iterable[Container]) -> Iterable[str]:
    """The fields in which the version that runs differs. Values are in the repository; those of secrets nowhere."""
    old = [c.claim for c in containers if c.claim and c.claim.fingerprint != desired.fingerprint]
    if not old:
        return
    was, now = old[0], desired.fields
    for name in sorted(changed_fields(was.fields, now), key=lambda name: (name != "image", name)):
        if name == "image":
            same = was.image == desired.app.image
            yield f"image {was.image} is another one now" if same else f"image {was.image} -> {desired.app.image}"
        else:
            yield f"{name} {'changed' if name in was.fields and name in now else 'added' if name in now else 'removed'}"


def _scaling(desired: DesiredApp, containers: Iterable[Container]) -> Iterable[str]:
    was = max((c.claim.slot for c in containers if c.claim), default=0)
    if was and was != desired.app.replicas:
        yield f"replicas {was} -> {desired.app.replicas}"


# --- who notices ----------------------------------------------------------------------------------------------------


def _downtime(case: Case, app: str, actions: Iterable[act.Action]) -> Downtime | None:
    expected, desired = case.forecast.down.get(app), case.desired(app)
    if expected is None or desired is None or not _answers(case, app):
        return None
    graces = [action.grace for action in _while_down(actions) if isinstance(action, act.StopContainer)]
    deadline = desired.app.health.deadline
    times = f"{len(graces)} x " if len(graces) > 1 else ""
    parts = [f"{times}stop_grace_period {duration(graces[0])}"] if graces else []
    return Downtime(
        round(expected, 1), sum(graces) + deadline, " + ".join([*parts, f"health.deadline {duration(deadline)}"])
    )


def _while_down(actions: Iterable[act.Action]) -> Iterable[act.Action]:
    down = False
    for action in actions:
        if isinstance(action, act.SetName):
            down = not action.addresses
        elif down:
            yield action


def _impact(case: Case, app: str, kind: Kind, down: Downtime | None) -> str:
    if kind == "removal":
        return "its name stops answering"
    if kind == "first deployment":
        return "nobody uses it yet"
    if down is not None:
        asking = _asking(case, app)
        verb = "depends" if len(asking) == 1 else "depend"
        return f"down for about {duration(down.expected)}{f'; {listed(asking)} {verb} on it' if asking else ''}"
    if not _answers(case, app):
        back = next(
            (
                event.at
                for event in case.forecast.events
                if event.action.app == app and isinstance(event.action, act.SetName) and event.action.addresses
            ),
            None,
        )
        return "down now" if back is None else f"down now, back in about {duration(back)}"
    return "nobody notices"


def _answers(case: Case, app: str) -> bool:
    name = case.before.names.names.get(app)
    running = {c.address for c in case.containers.get(app, ()) if c.state == "running"}
    return name is not None and bool(running & set(name.written))


def _asking(case: Case, app: str) -> list[str]:
    targets = case.forecast.wanted.targets.values()
    return sorted(t.name for t in targets if t.desired is not None and app in t.desired.app.depends_on)


def routes_only(app: str) -> Change:
    """An app of which nothing but the routes change."""
    return Change(app, "routes", ("ingress changed",), "nobody notices", ("reload nginx",))


def _replicas(observed: Observed) -> dict[str, tuple[Container, ...]]:
    found: dict[str, tuple[Container, ...]] = {}
    for container in sorted(observed.engine.containers, key=lambda c: c.created_at, reverse=True):
        if container.owned and container.claim and container.claim.role == "replica":
            found[container.claim.app] = (*found.get(container.claim.app, ()), container)
    return found
