"""An agent that has nothing to do: memory and CPU of the real process, as the kernel counts them.

Fifty apps have run for some minutes, each with a health check over HTTP that is asked every five seconds. The remote,
a local path, is watched, and asked every ten seconds. Nobody scrapes. CPU of the commands that it starts (git) is
counted apart.
"""

from __future__ import annotations

import time

from bench import lab
from bench.measure import Usage, table

_APPS = 50
_SECONDS = 180.0
_SETTLE = 150.0
"""Containers younger than two minutes are looked at more closely; a minute after a push the refs are, too."""


def main() -> None:
    """Print the table."""
    with lab.engine() as private, lab.host(private, interval="10s") as host:
        revision = host.commit({"fleet.yaml": lab.FLEET, **lab.apps([f"app-{number}" for number in range(_APPS)])})
        with lab.agent(host):
            lab.converged(host, revision)
        # Started anew, as after a reboot of the agent: what the deployment of fifty apps took is not idleness.
        rows = []
        with lab.agent(host) as pid:
            lab.converged(host, revision)
            time.sleep(_SETTLE)
            before, most, began = Usage.of(pid), 0, time.monotonic()
            while time.monotonic() < began + _SECONDS:
                time.sleep(1.0)
                most = max(most, Usage.of(pid).resident)
            after = Usage.of(pid)
            minutes = (time.monotonic() - began) / 60
            own, children = (after.own - before.own) / minutes, (after.children - before.children) / minutes
            rows.append((f"{most / 1e6:.1f}", f"{own:.3f}", f"{children:.3f}", f"{own + children:.3f}"))
    head = ("most memory (RSS), MB", "own CPU s/min", "git's CPU s/min", "both")
    table(f"An idle agent, {_APPS} apps, a poll every 10 s, {_SECONDS:g} s", head, rows)


if __name__ == "__main__":
    main()
