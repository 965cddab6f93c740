from __future__ import annotations

from dataclasses import replace

import pytest
from harness.plans import SITUATIONS, Situation

from reconciler.cli.changes import Outlook, forecast_exit_code, in_sync, outlook


def look(situation: Situation) -> Outlook:
    return outlook(situation.forecast, situation.start, situation.observed, situation.applied)


@pytest.mark.parametrize("name", SITUATIONS)
def test_only_a_host_on_which_nothing_is_to_do_is_in_sync(name: str) -> None:
    situation = SITUATIONS[name]()
    code = 0 if name in {"nothing-to-do", "no-apps"} else 2
    assert forecast_exit_code(situation.forecast, situation.start) == code
    assert in_sync(situation.forecast, situation.start) is (code == 0)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("first-deployment", {"api": "first deployment", "shop": "first deployment"}),
        ("upgrade", {"shop": "upgrade"}),
        ("scale-up", {"shop": "scale"}),
        ("scale-down", {"shop": "scale"}),
        ("removal", {"old": "removal"}),
        ("drift", {"api": "repair", "db": "repair", "shop": "repair"}),
        ("all-gone", {"shop": "repair"}),
        ("return-to-good", {"shop": "return"}),
        ("pull-needed", {"shop": "upgrade"}),
        ("pull-always", {"shop": "pull"}),
        ("routes", {"shop": "routes"}),
        ("mass-removal", {"shop": "upgrade"}),
    ],
)
def test_a_change_has_a_kind(name: str, kinds: dict[str, str]) -> None:
    assert {change.app: change.kind for change in look(SITUATIONS[name]()).changes} == kinds


def test_apps_come_in_the_order_in_which_they_change() -> None:
    assert [change.app for change in look(SITUATIONS["dependencies"]()).changes] == ["db", "api", "web"]


def test_downtime_names_its_bound() -> None:
    (change,) = look(SITUATIONS["recreate"]()).changes
    assert change.down is not None
    assert change.down.at_most == pytest.approx(150)
    assert change.down.because == "stop_grace_period 30 s + health.deadline 2 min"
    assert 1 < change.down.expected < 3


def test_whoever_is_down_already_does_not_go_down() -> None:
    (change,) = look(SITUATIONS["all-gone"]()).changes
    assert change.down is None
    assert change.down_now


def test_secrets_are_named_not_shown() -> None:
    (change,) = look(SITUATIONS["upgrade"]()).changes
    assert "secrets.environment.DATABASE_URL changed" in change.why
    assert "secrets.file.payment_key changed" not in change.why


def test_problems_are_told_once() -> None:
    seen = look(SITUATIONS["broken-manifest"]())
    assert [problem.line for problem in seen.standing[0].problems] == [4, 9]
    assert [problem.severity for problem in seen.problems] == ["warning"]


def test_a_host_without_nginx_says_nothing_of_it() -> None:
    situation = SITUATIONS["recreate"]()
    bare = replace(situation, observed=replace(situation.observed, site=None))
    assert look(bare).nginx is None


def test_a_warning_alone_does_not_stand_in_the_way() -> None:
    broken, calm = SITUATIONS["broken-manifest"](), SITUATIONS["nothing-to-do"]()
    warnings = tuple(p for p in broken.asked.catalog.problems if p.severity == "warning")
    catalog = replace(calm.asked.catalog, problems=warnings)
    warned = replace(calm, asked=replace(calm.asked, catalog=catalog))
    assert forecast_exit_code(warned.forecast, warned.start) == 0
    assert look(warned).problems == warnings
