"""Rollouts under load, one scenario after another, on both forms of nginx's configuration: what clients saw.

Two apps are upgraded, ``shop`` with two replicas and ``api`` with one. For each there are 16 clients, half of them with
keep-alive, that wait 20 ms after an answer (a quarter POST; 3 % of the requests take two seconds), and two that send
and fetch 3 MB over a second and more. A third app, which stays as it is, calls ``shop`` by its name with three clients
that resolve it for each request, and holds websockets and kept-alive connections, some of them from the first scenario
to the last. Nothing is tried twice: whatever is not the right answer counts as failed. The apps do not know how to end
gracefully.

At the end rollouts are done wrong on purpose, and then requests must fail: a harness that reports nothing there proves
nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import mistakes, rollouts
from harness.engine import PrivateEngine
from harness.isolation import isolate
from harness.load import Pinned
from harness.nginx import program
from harness.python_image import make_python_image
from harness.rollouts import Rollouts, Seen

from bench.measure import table

_CLIENTS = 16
_WAYS = ("keep-alive", "one-shot", "large bodies", "between apps")
_SCENARIOS: dict[str, Callable[[Rollouts], None]] = {
    "two apps at once": rollouts.upgrade_two_at_once,
    "revert before the switch": rollouts.before_the_switch(rollouts.revert),
    "revert after the switch": rollouts.after_the_switch(rollouts.revert),
    "agent killed before the switch": rollouts.before_the_switch(Rollouts.kill_agent),
    "agent killed after the switch": rollouts.after_the_switch(Rollouts.kill_agent),
    "dnsmasq killed before the switch": rollouts.before_the_switch(Rollouts.kill_names),
    "dnsmasq killed after the switch": rollouts.after_the_switch(Rollouts.kill_names),
    "Docker's events lost, two apps": rollouts.events_lost,
}
_MISTAKES: dict[str, Callable[[Rollouts], Seen]] = {
    "old is stopped at the switch": mistakes.old_stopped_at_the_switch,
    "the resolver is not waited for": mistakes.resolver_not_waited_for,
    "four switches by reload, nobody stopped": mistakes.switched_by_reload,
}


def main() -> None:
    """Print a table for each nginx."""
    isolate()
    upgrades = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    private = PrivateEngine()
    private.start()
    try:
        make_python_image(private)
        failures = [failure for kind in ("distribution", "newer") for failure in _soak(private, kind, upgrades)]
    finally:
        private.destroy()
    if failures:
        raise SystemExit("\n".join(["", "failed:", *failures]))


def _soak(private: PrivateEngine, kind: str, upgrades: int) -> list[str]:
    """Everything that went wrong."""

    def in_a_row(lab: Rollouts) -> None:
        for _ in range(upgrades):
            rollouts.upgrade_one(lab)

    rows, wrong = [], []
    nginx = program(kind)
    version = subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True, timeout=10).stderr
    with tempfile.TemporaryDirectory(prefix="rec-soak-") as root:
        lab = Rollouts(private, Path(root, "host"), nginx)
        try:
            lab.begin()
            with Pinned(("127.0.0.1", lab.host.http), "still.example.com") as throughout:
                for name, scenario in {f"{upgrades} upgrades in a row": in_a_row, **_SCENARIOS}.items():
                    seen = lab.measure(scenario, clients=_CLIENTS)
                    rows.append(_row(name, seen))
                    wrong += [f"{kind}, {name}: {said}" for said in (*seen.failures, *seen.cut)]
                    wrong += [f"{kind}, {name}: {seen.reloads} reloads"] if seen.reloads else []
                    print(f"{kind}: {name}: {len(seen.failures)} failed", file=sys.stderr)
            wrong += [f"{kind}, throughout: {said}" for said in throughout.cut]
            noticed = []
            for name, mistake in _MISTAKES.items():
                seen = mistake(lab)
                noticed.append(_row(name, seen))
                wrong += [] if seen.failures else [f"{kind}, {name}: nobody noticed"]
            lab.begin_canary()
            seen = lab.measure(rollouts.canary, clients=_CLIENTS)
            rows.append(_row("canary, agent killed, then reverted", seen))
            wrong += [f"{kind}, canary: {said}" for said in (*seen.failures, *seen.cut)]
            wrong += [f"{kind}, canary: {seen.reloads} reloads"] if seen.reloads else []
        finally:
            lab.destroy()
    head = ("scenario", "s", *_WAYS, "failed", "cut", "reloads", "slowest, s")
    table(f"{version.strip()}; connections that were open throughout and cut: {len(throughout.cut)}", head, rows)
    table("Done wrong on purpose", head, noticed)
    return wrong


def _row(name: str, seen: Seen) -> tuple[object, ...]:
    requests = [str(seen.reports[way].total) for way in _WAYS]
    slowest = max(report.slowest for report in seen.reports.values())
    return name, f"{seen.seconds:.1f}", *requests, len(seen.failures), len(seen.cut), seen.reloads, f"{slowest:.2f}"


if __name__ == "__main__":
    main()
