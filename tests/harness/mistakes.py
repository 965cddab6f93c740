"""Rollouts done wrong, each in one way, under the same load: a harness that reports nothing here proves nothing."""

from __future__ import annotations

import os
import signal
import sys

from harness.python_image import IMAGE
from harness.rollouts import Rollouts, Seen, upgrade

_IMPATIENT = """
from reconciler.cli import main, wiring
from reconciler.core.step import Timing
from reconciler.cycle import Rules
wiring.Rules = lambda host, subnet: Rules(host, subnet, Timing(settle=0.0))
main()
"""


def old_stopped_at_the_switch(lab: Rollouts) -> Seen:
    """Somebody kills the old replicas as soon as the name has the new addresses."""

    def scenario(lab: Rollouts) -> None:
        old = lab.host.containers("shop")
        lab.upgrade("shop")
        lab.wait_switched("shop")
        for container in old:
            container.kill()
        lab.finish("shop")

    return lab.measure(scenario, hosts=("shop",))


def resolver_not_waited_for(lab: Rollouts) -> Seen:
    """The agent stops old replicas as soon as dnsmasq answers the new addresses; nginx may not have asked yet."""
    patient, drain = lab.host.program, lab.drain
    lab.host.stop_agent()
    lab.host.program, lab.drain = (sys.executable, "-c", _IMPATIENT), "0s"
    lab.host.start_agent()
    try:
        return lab.measure(upgrade("shop"), hosts=("shop",))
    finally:
        lab.host.stop_agent()
        lab.host.program, lab.drain = patient, drain
        lab.host.start_agent()


def switched_by_reload(lab: Rollouts) -> Seen:
    """The address stands in nginx's configuration, which is reloaded for each of four upgrades; nobody is stopped."""
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
    return lab.measure(scenario, hosts=("hand",), clients=16, called="shop")
