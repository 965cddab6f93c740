from __future__ import annotations

from reconciler.core.actions import NGINX, RestartContainer, retry_lane
from reconciler.core.backoff import LONGEST, Backoff, is_waiting
from reconciler.core.memory import Retry


def test_failures_wait_longer_each_time_up_to_five_minutes() -> None:
    backoff = Backoff()
    waits = []
    for _ in range(12):
        backoff.failed("shop", "RegistryUnavailable", "no answer", now=100.0)
        waits.append(backoff.retries["shop"].not_before - 100.0)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST
    backoff.succeeded("shop")
    assert backoff.retries == {}


def test_repeated_drift_meets_growing_patience_but_the_first_repairs_are_immediate() -> None:
    backoff = Backoff()
    for _ in range(3):
        backoff.repaired("shop", "shop.1", now=100.0)
        assert backoff.retries == {}
    backoff.repaired("shop", "shop.1", now=100.0)
    assert backoff.retries["drift:shop"].not_before == 101.0
    backoff.recovered("shop")  # it is well: that is what the repair was for
    backoff.repaired("shop", "shop.1", now=100.0)
    assert backoff.retries["drift:shop"].not_before == 102.0
    backoff.forget_except({"shop"}, now=101.9)
    assert backoff.retries["drift:shop"].not_before == 102.0
    backoff.forget_except({"shop"}, now=102.0)
    assert backoff.retries == {}
    backoff.repaired("shop", "shop.1", now=10_000.0)
    assert backoff.retries == {}


def test_lanes_of_apps_that_are_gone_are_forgotten_but_not_the_hosts_own() -> None:
    backoff = Backoff()
    for lane in (NGINX, "shop", "pull:shop", "name:shop", "upkeep:shop", "old", "pull:old", "name:old", "upkeep:old"):
        backoff.failed(lane, "X", "y", now=0.0)
    backoff.forget_except({"shop"}, now=0.0)
    assert set(backoff.retries) == {NGINX, "shop", "pull:shop", "name:shop", "upkeep:shop"}
    backoff.recovered("shop")
    assert set(backoff.retries) == {NGINX, "pull:shop"}


def test_many_replicas_lost_at_once_are_no_repetition() -> None:
    backoff = Backoff()
    for slot in range(12):
        backoff.repaired("shop", f"shop.{slot}", now=100.0)
    assert backoff.retries == {}


def test_another_version_starts_counting_anew() -> None:
    backoff = Backoff()
    assert [backoff.failed("shop", "X", "y", 0.0, "one") for _ in range(3)] == [1, 2, 3]
    assert backoff.failed("shop", "X", "y", 0.0, "two") == 1


def test_a_clock_that_went_back_makes_nobody_wait_for_ever() -> None:
    retry = Retry(10_000.0, 1, "X", "y")
    assert is_waiting(retry, 9_999.0)
    assert not is_waiting(retry, 10_000.0)
    assert not is_waiting(retry, 10_000.0 - LONGEST - 1)
    assert not is_waiting(None, 0.0)


def test_restarts_that_do_not_help_wait_longer_each_time_whether_they_fail_or_not() -> None:
    lane = retry_lane(RestartContainer("shop", "", "id", "shop.1.x", 10.0))
    backoff, now, waits = Backoff(), 100.0, []
    for _ in range(3):
        backoff.restarted(lane, "shop.1.x", now)
        waits.append(backoff.retries[lane].not_before - now)
        now = backoff.retries[lane].not_before
        backoff.forget_except({"shop"}, now)
    assert waits == [10.0, 20.0, 40.0]
    assert "restarted 3 times" in backoff.retries[lane].message
    backoff, waits = Backoff(), []
    for _ in range(3):
        backoff.failed(lane, "DockerError", "busy", now)
        waits.append(backoff.retries[lane].not_before - now)
        now = backoff.retries[lane].not_before
        backoff.forget_except({"shop"}, now)
    assert waits == [1.0, 2.0, 4.0]
    backoff.forget_except({"shop"}, now + 601)
    assert backoff.retries == {}
    backoff.restarted(lane, "shop.1.x", now)
    backoff.forget_except({"other"}, now)
    assert backoff.retries == {}
