"""Puts the parts together: settings in, a cycle that can be walked out. The one place that knows every room."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from reconciler import __version__
from reconciler.agent import Agent, Notify, Rhythm, Wakeable
from reconciler.apply import Apply, Hands
from reconciler.chronicle import Chronicle
from reconciler.core import site as site_text
from reconciler.core.addresses import gateway
from reconciler.core.desired import Roots
from reconciler.core.manifest import ManifestReader
from reconciler.core.model import App
from reconciler.core.observed import SiteState
from reconciler.core.status import HostStatus
from reconciler.cycle import Cycle, Rules, View, World
from reconciler.errors import InvalidInput, ReconcilerError
from reconciler.protocols import Source
from reconciler.schema import load as load_schema
from reconciler.settings import Settings
from reconciler.targets import Place, Targets

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.world.containers.engine import DockerEngine
    from reconciler.world.lock import HostLock
    from reconciler.world.metrics import Metrics
    from reconciler.world.names import DnsmasqNames
    from reconciler.world.probes import Prober
    from reconciler.world.store import SqliteStore
    from reconciler.world.traffic import NginxTraffic

# Rooms of the world are imported where they are first needed: ``reconciler status`` must not pay for Docker's SDK.


def manifest_reader() -> ManifestReader:
    """A reader with the shipped schemas."""
    return ManifestReader({name: load_schema(name) for name in ("app", "fleet")})


_FIRST_PROBES = 2.0  # seconds; whoever has not answered by then is shown as not known


class Host:
    """Everything of one host, made when it is first asked for.

    Args:
        settings: The agent's settings.
        worktree: A person's working directory that stands in for the repository, for ``run --worktree``.
        wake: What anything outside calls when the loop should look again.
    """

    def __init__(self, settings: Settings, worktree: Path | None = None) -> None:
        self.settings = settings
        self.worktree = worktree
        self.wake: Callable[[str], None] = lambda _: None

    # -- rooms ------------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> SqliteStore:
        """History and decisions."""
        from reconciler.world.store import SqliteStore

        return SqliteStore(self.settings.state / "store.db")

    @cached_property
    def lock(self) -> HostLock:
        """One agent for each host."""
        from reconciler.world.lock import HostLock

        return HostLock(self.settings.state / "agent.lock")

    @cached_property
    def source(self) -> Source:
        """The config repository."""
        directory = self.settings.repository.directory
        if self.worktree is not None:
            from reconciler.world.source.worktree import WorktreeSource

            return WorktreeSource(self.worktree, directory, self.settings.state / "worktree.git")
        from reconciler.world.source.tracking import GitSource

        return GitSource(self.settings.repository, self.settings.state / "mirror.git")

    @cached_property
    def reader(self) -> ManifestReader:
        """Reads manifests, and each only once."""
        return manifest_reader()

    @cached_property
    def key(self) -> bytes:
        """The host's key, by which we know our own containers."""
        from reconciler.world.hostkey import load_host_key

        return load_host_key(self.settings.state / "host.key").value

    @cached_property
    def names(self) -> DnsmasqNames:
        """The names service."""
        from reconciler.world.names import DnsmasqNames

        settings = self.settings
        return DnsmasqNames(
            settings.state / "names", gateway(settings.docker.subnet), settings.names, settings.runtime / "names.pid"
        )

    @cached_property
    def engine(self) -> DockerEngine:
        """The Docker Engine."""
        from reconciler.world.containers.engine import DockerEngine
        from reconciler.world.resolvers import reachable

        docker = self.settings.docker
        resolvers = self.settings.names.upstream or reachable()
        return DockerEngine(docker.socket, docker.network, docker.subnet, self.key, resolvers)

    @cached_property
    def prober(self) -> Prober:
        """Probes of replicas."""
        from reconciler.world.probes import Prober

        return Prober(lambda container: self.wake(f"probe of {container[:12]}"))

    @cached_property
    def tally(self) -> NginxTraffic:
        """What nginx says about requests."""
        from reconciler.world.traffic import NginxTraffic

        return NginxTraffic(self.settings.runtime / "tally", lambda what: self.wake(f"{what}"))

    @cached_property
    def metrics(self) -> Metrics:
        """Prometheus metrics."""
        from reconciler.world import cgroups
        from reconciler.world.metrics import Metrics

        return Metrics(__version__, cgroups.usage)

    # -- the walk ---------------------------------------------------------------------------------------------------

    @cached_property
    def world(self) -> World:
        """The world as the walk sees it."""
        from reconciler.world.files import HostFiles
        from reconciler.world.nginx import NginxSite

        settings = self.settings
        return World(
            source=self.source,
            engine=self.engine,
            names=self.names,
            site=NginxSite(settings.nginx, settings.state / "nginx") if settings.nginx else None,
            prober=self.prober,
            files=HostFiles(settings.state / "files", settings.runtime / "secrets"),
            store=self.store,
            meter=self.metrics,
            clock=time.time,
            tally=self.tally if settings.nginx else None,
        )

    @cached_property
    def chronicle(self) -> Chronicle:
        """History and metrics."""
        return Chronicle(self.store, self.world.meter, self.source, time.time)

    @cached_property
    def apply(self) -> Apply:
        """The only writer."""
        world = self.world
        hands = Hands(world.engine, world.names, world.site, world.files, self.chronicle, world.meter)
        return Apply(hands, lambda lane: self.wake(f"end of {lane or 'host'}"))

    @cached_property
    def cycle(self) -> Cycle:
        """The walk."""
        from reconciler.world.sops import SopsVault

        settings = self.settings
        place = Place(
            settings.host,
            self.key,
            Roots(str(settings.state / "files"), str(settings.runtime / "secrets")),
            settings.policy,
        )
        vault = SopsVault(settings.sops.command, settings.sops.age_key, on_failure=self.metrics.decrypt_failure)
        targets = Targets(self.source, vault, self.reader.read, place)
        return Cycle(
            self.world,
            self.reader.read,
            targets,
            SiteRenderer(self._frontend()).render,
            self.apply,
            self.chronicle,
            Rules(settings.host, settings.docker.subnet),
        )

    def look(self) -> View:
        """Everything up to the plan; changes nothing. Asks the remote first, and probes what serves now."""
        self.cycle.fetch()
        self.prober.start()
        try:
            view = self.cycle.look(self.cycle.tip())
            deadline = time.monotonic() + _FIRST_PROBES
            while time.monotonic() < deadline and any(p.healthy is None for p in view.observed.probes.values()):
                time.sleep(0.05)
                view = self.cycle.look(self.cycle.tip())
        finally:
            self.prober.stop()
        return view

    def applied_apps(self, view: View) -> dict[str, App]:
        """Each app's manifest at the revision that was applied last, as far as it can still be read."""
        apps = {}
        for name, applied in view.memory.applied.items():
            with contextlib.suppress(ReconcilerError):
                found = self.reader.read(self.source.tree(applied.revision)).apps.get(name)
                if found is not None:
                    apps[name] = found
        return apps

    def agent(self, notify: Notify) -> tuple[Agent, list[Wakeable]]:
        """The loop, and what wakes it."""
        from reconciler.world.events import EngineEvents
        from reconciler.world.listener import Listener
        from reconciler.world.watching import RefsWatcher, Watcher, refs_of

        agent = Agent(self.cycle, self.apply, Rhythm(self.settings.repository.interval), notify)
        self.wake = agent.wake
        wakers: list[Wakeable] = [
            self.prober,
            self.tally,
            EngineEvents(self.settings.docker.socket, agent.wake, self.engine.invalidate),
            Listener(self.settings.listen, self.metrics, lambda: self.cycle.status, agent.idle_for),
        ]
        if self.worktree is not None:
            wakers.append(Watcher([self.worktree], agent.poll, ignore=[self.settings.state]))
        else:
            local = refs_of(self.settings.repository.url)
            if local:
                wakers.append(RefsWatcher(local, agent.poll))
        return agent, wakers

    def _frontend(self) -> site_text.Frontend:
        nginx = self.settings.nginx
        resolver = gateway(self.settings.docker.subnet)
        if nginx is None:
            return site_text.Frontend(resolver)
        return site_text.Frontend(
            resolver,
            nginx.http,
            nginx.https,
            nginx.address,
            nginx.default_server,
            str(nginx.certificates),
            self.tally.directory,
        )


