from __future__ import annotations

from reconciler.core.backoff import LONGEST, Backoff


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
        backoff.repaired("shop", now=100.0)
        assert backoff.retries == {}
    backoff.repaired("shop", now=100.0)
    assert backoff.retries["shop"].not_before == 101.0
    backoff.repaired("shop", now=100.0)
    assert backoff.retries["shop"].not_before == 102.0
    backoff.repaired("shop", now=10_000.0)
    assert backoff.retries == {}


def test_lanes_of_apps_that_are_gone_are_forgotten_but_not_the_hosts_own() -> None:
    backoff = Backoff()
    for lane in ("", "shop", "pull:shop", "old", "pull:old"):
        backoff.failed(lane, "X", "y", now=0.0)
    backoff.forget_except({"shop"})
    assert set(backoff.retries) == {"", "shop", "pull:shop"}
