from __future__ import annotations

import pytest
from harness.plans import SITUATIONS, Situation

from reconciler.cli.changes import Change
from reconciler.cli.outlook import outlook


def changes(name: str) -> tuple[Change, ...]:
    situation: Situation = SITUATIONS[name]()
    return outlook(situation.forecast, situation.start, situation.observed, situation.applied).changes


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
    assert {change.app: change.kind for change in changes(name)} == kinds


def test_downtime_names_its_bound() -> None:
    (change,) = changes("recreate")
    assert change.down is not None
    assert change.down.at_most == pytest.approx(150)
    assert change.down.because == "stop_grace_period 30 s + health.deadline 2 min"
    assert 1 < change.down.expected < 3


def test_whoever_is_down_already_does_not_go_down() -> None:
    (change,) = changes("all-gone")
    assert change.down is None
    assert change.down_now


def test_whoever_depends_on_what_goes_down_is_named() -> None:
    assert changes("recreate")[0].impact == "down for about 1.4 s; api depends on it"
    assert changes("dependencies")[0].impact == "down for about 1.4 s; api and web depend on it"


def test_secrets_are_named_not_shown() -> None:
    (change,) = changes("upgrade")
    assert "secrets.environment.DATABASE_URL changed" in change.why
    assert "secrets.file.payment_key changed" not in change.why


def test_a_tag_that_moved_is_told_from_a_new_tag() -> None:
    assert changes("moved-tag")[0].why == ("image shop:1 is another one now",)
    assert changes("upgrade")[0].why[0] == "image shop:1 -> shop:2"


def test_what_a_drift_repair_is_for_is_named() -> None:
    why = {change.app: change.why for change in changes("drift")}
    assert why["shop"][0].endswith("is gone")
    assert why["db"][0].endswith("was stopped")
    assert len(why["api"]) == 2


def test_an_app_that_waits_for_its_next_attempt_says_so() -> None:
    assert changes("failing")[0].note.endswith("RegistryUnavailable: registry.example.com does not answer")


def test_who_goes_back_to_what_was_rehearsed_is_told_what_came_of_it() -> None:
    (back,) = changes("way-back")
    assert back.way_back.startswith("no, as of 2027-01-15 08:00:00Z: shop:1 of 1a2b3c4d ended")
    assert [change.way_back for change in changes("upgrade")] == [""]
