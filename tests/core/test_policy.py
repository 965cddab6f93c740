from __future__ import annotations

import pytest
from harness.builders import app

from reconciler.core.model import App, FleetHost, Volume
from reconciler.core.policy import Policy, belongs, violation

POLICY = Policy(registries=("registry.example.com",), bind_sources=("/srv",), capabilities=("SYS_PTRACE",))
GOOD = "registry.example.com/shop:1"


@pytest.mark.parametrize(
    "allowed",
    [
        app(image=GOOD),
        app(image=GOOD, volumes=(Volume("data", "/data"), Volume("/srv/x", "/x"), Volume("/srv", "/y"))),
        app(image=GOOD, cap_add=("CHOWN", "SYS_PTRACE")),
    ],
)
def test_what_the_policy_allows(allowed: App) -> None:
    assert violation(allowed, POLICY) is None


@pytest.mark.parametrize(
    ("forbidden", "word"),
    [
        (app(image="nginx"), "docker.io"),
        (app(image=GOOD, volumes=(Volume("/etc", "/x"),)), "/etc"),
        (app(image=GOOD, volumes=(Volume("/srv/../etc", "/x"),)), "bind_sources"),
        (app(image=GOOD, volumes=(Volume("/srvx", "/x"),)), "/srvx"),
        (app(image=GOOD, cap_add=("SYS_ADMIN",)), "SYS_ADMIN"),
    ],
)
def test_what_it_does_not_says_so(forbidden: App, word: str) -> None:
    assert word in (violation(forbidden, POLICY) or "")


def test_without_rules_any_registry_but_no_directory_of_the_host() -> None:
    assert violation(app(image="nginx"), Policy()) is None
    assert violation(app(volumes=(Volume("/srv", "/x"),)), Policy()) is not None


def test_hosts_are_picked_by_name_or_label() -> None:
    fleet = {"web-1": FleetHost("web-1", labels=("web", "eu")), "db-1": FleetHost("db-1")}
    assert belongs(app(), "web-1", fleet)
    assert belongs(app(hosts=("web",)), "web-1", fleet)
    assert belongs(app(hosts=("db-1",)), "db-1", fleet)
    assert not belongs(app(hosts=("web",)), "db-1", fleet)
    assert belongs(app(hosts=("web-1",)), "web-1", None)
    assert not belongs(app(hosts=("web",)), "web-1", None)
