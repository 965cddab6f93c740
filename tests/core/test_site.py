"""What is rendered. Golden files in ``site/``: NAME.json is the input, NAME.conf the output.

After a change of the rendering, look at the difference that this makes:

    UPDATE_GOLDEN=1 pytest tests/core/test_site.py && git diff tests/core/site
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.golden import assert_golden

from reconciler.core.model import App, Ingress
from reconciler.core.observed import SiteState
from reconciler.core.site import FILE, Frontend, Generation, app_at, render, slots_in
from reconciler.errors import InvalidInput

CASES = sorted((Path(__file__).parent / "site").glob("*.json"))
FRONTEND = Frontend("10.201.0.1")
OLD, NEW = SiteState(None, None, resolve=False), SiteState(None, None, resolve=True, version=(1, 30, 6))


def app(name: str, *routes: Ingress) -> App:
    return App(name, f"apps/{name}/app.yaml", "image", ingress=routes)


def read(case: dict[str, Any]) -> Generation:
    apps = [app(name, *(Ingress(**route) for route in routes)) for name, routes in case["apps"].items()]
    facts = case["site"] | {
        "version": tuple(case["site"]["version"]),
        "certificates": frozenset(case["site"].get("certificates", ())),
        "slots": frozenset(case["site"].get("slots", ())),
    }
    return render(apps, SiteState(None, None, **facts), Frontend(**case["frontend"]), case.get("split", ()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_renders_what_the_golden_file_says(case: Path) -> None:
    generation = read(json.loads(case.read_text()))
    assert [name for name, _ in generation.files] == [FILE]
    assert_golden(case.with_suffix(".conf"), generation.files[0][1].removesuffix("\n"))
    assert generation.files[0][1].count(generation.id) == 1


def test_the_order_of_apps_and_routes_makes_no_difference() -> None:
    shop = app("shop", Ingress("a.example", "/", 80), Ingress("b.example", "/x", 81))
    turned = app("shop", Ingress("b.example", "/x", 81), Ingress("a.example", "/", 80))
    api = app("api", Ingress("a.example", "/api", 80))
    assert render([shop, api], NEW, FRONTEND) == render([api, turned], NEW, FRONTEND)


def test_whatever_changes_the_bytes_changes_the_id() -> None:
    tls = app("shop", Ingress("a.example", "/", 80, "auto"))
    certified = SiteState(None, None, False, frozenset({"a.example"}), {"a.example": "01"})
    renewed = SiteState(None, None, False, frozenset({"a.example"}), {"a.example": "02"})
    generations = [
        render([], OLD, FRONTEND),
        render([tls], OLD, FRONTEND),
        render([tls], NEW, FRONTEND),
        render([tls], certified, FRONTEND),
        render([tls], renewed, FRONTEND),
        render([tls], OLD, Frontend("10.201.0.1", http=81)),
    ]
    assert len({generation.id for generation in generations}) == len(generations)


def test_what_is_loaded_makes_no_difference() -> None:
    shop = app("shop", Ingress("a.example", "/", 80))
    assert render([shop], OLD, FRONTEND) == render([shop], SiteState("0123456789abcdef", "", False), FRONTEND)


def test_no_address_of_a_replica_is_ever_rendered() -> None:
    text = render([app("shop", Ingress("a.example", "/", 80))], NEW, FRONTEND).files[0][1]
    assert text.count("10.201.") == text.count("resolver 10.201.0.1 ")


@pytest.mark.parametrize("site", [OLD, NEW], ids=["variable", "resolve"])
def test_each_line_that_is_about_an_app_is_known_to_be(site: SiteState) -> None:
    apps = [app("shop", Ingress("a.example", "/", 80)), app("api", Ingress("a.example", "/api", 9000))]
    text = render(apps, site, FRONTEND).files[0][1]
    owners = {line.strip(): app_at(text, number) for number, line in enumerate(text.splitlines(), 1)}
    assert owners["location = /api {"] == owners["location @reconciler.api {"] == "api"
    assert owners["location / {"] == owners["error_page 502 504 = @reconciler.shop;"] == "shop"
    assert owners["server_name a.example;"] is owners["server {"] is None
    target = {"server api:9000 resolve max_fails=0;"} if site.resolve else {"set $reconciler_app api;"}
    assert {owners[line] for line in target} == {"api"}


@pytest.mark.parametrize("site", [OLD, NEW], ids=["variable", "resolve"])
def test_slots_belong_to_their_app_and_nobody_is_counted_where_nobody_listens(site: SiteState) -> None:
    apps = [app("shop", Ingress("a.example", "/", 80)), app("api", Ingress("a.example", "/api", 9000))]
    site = replace(site, slots=frozenset({"shop"}))
    text = render(apps, site, FRONTEND, {"shop"}).files[0][1]
    owners = {line.strip(): app_at(text, number) for number, line in enumerate(text.splitlines(), 1)}
    slot = "server shop_7:80 resolve max_fails=0;" if site.resolve else "set $reconciler_app shop_$reconciler_slot;"
    assert owners[slot] == "shop"
    assert "api_" not in text
    assert "log" not in text.replace("access_log off", "")
    assert render(apps, site, FRONTEND, {"other"}).files == render(apps, site, FRONTEND).files


def test_slots_are_upstreams_before_requests_are_dealt_out_to_them() -> None:
    apps, asked = [app("shop", Ingress("a.example", "/", 80)), app("api", Ingress("b.example", "/", 80))], {"shop"}
    plain, first = render(apps, NEW, FRONTEND), render(apps, NEW, FRONTEND, asked)
    text = first.files[0][1]
    assert first.split == slots_in(plain.files[0][1]) == frozenset()
    assert slots_in(text) == asked
    assert "split_clients" not in text
    then = render(apps, replace(NEW, slots=slots_in(text)), FRONTEND, asked)
    text = then.files[0][1]
    assert then.split == slots_in(text) == asked
    assert "split_clients" in text
    assert "upstream reconciler.shop.80 {" in text  # so that the way back finds it with addresses
    assert render(apps, OLD, FRONTEND, asked).split == asked
    # One without a route needs no upstream, and need not wait for any.
    assert render([], NEW, FRONTEND, asked).split == asked


def test_a_directory_that_could_write_directives_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidInput, match="directory"):
        render([], OLD, Frontend("10.201.0.1", tally="/run/a;b"), {"shop"})


def test_a_line_of_no_app_is_known_to_be_of_none() -> None:
    text = render([app("api", Ingress("a.example", "/api", 80))], OLD, FRONTEND).files[0][1]
    last = text.splitlines().index("    location / {", text.splitlines().index("    server_name a.example;"))
    assert app_at(text, last + 1) is app_at(text, last + 2) is None
    assert app_at(text, 10_000) is None
    assert app_at("", 1) is None
