"""The whole host's outlook: which apps change, which stay as they are and who must act, what nginx does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.cli.changes import Case, Change, change_of, routes_only
from reconciler.cli.steps import noticeable
from reconciler.cli.text import clean, count, listed
from reconciler.core import actions as act
from reconciler.core.model import App, Problem
from reconciler.core.observed import Observed
from reconciler.core.plan import Plan
from reconciler.core.retiring import is_up
from reconciler.core.simulate import Forecast, by_app
from reconciler.core.tasks import ROLES

_BY_HAND = {
    "InvalidManifest": "Correct the manifest and commit",
    "InvalidFleet": "Correct fleet.yaml and commit",
    "PolicyViolation": "Change the manifest, or the policy in this host's agent settings",
    "ImageMissing": "Bring the image to this host (docker load), or change pull_policy",
}
"""What to do, for reasons whose message does not say so itself."""
_AT_ONCE = (
    *("health", "rollout", "depends_on", "before_deploy", "rehearse_rollback", "pull_policy", "registry_credentials"),
)
"""Fields of a manifest that are no part of a container: they count from the commit on."""
_NEXT_TIME = ("after_deploy",)
"""Likewise, but they count from the next deployment on."""


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


def outlook(forecast: Forecast, start: Plan, before: Observed, applied: Mapping[str, App] | None = None) -> Outlook:
    """Read a forecast.

    Args:
        forecast: The rollout on paper.
        start: The plan as it is made now; it knows what waits for a retry.
        before: The host as it is now.
        applied: Apps as the revision applied last had them, where it can be read: names whose routes change.
    """
    case = Case.of(forecast, start, before, applied)
    groups = {app: [event.action for event in events] for app, events in by_app(forecast.events)}
    moving = {app: actions for app, actions in groups.items() if app and any(map(noticeable, actions))}
    changes = [change_of(case, app, actions, moving) for app, actions in moving.items()]
    routes = _routes(case, groups)
    changes += [routes_only(app) for app in routes if app not in moving and app in forecast.wanted.targets]
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
        seconds=_seconds(forecast),
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


# --- apps that stay -------------------------------------------------------------------------------------------------


def _standing(case: Case) -> tuple[Standing, ...]:
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


def _runs(case: Case, app: str) -> str:
    if case.forecast.end.statuses[app].reason == "ForeignContainer":
        return "what carries its name is left alone"
    running = [c for c in case.containers.get(app, ()) if c.state == "running" and c.claim]
    if not running:
        return "nothing of it runs"
    versions = dict.fromkeys(f"{c.claim.image} of {c.claim.revision[:8]}" for c in running if c.claim)
    return f"{listed(list(versions))} {'runs' if len(versions) == 1 else 'run'} ({count(len(running), 'replica')})"


def _problems_of(case: Case, app: str, reason: str) -> tuple[Problem, ...]:
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


def _routes(case: Case, groups: Mapping[str, Iterable[act.Action]]) -> list[str]:
    """Apps whose routes change, as far as it is known."""
    if not any(isinstance(action, act.LoadSite) for action in groups.get("", ())):
        return []
    now = {name: t.desired.app.ingress for name, t in case.forecast.wanted.targets.items() if t.desired}
    fresh = {name for name in now if name not in case.containers and name not in case.applied}
    compared = {name for name in case.applied if case.applied[name].ingress != now.get(name, ())}
    return sorted({name for name in fresh if now[name]} | compared)


def _nginx(before: Observed, actions: Iterable[act.Action], routes: list[str]) -> Nginx | None:
    if before.site is None:
        return None
    reloads = any(isinstance(action, act.LoadSite) for action in actions)
    return Nginx(reloads, before.site.loaded is not None, tuple(routes))


def _seconds(forecast: Forecast) -> float:
    """Without a rehearsal, for which nobody waits."""
    waited = (event.at for event in forecast.events if not act.is_rehearsal_lane(act.lane(event.action)))
    return round(max(waited, default=0.0), 1)


def _uncounted(forecast: Forecast) -> Iterable[str]:
    actions = [event.action for event in forecast.events]
    if any(isinstance(action, act.PullImage) for action in actions):
        yield "pulls"
    tasks = {action.role for action in actions if isinstance(action, act.RunTask)}
    if tasks & {"task", "check"}:
        yield "before_deploy"
    if "after" in tasks:
        yield "after_deploy"


def _faults(forecast: Forecast, start: Plan) -> tuple[tuple[str, str], ...]:
    faults = dict.fromkeys((*start.faults, *forecast.end.faults))
    return tuple(fault for fault in faults if fault[0] != "PruneBlocked")


def _notes(case: Case) -> Iterable[str]:
    here = frozenset(case.before.engine.images.values())
    for event in case.forecast.events:
        if isinstance(event.action, act.CollectImage) and event.action.image in here:
            yield f"Afterwards an image is removed from this host: {event.action.reason}"
    runs = {
        e.action.app for e in case.forecast.events if isinstance(e.action, act.RunTask) and e.action.role == "after"
    }
    for name, app in sorted(case.applied.items()):
        desired = case.desired(name)
        if desired is None or name not in case.containers:
            continue
        changed = [one for one in _AT_ONCE if getattr(app, one) != getattr(desired.app, one)]
        if changed:
            yield f"{name}: {listed(changed)} changed; that counts at once and restarts nothing by itself"
        later = [one for one in _NEXT_TIME if getattr(app, one) != getattr(desired.app, one)]
        same = desired.fingerprint in {c.claim.fingerprint for c in case.containers[name] if c.claim}
        if later and same and name not in runs:  # one that failed is run again
            yield f"{name}: {listed(later)} changed; that counts from the next version on"
    yield from _tasks(case)


def _tasks(case: Case) -> Iterable[str]:
    """What is no step of this plan, because it has begun already; and what going on or back leaves behind."""
    applied = case.forecast.began.applied
    for container in sorted(case.before.engine.containers, key=lambda c: c.name):
        claim = container.claim
        if claim is None or not container.owned or claim.role not in ROLES:
            continue
        desired, serves = case.desired(claim.app), applied.get(claim.app)
        task = {"after": "after_deploy", "check": "the check of before_deploy"}.get(claim.role, "before_deploy")
        of = f"{claim.app}: {task} of {clean(claim.image)} ({claim.revision[:8]})"
        known = {one.fingerprint for one in (desired, serves) if one is not None}
        if claim.role == "task" and container.started_at and claim.fingerprint not in known:
            did = "is cut short" if len(known) == 1 and is_up(container) else "has begun"
            yield f"{of} {did}; what it changed in the database stays, although that version does not serve"
        elif is_up(container):
            yield f"{of} is running now"
