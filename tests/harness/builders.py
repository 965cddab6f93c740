"""Values for tests of the core, with everything that a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.core.desired import Inputs, Roots, resolve
from reconciler.core.memory import Memory
from reconciler.core.model import App, Catalog, Secret
from reconciler.core.observed import Container, Observed
from reconciler.core.plan import Plan, plan
from reconciler.core.simulate import Forecast, Paper, empty_host, forecast
from reconciler.core.target import DesiredApp, Target
from reconciler.core.wanted import Wanted

SUBNET = "10.201.0.0/16"
NOW = 1_800_000_000.0
KEY = b"k" * 32


def app(name: str = "shop", **changes: Any) -> App:
    """An app with one replica and nothing special."""
    return replace(App(name=name, manifest=f"apps/{name}/app.yaml", image=f"{name}:1"), **changes)


def desired(
    app: App, *, revision: str = "a" * 40, image: str = "sha256:1", secrets: Mapping[str, bytes] | None = None
) -> DesiredApp:
    """The app resolved, with empty files."""
    hidden = {name: Secret(value) for name, value in (secrets or {}).items()}
    files = {file.source: b"" for file in app.files}
    return resolve(app, revision, Inputs(image, hidden, files), KEY, Roots("/state/files", "/run/secrets"))


def wanted(*apps: DesiredApp, revision: str = "a" * 40, **targets: Target) -> Wanted:
    """A revision that asks for these apps; ``targets`` replace what is said of one."""
    all_targets = {**{one.name: Target(one.name, one) for one in apps}, **targets}
    return Wanted(revision, Catalog({one.name: one.app for one in apps}), all_targets, "generation-1", ())


def converged(*apps: DesiredApp, revision: str = "a" * 40) -> Forecast:
    """A host on which these apps run as wanted."""
    return forecast(wanted(*apps, revision=revision), empty_host(), Memory(), SUBNET, NOW)


def steps(asked: Wanted, observed: Observed, memory: Memory, now: float) -> Plan:
    """One plan."""
    return plan(asked, observed, memory, SUBNET, now)


def kinds(made: Plan) -> list[str]:
    """Names of the actions, in order."""
    return [type(action).__name__ for action in made.actions]


def paper(observed: Observed, memory: Memory, asked: Wanted, now: float) -> Paper:
    """A host on paper, to be disturbed."""
    return Paper(observed, memory, asked, now)


def changed(observed: Observed, container: str, **changes: Any) -> Observed:
    containers = tuple(replace(c, **changes) if c.name.startswith(container) else c for c in observed.engine.containers)
    return replace(observed, engine=replace(observed.engine, containers=containers))


def without(observed: Observed, container: str) -> Observed:
    containers = tuple(c for c in observed.engine.containers if not c.name.startswith(container))
    return replace(observed, engine=replace(observed.engine, containers=containers))


def container(end: Forecast, prefix: str) -> Container:
    return next(c for c in end.observed.engine.containers if c.name.startswith(prefix))


def order(end: Forecast) -> list[str]:
    return [type(event.action).__name__ for event in end.events]