class SiteRenderer:
    """Renders nginx's configuration, again only when an app, a certificate or nginx itself has changed."""

    def __init__(self, frontend: site_text.Frontend) -> None:
        self._frontend = frontend
        self._key: SiteState | None = None
        self._apps: list[App] = []
        self._split: frozenset[str] = frozenset()
        self._generation: site_text.Generation | None = None

    def render(self, apps: Sequence[App], site: SiteState, split: frozenset[str] = frozenset()) -> site_text.Generation:
        """The generation for these apps."""
        key = replace(site, loaded=None, written=None)
        same = len(apps) == len(self._apps) and all(a is b for a, b in zip(apps, self._apps, strict=True))
        if self._generation is None or key != self._key or not same or split != self._split:
            self._generation = site_text.render(apps, site, self._frontend, split)
            self._key, self._apps, self._split = key, list(apps), split
        return self._generation


def status_now(host: Host) -> tuple[HostStatus, str]:
    """The newest status, and why it is not fresh (empty: the running agent gave it).

    Raises:
        InvalidInput: No agent has ever run here.
    """
    from reconciler.core import serialise
    from reconciler.world.asking import ask_status

    fresh = ask_status(host.settings.listen)
    if fresh is not None:
        return serialise.host_status(json.loads(fresh)), ""
    kept = host.store.status()
    if kept is None:
        raise InvalidInput(
            "no agent has run on this host yet",
            reason="NoStatus",
            remedy="Start it with systemctl start reconciler, or run one now: reconciler sync",
        )
    return serialise.host_status(json.loads(kept[0])), "the agent is not running; this is what it saw last"
