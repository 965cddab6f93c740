"""Situations that ``reconciler plan`` has to put into words, each as what is there and what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harness.builders import NOW, SUBNET, app, converged, desired, wanted
from reconciler.core import actions as act
from reconciler.core.memory import Brought, Memory, Rehearsed, Retry, Suspended, Version
from reconciler.core.model import (
    App,
    BrokenManifest,
    CanaryStep,
    Commit,
    File,
    Health,
    Ingress,
    Problem,
    PublishedPort,
    RegistryCredentials,
    Resources,
    Rollout,
    Secret,
    SecretsFile,
    Task,
    Volume,
)
from reconciler.core.observed import Container, Observed, ProbeResult
from reconciler.core.plan import Plan, plan
from reconciler.core.simulate import Forecast, empty_host, forecast
from reconciler.core.target import Blocked, Pull, Target
from reconciler.core.wanted import Wanted

LATER = NOW + 10_000
OLD, NEW = "a" * 40, "1a2b3c4d" + "b" * 32
COMMIT = Commit(NEW, "Ada", "raise the limit", LATER - 60)
TOKENS = ("tok-OLD-4711", "tok-NEW-4711", "tok-registry-4711")
"""Every secret of these situations."""

HTTP = Health("http", path="/healthz", port=8080)
SHOP = app(
    replicas=2,
    health=HTTP,
    ingress=(Ingress("shop.example.com", "/", 8080),),
    secrets=SecretsFile("apps/shop/secrets.sops.yaml", ("DATABASE_URL",)),
)
DB = app("db", volumes=(Volume("orders", "/data"),), health=Health("tcp", port=5432), stop_grace_period=30.0)
SECRETS = {"DATABASE_URL": b"tok-OLD-4711", "payment_key": b"tok-OLD-4711"}


@dataclass(frozen=True, slots=True)
class Situation:
    """What is there, what is asked for, and what is remembered."""

    asked: Wanted
    observed: Observed
    memory: Memory
    applied: Mapping[str, App] = field(default_factory=dict)

    @property
    def start(self) -> Plan:
        return plan(self.asked, self.observed, self.memory, SUBNET, LATER)

    @property
    def forecast(self) -> Forecast:
        return forecast(self.asked, self.observed, self.memory, SUBNET, LATER)


def asked(*targets: Target, problems: tuple[Problem, ...] = (), broken: tuple[BrokenManifest, ...] = ()) -> Wanted:
    named = {target.name: target for target in targets}
    base = wanted(*(t.desired for t in targets if t.desired), revision=NEW, **named)
    return replace(base, catalog=replace(base.catalog, problems=problems, broken=broken))


def new(one: App, image: str = "", secrets: Mapping[str, bytes] | None = None) -> Target:
    made = desired(one, revision=NEW, image=image or f"sha256:{one.image}", secrets=secrets or _needed(one, SECRETS))
    return Target(one.name, made)


def running(*apps: App) -> Forecast:
    return converged(
        *(desired(one, revision=OLD, image=f"sha256:{one.image}", secrets=_needed(one, SECRETS)) for one in apps),
        revision=OLD,
    )


def _needed(one: App, secrets: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return secrets if one.secrets else {}


def on(before: Forecast, now: Wanted, **changes: Any) -> Situation:
    return Situation(now, before.observed, replace(before.memory, **changes))


def followed(before: Forecast, one: App, revision: str, at: float) -> Forecast:
    """The host once it has followed another revision."""
    version = desired(one, revision=revision, image=f"sha256:{one.image}", secrets=_needed(one, SECRETS))
    return forecast(wanted(version, revision=revision), before.observed, before.memory, SUBNET, at)


def changed(before: Forecast, name: str, **changes: Any) -> Forecast:
    """The host, with containers whose name begins so disturbed."""
    containers = tuple(
        replace(c, **changes) if c.name.startswith(name) else c for c in before.observed.engine.containers
    )
    return with_containers(before, containers)


def with_containers(before: Forecast, containers: tuple[Container, ...]) -> Forecast:
    engine = replace(before.observed.engine, containers=containers)
    return replace(before, observed=replace(before.observed, engine=engine))


# --- the situations -------------------------------------------------------------------------------------------------


def nothing_to_do() -> Situation:
    return on(running(SHOP, DB), asked(new(SHOP), new(DB)))


def no_apps() -> Situation:
    return Situation(replace(asked(), generation=""), empty_host(), Memory())


def first_deployment() -> Situation:
    api = app("api", image="registry.example.com/api:1", health=HTTP, files=(File("shared/a.conf", "/etc/a.conf"),))
    return Situation(asked(new(api), new(SHOP)), empty_host(), Memory())


def upgrade() -> Situation:
    shop = replace(
        SHOP,
        image="shop:2",
        environment={"LOG_LEVEL": "debug"},
        before_deploy=Task(("./manage.py", "migrate")),
        replicas=3,
    )
    before = running(SHOP, DB)
    secrets = {"DATABASE_URL": b"tok-NEW-4711", "payment_key": b"tok-OLD-4711"}
    return on(before, asked(new(shop, secrets=secrets), new(DB)))


def after_deploy() -> Situation:
    """And a migration that another host runs."""
    task = Task(("./manage.py", "migrate"), on="db-1", check=("./manage.py", "migrate", "--check"))
    shop = replace(SHOP, image="shop:2", before_deploy=task, after_deploy=Task(("./manage.py", "warm")))
    later = replace(DB, after_deploy=Task(("vacuum",)))
    situation = on(running(SHOP, DB), asked(new(shop), new(later)))
    return replace(situation, asked=replace(situation.asked, host="web-1"), applied={"shop": SHOP, "db": DB})


def back_over_a_migration() -> Situation:
    """A revert; what the version in between and the present one ran stays."""
    task = Task(("./manage.py", "migrate"))
    second = followed(running(SHOP), replace(SHOP, image="shop:2", before_deploy=task), "c" * 40, NOW + 1000)
    other = replace(SHOP, image="shop:3", before_deploy=Task(("./manage.py", "migrate", "--all")))
    return on(followed(second, other, "d" * 40, NOW + 2000), asked(new(SHOP)))


def back_with_a_way_down() -> Situation:
    """The version that comes back can undo it."""
    shop = replace(SHOP, before_deploy=Task(("./manage.py", "migrate")))
    return on(followed(running(shop), replace(shop, image="shop:2"), "c" * 40, NOW + 1000), asked(new(shop)))


def under_way() -> Situation:
    before = running(SHOP)
    after = on(before, asked(new(replace(SHOP, image="shop:2"))))
    fresh = next(c for c in after.forecast.observed.engine.containers if c.name.startswith("shop.1."))
    return replace(
        after,
        observed=replace(
            with_containers(before, (*before.observed.engine.containers, fresh)).observed,
            probes={**before.observed.probes, fresh.id: ProbeResult(True, LATER - 0.5)},
        ),
    )


def rolling() -> Situation:
    worker = app("worker", replicas=3, health=HTTP)
    return on(running(worker), asked(new(replace(worker, image="worker:2"))))


def canary() -> Situation:
    rollout = Rollout("canary", steps=(CanaryStep(10, 300.0), CanaryStep(50, 600.0)), bake=1_800.0, max_errors=2.0)
    shop = replace(SHOP, rollout=rollout)
    before = running(shop)
    tip, here = new(replace(shop, image="shop:2")), before.wanted.targets["shop"].desired
    now = asked(replace(tip, previous=here))
    return on(before, replace(now, split=frozenset({"shop"})))


def canary_back() -> Situation:
    """To the version before: no steps."""
    situation = canary()
    (here,) = situation.memory.versions["shop"]
    tip = situation.asked.targets["shop"].desired
    assert tip is not None
    first = Version(tip.fingerprint, tip.spec.image, NOW, place=here.place - 1)
    return replace(situation, memory=replace(situation.memory, versions={"shop": (here, first)}))


def unhealthy() -> Situation:
    before = running(app("worker", replicas=2, health=HTTP))
    sick = {c.id: ProbeResult(False, LATER - 60, "GET /healthz: 500") for c in before.observed.engine.containers}
    return on(
        replace(before, observed=replace(before.observed, probes=sick)),
        asked(new(app("worker", replicas=2, health=HTTP))),
    )


def recreate() -> Situation:
    db = replace(DB, image="db:17", resources=Resources(memory=1024**3))
    api = app("api", depends_on=("db",))
    return on(running(DB, api), asked(new(db), new(api)))


def published_port() -> Situation:
    mail = app("mail", ports=(PublishedPort(25, 25),), replicas=1)
    return on(running(mail), asked(new(replace(mail, environment={"HELO": "example.com"}))))


def dependencies() -> Situation:
    api = app("api", depends_on=("db",), health=HTTP)
    web = app("web", depends_on=("api", "db"), health=HTTP)
    later = [replace(one, image=f"{one.name}:2") for one in (web, api, DB)]
    return on(running(web, api, DB), asked(*map(new, later)))


def scale_up() -> Situation:
    return on(running(SHOP), asked(new(replace(SHOP, replicas=4))))


def scale_down() -> Situation:
    return on(running(replace(SHOP, replicas=3)), asked(new(replace(SHOP, replicas=1))))


def removal() -> Situation:
    old = app("old", replicas=2)
    return on(running(SHOP, DB, old), asked(new(SHOP), new(DB)))


def mass_removal() -> Situation:
    return on(running(SHOP, DB, app("api"), app("mail")), asked(new(replace(SHOP, image="shop:2"))))


def quarantine() -> Situation:
    before = running(SHOP, DB)
    fallen = desired(SHOP, revision=OLD, image="sha256:shop:1", secrets=SECRETS)
    why = "shop.1.9f8e7d6c ended 3 times before it was healthy, last exit code 1"
    text = f"{why}; not tried again until a commit changes it or: reconciler retry shop"
    return on(before, asked(Target("shop", fallen, Blocked("CrashLoop", text)), new(DB)))


def return_to_good() -> Situation:
    """The version that failed is still there, next to the one that goes on."""
    before = running(SHOP)
    failed = on(before, asked(new(replace(SHOP, image="shop:2")))).forecast.observed.engine.containers
    left = tuple(replace(c, state="restarting") for c in failed)
    fallen = desired(SHOP, revision=OLD, image="sha256:shop:1", secrets=SECRETS)
    blocked = Blocked("CrashLoop", "shop.1 ended 3 times; not tried again until: reconciler retry shop")
    return on(
        with_containers(before, (*before.observed.engine.containers, *left)), asked(Target("shop", fallen, blocked))
    )


def broken_manifest() -> Situation:
    before = running(SHOP, DB)
    fallen = desired(SHOP, revision=OLD, image="sha256:shop:1", secrets=SECRETS)
    problems = (
        Problem("apps/shop/app.yaml", 4, 1, 'unknown key "imgae"; did you mean "image"?', "shop"),
        Problem("apps/shop/app.yaml", 9, 13, "replicas is 1 to 100, not 0", "shop"),
        Problem("apps/mail/App.yaml", 0, 0, "is never read; did you mean app.yaml?", None, "warning"),
    )
    blocked = Blocked("InvalidManifest", f"{problems[0]} (and 1 more)")
    broken = (BrokenManifest("apps/shop/app.yaml", "shop"),)
    now = asked(Target("shop", fallen, blocked), new(replace(DB, image="db:17")), problems=problems, broken=broken)
    return on(before, now)


def broken_before_it_ever_ran() -> Situation:
    problems = (Problem("apps/new/app.yaml", 2, 8, "image is text, not a number", "new"),)
    broken = (BrokenManifest("apps/new/app.yaml", "new"),)
    blocked = Blocked("InvalidManifest", str(problems[0]))
    return on(running(DB), asked(new(DB), Target("new", None, blocked), problems=problems, broken=broken))


def drift() -> Situation:
    before = running(SHOP, DB, app("api", replicas=2))
    kept = tuple(c for c in before.observed.engine.containers if not c.name.startswith("shop.2."))
    before = changed(with_containers(before, kept), "db.1.", state="exited", exit_code=137)
    before = changed(before, "api.1.", state="paused")
    before = changed(before, "api.2.", limits=_limits(before))
    return on(before, before.wanted)


def _limits(before: Forecast) -> Any:
    limits = next(c.limits for c in before.observed.engine.containers if c.limits)
    return replace(limits, memory=1)


def all_gone() -> Situation:
    before = running(SHOP)
    return on(with_containers(before, ()), before.wanted)


def pull_needed() -> Situation:
    shop = replace(
        SHOP, image="registry.example.com/shop:2", registry_credentials=RegistryCredentials("apps/shop/registry.yaml")
    )
    before = running(SHOP)
    tip = new(shop).desired
    assert tip is not None
    credentials = ("ci", Secret(b"tok-registry-4711"))
    fallen = desired(SHOP, revision=OLD, image="sha256:shop:1", secrets=SECRETS)
    blocked = Blocked("Pulling", f"{shop.image} is being pulled; the applied version goes on")
    return on(before, asked(Target("shop", fallen, blocked, Pull(shop.image, NEW, credentials, False, tip))))


def pull_always() -> Situation:
    shop = replace(SHOP, pull_policy="always")
    before, tip = running(shop), new(shop).desired
    assert tip is not None
    return on(before, asked(Target("shop", tip, Blocked("Pulling", ""), Pull("shop:1", NEW, None, False, tip))))


def pull_forbidden() -> Situation:
    api = app("api", pull_policy="never")
    tip = new(api).desired
    assert tip is not None
    return on(running(DB), asked(new(DB), Target("api", tip, None, Pull("api:1", NEW, None, True, tip))))


def moved_tag() -> Situation:
    return on(running(SHOP), asked(new(SHOP, image="sha256:rebuilt")))


def routes() -> Situation:
    shop = replace(
        SHOP, ingress=(*SHOP.ingress, Ingress("www.example.com", "/", 8080)), health=replace(HTTP, path="/up")
    )
    situation = on(running(SHOP, DB), replace(asked(new(shop), new(DB)), generation="generation-2"))
    return replace(situation, applied={"shop": SHOP, "db": DB})


def stalled() -> Situation:
    """A suspended app, a container that is not ours, and a host without network and names."""
    before = changed(running(SHOP, DB), "db.1.", owned=False)
    names = replace(before.observed.names, up_since=None)
    engine = replace(before.observed.engine, network=False)
    before = replace(before, observed=replace(before.observed, names=names, engine=engine))
    return on(before, asked(new(SHOP), new(DB)), suspended={"shop": Suspended(NOW, "Bob looks at the disk")})


def failing() -> Situation:
    """nginx refuses, and an app waits for its next attempt."""
    now = replace(asked(new(replace(SHOP, image="shop:2")), new(DB)), generation="generation-2")
    retries = {
        act.NGINX: Retry(
            LATER + 30, 2, "NginxDidNotLoad", "nginx went on with the old configuration: port 80 is taken"
        ),
        "shop": Retry(LATER + 9, 3, "RegistryUnavailable", "registry.example.com does not answer"),
    }
    return on(running(SHOP, DB), now, retries=retries)


def waiting() -> Situation:
    """An app whose dependency cannot be followed."""
    api = app("api", depends_on=("db",), image="api:2")
    fallen = desired(DB, revision=OLD, image="sha256:db:1")
    blocked = Blocked("PolicyViolation", "apps/db/app.yaml: registry docker.io is not allowed on this host")
    return on(running(app("api", depends_on=("db",)), DB), asked(new(api), Target("db", fallen, blocked)))


def elsewhere() -> Situation:
    """The manifest goes on, but not on this host."""
    situation = on(running(SHOP, DB), asked(new(DB)))
    catalog = replace(situation.asked.catalog, apps={"shop": SHOP, "db": DB})
    return replace(situation, asked=replace(situation.asked, catalog=catalog))


def old_images() -> Situation:
    """The sixth version: the image of the first may go."""
    api = app("api", image="registry.example.com/api:5")
    before = running(api)
    names = [f"registry.example.com/api:{number}" for number in range(1, 7)]
    engine = replace(before.observed.engine, images={name: f"sha256:{name}" for name in names})
    older = (Version(f"older{number}", f"sha256:{names[number - 1]}", NOW) for number in (4, 3, 2, 1))
    return on(
        replace(before, observed=replace(before.observed, engine=engine)),
        asked(new(replace(api, image=names[-1]))),
        versions={"api": (*before.memory.versions["api"], *older)},
        brought={f"sha256:{name}": Brought(frozenset({name}), NOW) for name in names},
    )


def way_back() -> Situation:
    """A commit is taken back, and whether that could work was tried."""
    later = replace(SHOP, image="shop:2")
    before = running(later)
    back = new(SHOP)
    runs = next(c.claim.fingerprint for c in before.observed.engine.containers if c.claim)
    assert back.desired is not None
    why = "shop:1 of 1a2b3c4d ended with exit code 1 before it was healthy; it said last: no such column: total"
    answer = Rehearsed(runs, back.desired.fingerprint, False, "RehearsalFailed", why, OLD, NOW)
    return on(before, asked(back), rehearsed={"shop": answer})


def odd_words() -> Situation:
    """A commit and an error text that would like to be more than text."""
    blocked = Blocked("ImageNotFound", "no such image\x1b[2J\nshop: all fine \u202e")
    return on(running(DB), asked(new(DB), Target("shop", None, blocked)))


SITUATIONS: Mapping[str, Callable[[], Situation]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        nothing_to_do,
        no_apps,
        first_deployment,
        upgrade,
        after_deploy,
        back_over_a_migration,
        back_with_a_way_down,
        under_way,
        rolling,
        canary,
        canary_back,
        unhealthy,
        recreate,
        published_port,
        dependencies,
        scale_up,
        scale_down,
        removal,
        mass_removal,
        quarantine,
        return_to_good,
        broken_manifest,
        broken_before_it_ever_ran,
        drift,
        all_gone,
        pull_needed,
        pull_always,
        pull_forbidden,
        moved_tag,
        routes,
        stalled,
        failing,
        waiting,
        elsewhere,
        old_images,
        way_back,
        odd_words,
    )
}
