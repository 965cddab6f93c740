from __future__ import annotations

from reconciler.core.step import Step


def test_the_first_reason_is_what_people_see_and_the_earliest_time_counts() -> None:
    step = Step().wait(20.0, "RollingOut", "waiting until shop.1 is healthy")
    step.wait(10.0, "Draining", "waiting until nobody is connected").wait(30.0, "", "")
    assert (step.wake_at, step.reason, step.message) == (10.0, "RollingOut", "waiting until shop.1 is healthy")
