"""What is wrong with one manifest is shown in ``manifests/``; here are the parts that others use."""

from __future__ import annotations

import pytest

from reconciler.core.appfile import NAME, collide, draft, is_sops, published, resolve, route
from reconciler.core.document import read
from reconciler.core.model import PublishedPort, Rehearsal


@pytest.mark.parametrize(
    ("folder", "source", "found"),
    [
        ("apps/shop", "a", "apps/shop/a"),
        ("apps/shop", "./b//a", "apps/shop/b/a"),
        ("apps/shop", "../a", "apps/a"),
        ("apps/shop", "/a", "a"),
        ("apps/shop", "/", None),
        ("apps/shop", "../..", None),
        ("apps/shop", "../../..", None),
        ("apps/shop", "../../../apps/shop/a", None),
        ("apps/shop", "/../a", None),
        ("", "a", "a"),
        ("", "../a", None),
    ],
)
def test_paths_stay_in_the_repository(folder: str, source: str, found: str | None) -> None:
    assert resolve(folder, source) == found


def test_names() -> None:
    assert NAME.fullmatch("a")
    assert NAME.fullmatch("a" * 40)
    for bad in ("", "-a", "a-", "a" * 41, "A", "a_b", "a.b", "a\n", "ä"):
        assert not NAME.fullmatch(bad)


def test_ports_that_collide() -> None:
    everywhere, loopback = PublishedPort(80, 1), PublishedPort(80, 2, address="127.0.0.1")
    assert collide(everywhere, loopback)
    assert not collide(loopback, PublishedPort(80, 2, address="127.0.0.2"))
    assert not collide(everywhere, PublishedPort(80, 1, "udp"))
    assert not collide(everywhere, PublishedPort(81, 1))
    assert published("127.0.0.1:80:1/udp") == PublishedPort(80, 1, "udp", "127.0.0.1")
    assert published("0:1") is published("1:65536") is published("256.0.0.1:1:1") is None


def test_routes_and_sops_names() -> None:
    assert route("a", "/") == "a/"
    assert route("a", "/b") == route("a", "/b/") == "a/b/"
    assert is_sops("x/a.sops.yaml")
    assert not is_sops("x.sops.d/a.yaml")


def test_a_damaged_key_costs_no_other_finding() -> None:
    root = read("a/app.yaml", b"ports: [1:1, 1:1]\nvolumes: 5\ningress: 7\nhealth: {http: /}").root
    assert root is not None
    made = draft("a/app.yaml", "a", root, frozenset({"volumes", "ingress"}))
    assert [(problem.line, problem.app) for problem in made.problems] == [(1, "a")]
    assert made.app.volumes == ()
    assert len(made.app.ports) == 2


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("true", Rehearsal()),
        ("false", None),
        ("{command: ./check schema}", Rehearsal(("./check", "schema"))),
        ("{command: [./check]}", Rehearsal(("./check",))),
    ],
)
def test_a_rehearsal_is_asked_for_with_or_without_a_command(text: str, asked: Rehearsal | None) -> None:
    root = read("a/app.yaml", f"image: a:1\nrehearse_rollback: {text}".encode()).root
    assert root is not None
    made = draft("a/app.yaml", "a", root, frozenset())
    assert made.problems == ()
    assert made.app.rehearse_rollback == asked
