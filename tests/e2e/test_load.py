"""Rollouts under load lose no request; and the same harness tells when one does. The longer run is ``scripts/soak``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import mistakes
from harness.engine import PrivateEngine
from harness.nginx import program
from harness.python_image import make_python_image
from harness.rollouts import Rollouts

ON_BOTH = pytest.mark.parametrize("lab", ["distribution", "newer"], indirect=True)
ON_ONE = pytest.mark.parametrize("lab", ["distribution"], indirect=True)


@pytest.fixture(scope="module")
def image(engine: PrivateEngine) -> PrivateEngine:
    """The engine, with the image of an app that is hard to upgrade."""
    make_python_image(engine)
    return engine


@pytest.fixture(scope="module")
def lab(
    request: pytest.FixtureRequest, image: PrivateEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rollouts]:
    """Three apps behind one of the two forms of nginx's configuration."""
    lab = Rollouts(image, tmp_path_factory.mktemp("load") / "host", program(request.param))
    try:
        lab.begin()
        yield lab
    finally:
        lab.destroy()


@ON_BOTH
def test_no_request_is_lost_whatever_comes_in_between(lab: Rollouts) -> None:
    def scenario(lab: Rollouts) -> None:
        with lab.events_lost():
            lab.upgrade("shop", "api")
            lab.wait_started("shop")
            lab.kill_agent()
            lab.finish("shop", "api")
        lab.upgrade("shop")
        lab.wait_started("shop")
        lab.kill_names()
        lab.wait_switched("shop")
        lab.revert()
        lab.finish("shop")

    seen = lab.measure(scenario, clients=6, pause=0.05)
    assert seen.failures == []
    assert seen.cut == []
    assert seen.reloads == 0
    # And that was seen by somebody, in every way.
    assert {way for way, report in seen.reports.items() if report.total > 10} == {
        "keep-alive",
        "one-shot",
        "large bodies",
        "between apps",
    }
    kinds = {kind for report in seen.reports.values() for kind in report.requests}
    assert kinds == {"GET", "POST", "slow GET", "large answer", "large body"}


# --- a proof that cannot fail is none ---------------------------------------------------------------------------------


@ON_ONE
def test_old_replicas_that_stop_at_the_switch_are_noticed(lab: Rollouts) -> None:
    assert mistakes.old_stopped_at_the_switch(lab).failures


@ON_ONE
def test_an_agent_that_does_not_wait_for_the_resolver_is_noticed(lab: Rollouts) -> None:
    assert mistakes.resolver_not_waited_for(lab).failures


@ON_ONE
def test_a_switch_by_reload_is_noticed(lab: Rollouts) -> None:
    seen = mistakes.switched_by_reload(lab)
    assert seen.reloads == 4
    assert seen.failures
    assert seen.cut  # connections of an app that has nothing to do with it
