"""What a forecast means to people: which apps change and why, who notices, what stays as it is and who must act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.cli.steps import Kind, Scene, noticeable, steps_of
from reconciler.cli.text import count, duration, listed
from reconciler.core import actions as act
from reconciler.core.desired import changed_fields
from reconciler.core.model import App, Container, DesiredApp, Observed, Problem
from reconciler.core.plan import Plan
from reconciler.core.rollout import strategy_of
from reconciler.core.simulate import Forecast, by_app
from reconciler.core.status import AppStatus

_BY_HAND = {
    "InvalidManifest": "Correct the manifest and commit",
    "InvalidFleet": "Correct fleet.yaml and commit",
    "PolicyViolation": "Change the manifest, or the policy in this host's agent settings",
    "ImageMissing": "Bring the image to this host (docker load), or change pull_policy",
}
"""What to do, for reasons whose message does not say so itself."""
_AT_ONCE = ("health", "rollout", "depends_on", "before_deploy", "pull_policy", "registry_credentials")
"""Fields of a manifest that are no part of a container: they count from the commit on."""


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


@dataclass(frozen=True, slots=True)
class Standing:
    """One app that does not become what the revision says."""

    app: str
    reason: str
    message: str
    runs: str
    """What goes on instead."""
    remedy: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Nginx:
    """What becomes of the host's nginx."""

    reloads: bool
    running: bool
    """It runs our configuration now."""
    routes: tuple[str, ...] = ()
    """Apps whose routes change, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The whole host."""

    apps: int
    in_sync: bool
    changes: tuple[Change, ...]
    standing: tuple[Standing, ...]
    host_steps: tuple[str, ...]
    """What happens to the host itself."""
    nginx: Nginx | None
    """None where the host has none."""
    refused: str
    """Why removals wait for a person; empty when none do."""
    faults: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]
    """Those that ``standing`` does not show."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """How long it takes where everything is healthy at once, without ``uncounted``."""
    uncounted: tuple[str, ...] = ()
    """Steps that take as long as they please."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that is known."""

    forecast: Forecast
    start: Plan
    before: Observed
    applied: Mapping[str, App]
    containers: Mapping[str, tuple[Container, ...]] = field(default_factory=dict)
    """Owned replicas by app, before anything happens."""

    def desired(self, app: str) -> DesiredApp | None:
        target = self.forecast.wanted.targets.get(app)
        return target.desired if target else None

    def status(self, app: str) -> AppStatus | None:
        return self.start.statuses.get(app)


def outlook(forecast: Forecast, start: Plan, before: Observed, applied: Mapping[str, App] | None = None) -> Outlook:
    """Read a forecast.

    Args:
        forecast: The rollout on paper.
        start: The plan as it is made now; it knows what waits for a retry.
        before: The host as it is now.
        applied: Apps as the revision applied last had them, where it can be read: names whose routes change.
    """
    case = _Case(forecast, start, before, applied or {}, _replicas(before))
    groups = {app: [event.action for event in events] for app, events in by_app(forecast.events)}
    moving = {app: actions for app, actions in groups.items() if app and any(map(noticeable, actions))}
    changes = [_change(case, app, actions, moving) for app, actions in moving.items()]
    routes = _routes(case, groups)
    changes += [_routes_only(app) for app in routes if app not in moving and app in forecast.wanted.targets]
    standing = _standing(case)
    shown = {problem for one in standing for problem in one.problems}
    refused = next((message for reason, message in forecast.end.faults if reason == "PruneBlocked"), "")
    return Outlook(
        apps=len({*forecast.wanted.targets, *start.statuses}),
        in_sync=in_sync(forecast, start),
        changes=tuple(changes),
        standing=standing,
        host_steps=tuple(_host(groups.get("", ()))),
        nginx=_nginx(before, groups.get("", ()), routes),
        refused=refused,
        faults=_faults(forecast, start),
        problems=tuple(p for p in sorted(forecast.wanted.catalog.problems) if p not in shown),
        notes=tuple(_notes(case)),
        seconds=round(max((event.at for event in forecast.events), default=0.0), 1),
        uncounted=tuple(_uncounted(forecast)),
    )


def in_sync(forecast: Forecast, start: Plan) -> bool:
    """Nothing will happen, and nothing that should is kept from it."""
    return (
        not any(noticeable(event.action) for event in forecast.events)
        and all(status.sync == "Synced" for status in forecast.end.statuses.values())
        and not _faults(forecast, start)
        and not forecast.end.prune_blocked
        and not any(problem.severity == "error" for problem in forecast.wanted.catalog.problems)
    )


def forecast_exit_code(forecast: Forecast, start: Plan) -> int:
    """0 in sync, 2 differences (also those that something stands in the way of)."""
    return 0 if in_sync(forecast, start) else 2


# --- one app that changes -------------------------------------------------------------------------------------------


def _change(case: _Case, app: str, actions: list[act.Action], moving: Mapping[str, object]) -> Change:
    desired, containers = case.desired(app), case.containers.get(app, ())
    kind = _kind(case, app, actions)
    strategy, because = "", ""
    if desired is not None and kind in {"upgrade", "return"}:
        strategy, because = strategy_of(desired.app)
    new_version = kind in {"first deployment", "upgrade"}
    dependencies = tuple(d for d in desired.app.depends_on if d in moving) if desired and new_version else ()
    manifest = None if kind == "removal" or desired is None else desired.app
    scene = Scene(app, kind, manifest, strategy == "recreate", _answers(case, app), dependencies)
    down = _downtime(case, app, actions)
    return Change(
        app=app,
        kind=kind,
        why=_why(case, app, kind, actions),
        impact=_impact(case, app, kind, down),
        steps=steps_of(actions, scene),
        strategy=strategy,
        strategy_because=because,
        down=down,
        down_now=kind not in {"first deployment", "removal"} and not _answers(case, app),
        note=_last_attempt(case, app) or ("goes on from where it is" if _under_way(desired, containers, kind) else ""),
    )


