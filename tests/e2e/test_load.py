"""Rollouts under load lose no request; and the same harness tells when one does. The longer run is ``scripts/soak``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from harness.engine import PrivateEngine
from harness.nginx import program
from harness.python_image import IMAGE, make_python_image
from harness.rollouts import Rollouts

ON_BOTH = pytest.mark.parametrize("lab", ["distribution", "newer"], indirect=True)
ON_ONE = pytest.mark.parametrize("lab", ["distribution"], indirect=True)
IMPATIENT = """
from reconciler.cli import main, wiring
from reconciler.core.rollout import Timing
from reconciler.cycle import Rules
wiring.Rules = lambda host, subnet: Rules(host, subnet, Timing(settle=0.0))
main()
"""
"""An agent that does not wait until nginx has asked for the name again."""


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
        lab.revert("shop")
        lab.finish("shop")

    seen = lab.measure(scenario)
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
    def scenario(lab: Rollouts) -> None:
        old = lab.host.containers("shop")
        lab.upgrade("shop")
        lab.wait_switched("shop")
        for container in old:
            container.kill()
        lab.finish("shop")

    assert lab.measure(scenario, hosts=("shop",)).failures


@ON_ONE
def test_an_agent_that_does_not_wait_for_the_resolver_is_noticed(lab: Rollouts) -> None:
    def scenario(lab: Rollouts) -> None:
        lab.upgrade("shop")
        lab.finish("shop")

    lab.host.stop_agent()
    patient, lab.host.program = lab.host.program, (sys.executable, "-c", IMPATIENT)
    patiently, lab.drain = lab.drain, "0s"
    lab.host.start_agent()
    try:
        assert lab.measure(scenario, hosts=("shop",)).failures
    finally:
        lab.host.stop_agent()
        lab.host.program, lab.drain = patient, patiently
        lab.host.start_agent()


@ON_ONE
def test_a_switch_by_reload_is_noticed(lab: Rollouts) -> None:
    """With the address in nginx's configuration, and nobody stopped."""
    host = lab.host

    def switch(version: str) -> None:
        container = host.client.containers.run(IMAGE, detach=True, environment={"VERSION": version})
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        where = f"listen {host.http}; server_name hand.example.com; client_max_body_size 8m;"
        host.nginx.configure(f"server {{ {where} location / {{ proxy_pass http://{address}:8080; }} }}")
        assert host.nginx.pid is not None
        os.kill(host.nginx.pid, signal.SIGHUP)
        host.wait(lambda: host.get("/version", host="hand.example.com")[1] == version, what=f"{version} is loaded")

    def scenario(_: Rollouts) -> None:
        for version in "2345":
            switch(version)

    switch("1")
    seen = lab.measure(scenario, hosts=("hand",), clients=16)
    assert seen.reloads == 4
    assert seen.failures
    assert seen.cut
