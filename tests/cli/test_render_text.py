from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from harness.builders import app, desired
from harness.golden import assert_golden

from reconciler.cli.render_text import problems_json, problems_text, render_json, render_text
from reconciler.cli.text import Style
from reconciler.core.model import (
    CanaryStep,
    File,
    Health,
    Ingress,
    Problem,
    PublishedPort,
    RegistryCredentials,
    Resources,
    Rollout,
    SecretsFile,
    Task,
    Volume,
)
from reconciler.core.target import Blocked, Pull, Target

GOLDEN = Path(__file__).parent / "golden"

EVERYTHING = app(
    replicas=2,
    command=("serve", "--port", "8080"),
    entrypoint=("/entry",),
    user="1000:1000",
    working_dir="/srv",
    environment={"LOG_LEVEL": "info", "EMPTY": "", "LINES": "one\ntwo"},
    secrets=SecretsFile("apps/shop/secrets.sops.yaml", ("DATABASE_URL",)),
    files=(File("shared/shop.conf", "/etc/shop.conf"),),
    volumes=(Volume("orders", "/data"), Volume("/srv/media", "/media", read_only=True)),
    tmpfs=("/tmp",),  # noqa: S108  (inside the container)
    ports=(PublishedPort(25, 2525, "tcp", "127.0.0.1"),),
    labels={"team": "payments"},
    health=Health("http", path="/healthz", port=8080, start_period=20),
    resources=Resources(cpus=1.5, memory=1536 * 1024**2),
    cap_add=("NET_BIND_SERVICE",),
    read_only=True,
    ingress=(Ingress("shop.example.com", "/", 8080, "auto"), Ingress("shop.example.com", "/api", 8081)),
    depends_on=("db",),
    before_deploy=Task(("./manage.py", "migrate")),
    stop_signal="SIGQUIT",
    registry_credentials=RegistryCredentials("apps/shop/registry.sops.yaml"),
)
SECRETS = {"DATABASE_URL": b"tok-4711", "payment_key": b"tok-4712"}


def targets() -> dict[str, Target]:
    made = desired(EVERYTHING, secrets=SECRETS)
    tip = desired(app("db", image="db:17"))
    return {
        "shop": Target("shop", made),
        "api": Target("api", None, Blocked("InvalidManifest", "apps/api/app.yaml:4:1: unknown key")),
        "db": Target(
            "db", desired(app("db")), Blocked("Pulling", "db:17 is being pulled"), Pull("db:17", "", None, False, tip)
        ),
    }


def test_everything_that_an_app_can_have() -> None:
    assert_golden(GOLDEN / "render.yaml", render_text(targets(), Style()))


def test_it_is_yaml_and_says_the_same_as_the_json() -> None:
    assert yaml.safe_load(render_text(targets(), Style())) == render_json(targets())


def test_secrets_are_named_and_never_shown() -> None:
    text = render_text(targets(), Style())
    assert "tok-471" not in text
    assert "DATABASE_URL: (secret)" in text
    assert "/run/secrets/payment_key" in text


@pytest.mark.parametrize("health", [Health("tcp", port=5432), Health("command", command=("ready",)), Health("engine")])
def test_every_kind_of_health_has_words(health: Health) -> None:
    made = desired(replace(app(), health=health))
    assert "check: " in render_text({"shop": Target("shop", made)}, Style())


def test_no_apps() -> None:
    assert render_text({}, Style()) == "No apps belong on this host."


def test_problems_are_printed_as_compilers_do() -> None:
    problems = (
        Problem("apps/shop/app.yaml", 12, 3, "ports: one is claimed twice", "shop"),
        Problem("apps/shop/app.yaml", 4, 1, 'unknown key "imgae"\x1b[2J; did you mean "image"?', "shop"),
        Problem("apps/x/App.yaml", 0, 0, "is never read; did you mean app.yaml?", None, "warning"),
    )
    assert problems_text(problems, 14, Style()).splitlines() == [
        r'apps/shop/app.yaml:4:1: unknown key "imgae"\x1b[2J; did you mean "image"?',
        "apps/shop/app.yaml:12:3: ports: one is claimed twice",
        "apps/x/App.yaml: warning: is never read; did you mean app.yaml?",
        "2 errors, 1 warning in 14 manifests",
    ]
    counted = problems_json(problems, 14)
    assert (counted["errors"], counted["warnings"], counted["manifests"]) == (2, 1, 14)


def test_no_problems() -> None:
    assert problems_text((), 1, Style()) == "no problems in 1 manifest"
    assert problems_text((), 14, Style(colour=True)) == "\x1b[32mno problems in 14 manifests\x1b[0m"


def test_a_canary_is_rendered_with_its_steps() -> None:
    steps = (CanaryStep(10, 300.0), CanaryStep(50, 90.0))
    canary = app(ingress=(Ingress("a.example", "/", 80),), rollout=Rollout("canary", steps=steps, bake=600.0))
    made = desired(canary)
    rollout = yaml.safe_load(render_text({"shop": Target("shop", made)}, Style()))["shop"]["rollout"]
    assert rollout["strategy"] == "canary"
    assert rollout["steps"] == [{"weight": 10, "for": "5 min"}, {"weight": 50, "for": "1 min 30 s"}]
    assert (rollout["bake"], rollout["max_errors"]) == ("10 min", 5)