def _kind(case: _Case, app: str, actions: Iterable[act.Action]) -> Kind:
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


def _last_attempt(case: _Case, app: str) -> str:
    status = case.status(app)
    if status is None or status.next_retry is None:
        return ""
    return f"the last attempt failed, the next one waits a little: {status.reason}: {status.message}"


def _why(case: _Case, app: str, kind: Kind, actions: Iterable[act.Action]) -> tuple[str, ...]:
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


def _downtime(case: _Case, app: str, actions: Iterable[act.Action]) -> Downtime | None:
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


def _impact(case: _Case, app: str, kind: Kind, down: Downtime | None) -> str:
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


def _answers(case: _Case, app: str) -> bool:
    name = case.before.names.names.get(app)
    running = {c.address for c in case.containers.get(app, ()) if c.state == "running"}
    return name is not None and bool(running & set(name.written))


def _asking(case: _Case, app: str) -> list[str]:
    targets = case.forecast.wanted.targets.values()
    return sorted(t.name for t in targets if t.desired is not None and app in t.desired.app.depends_on)


# --- apps that stay -------------------------------------------------------------------------------------------------


def _standing(case: _Case) -> tuple[Standing, ...]:
    found = []
    for name, status in sorted(case.forecast.end.statuses.items()):
        if status.sync == "Synced" or status.reason == "PruneBlocked":
            continue
        found.append(
            Standing(
                app=name,
                reason=status.reason,
                message=status.message,
                runs=_runs(case, name),
                remedy=_BY_HAND.get(status.reason, ""),
                problems=_problems_of(case, name, status.reason),
            )
        )
    return tuple(found)


def _runs(case: _Case, app: str) -> str:
    if case.forecast.end.statuses[app].reason == "ForeignContainer":
        return "what carries its name is left alone"
    running = [c for c in case.containers.get(app, ()) if c.state == "running" and c.claim]
    if not running:
        return "nothing of it runs"
    versions = dict.fromkeys(f"{c.claim.image} of {c.claim.revision[:8]}" for c in running if c.claim)
    return f"{listed(list(versions))} {'runs' if len(versions) == 1 else 'run'} ({count(len(running), 'replica')})"


def _problems_of(case: _Case, app: str, reason: str) -> tuple[Problem, ...]:
    if reason not in {"InvalidManifest", "InvalidFleet"}:
        return ()
    catalog = case.forecast.wanted.catalog
    manifests = {c.claim.manifest for c in case.containers.get(app, ()) if c.claim}
    paths = {broken.path for broken in catalog.broken if broken.app == app or broken.path in manifests}
    return tuple(p for p in sorted(catalog.problems) if p.severity == "error" and p.path in paths)


# --- the host -------------------------------------------------------------------------------------------------------


def _host(actions: Iterable[act.Action]) -> Iterable[str]:
    for action in actions:
        match action:
            case act.EnsureNetwork():
                yield f"make the network: {action.reason}"
            case act.StartNames():
                yield f"start the names service (dnsmasq): {action.reason}"
            case _:
                continue


def _routes(case: _Case, groups: Mapping[str, Iterable[act.Action]]) -> list[str]:
    """Apps whose routes change, as far as it is known."""
    if not any(isinstance(action, act.LoadSite) for action in groups.get("", ())):
        return []
    now = {name: t.desired.app.ingress for name, t in case.forecast.wanted.targets.items() if t.desired}
    fresh = {name for name in now if name not in case.containers and name not in case.applied}
    compared = {name for name in case.applied if case.applied[name].ingress != now.get(name, ())}
    return sorted({name for name in fresh if now[name]} | compared)


def _routes_only(app: str) -> Change:
    return Change(app, "routes", ("ingress changed",), "nobody notices", ("reload nginx",))


def _nginx(before: Observed, actions: Iterable[act.Action], routes: list[str]) -> Nginx | None:
    if before.site is None:
        return None
    reloads = any(isinstance(action, act.LoadSite) for action in actions)
    return Nginx(reloads, before.site.loaded is not None, tuple(routes))


def _uncounted(forecast: Forecast) -> Iterable[str]:
    kinds = {type(event.action) for event in forecast.events}
    if act.PullImage in kinds:
        yield "pulls"
    if act.RunTask in kinds:
        yield "before_deploy"


def _faults(forecast: Forecast, start: Plan) -> tuple[tuple[str, str], ...]:
    faults = dict.fromkeys((*start.faults, *forecast.end.faults))
    return tuple(fault for fault in faults if fault[0] != "PruneBlocked")


def _notes(case: _Case) -> Iterable[str]:
    for name, app in sorted(case.applied.items()):
        desired = case.desired(name)
        if desired is None or name not in case.containers:
            continue
        changed = [one for one in _AT_ONCE if getattr(app, one) != getattr(desired.app, one)]
        if changed:
            yield f"{name}: {listed(changed)} changed; that counts at once and restarts nothing by itself"


def _replicas(observed: Observed) -> dict[str, tuple[Container, ...]]:
    found: dict[str, tuple[Container, ...]] = {}
    for container in sorted(observed.engine.containers, key=lambda c: c.created_at, reverse=True):
        if container.owned and container.claim and container.claim.role == "replica":
            found[container.claim.app] = (*found.get(container.claim.app, ()), container)
    return found
