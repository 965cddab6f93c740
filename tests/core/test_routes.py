"""Who has which path, and what is never let through to nginx."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.model import App, Ingress
from reconciler.core.observed import SiteState
from reconciler.core.routes import Clash, claim
from reconciler.core.site import Frontend, render
from reconciler.errors import InvalidInput

SAFE = Ingress("shop.example.com", "/api", 8080, "auto", 1024, 60.0)
SITE = SiteState(None, None, False, frozenset({"shop.example.com"}), {"shop.example.com": "ab"})
FRONTEND = Frontend("10.201.0.1")

EVIL = [
    "x; } server {",
    "x;",
    "a b",
    "a\n",
    "a\r\nb",
    "a\x00b",
    "$host",
    "${host}",
    "a{b",
    "a}b",
    'a"b',
    "a'b",
    "a\\b",
    "a#b",
    "~a",
    "*.example.com",
    "ä.example.com",
    "٣",  # an Arabic digit, which \d would take
    "",
    "A.example.com",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a-",
    "a" * 64,
    ".".join(["a" * 60] * 5),
]


def app(name: str = "shop", route: Ingress = SAFE) -> App:
    return App(name, "app.yaml", "image", ingress=(route,))


def refuses(name: str = "shop", site: SiteState = SITE, frontend: Frontend = FRONTEND, **route: Any) -> bool:
    with pytest.raises(InvalidInput) as caught:
        render([app(name, replace(SAFE, **route))], site, frontend)
    return caught.value.reason == "UnsafeRoute"


def test_what_the_schema_lets_through_is_rendered() -> None:
    assert render([app()], SITE, FRONTEND).files


@pytest.mark.parametrize("value", EVIL, ids=ascii)
def test_a_host_that_is_none_is_refused(value: str) -> None:
    assert refuses(host=value)


@pytest.mark.parametrize("value", [*EVIL, "a.b", "a_b", "a" * 41], ids=ascii)
def test_a_name_that_is_none_is_refused(value: str) -> None:
    assert refuses(name=value)


@pytest.mark.parametrize(
    "value", ["", "api", "/a b", "/a;", "/a{", "/a}", "/$a", "/a\n", "/a/../b", "/a%41", "/ä", "/a'", "/" + "a" * 250]
)
def test_a_path_that_is_none_is_refused(value: str) -> None:
    assert refuses(path=value)


@pytest.mark.parametrize("value", [0, -1, 65_536, "80", 80.0, True, None])
def test_a_port_that_is_none_is_refused(value: object) -> None:
    assert refuses(port=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1m", True, None, float("nan")])
def test_a_size_that_is_none_is_refused(value: object) -> None:
    assert refuses(max_body=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1s", True, None])
def test_a_time_that_is_none_is_refused(value: object) -> None:
    assert refuses(timeout=value)


def test_a_kind_of_tls_that_is_none_is_refused() -> None:
    assert refuses(tls="on; }")


@pytest.mark.parametrize("value", ["0;", "zz", "", "0\n"])
def test_a_digest_that_is_none_is_refused(value: str) -> None:
    assert refuses(site=replace(SITE, certificate_digests={"shop.example.com": value}))


@pytest.mark.parametrize(
    "frontend",
    [
        Frontend("10.201.0.1;"),
        Frontend("fe80::1%; }"),
        Frontend("10.201.0.1", address="localhost"),
        Frontend("10.201.0.1", http=0),
        Frontend("10.201.0.1", https=70_000),
        Frontend("10.201.0.1", certificates="relative"),
        Frontend("10.201.0.1", certificates='/a";'),
        Frontend("10.201.0.1", certificates="/a$b"),
    ],
)
def test_settings_that_nginx_would_read_otherwise_are_refused(frontend: Frontend) -> None:
    assert refuses(frontend=frontend)


def test_a_refusal_names_the_app_and_shows_no_control_character() -> None:
    with pytest.raises(InvalidInput, match=r"'shop': host 'a\\nb' cannot stand in nginx's configuration"):
        claim([app(route=replace(SAFE, host="a\nb"))])


def test_a_slash_at_the_end_of_a_path_makes_no_difference() -> None:
    hosts, clashes = claim([app("api"), app("shop", replace(SAFE, path="/api/"))])
    assert [(route.app, route.path) for route in hosts["shop.example.com"]] == [("api", "/api")]
    assert clashes == (Clash("shop.example.com", "/api", "api", "shop"),)


def test_the_same_path_twice_in_one_app_is_no_clash() -> None:
    _, clashes = claim([App("shop", "app.yaml", "image", ingress=(SAFE, SAFE))])
    assert clashes == ()


def test_the_first_that_claims_a_path_has_it() -> None:
    _, clashes = claim([app("shop"), app("api")])
    assert [(clash.app, clash.loser) for clash in clashes] == [("shop", "api")]
