"""Rollouts under load, one scenario after another: what clients saw.

For each app that is upgraded there are 16 clients, half of them with keep-alive, that wait 20 ms after an answer (a
quarter POST; 3 % of the requests take two seconds), and two that send and fetch 3 MB over a second and more. A further
app, which stays as it is, calls the upgraded one by its name with three clients that resolve it for each request, and
holds websockets and kept-alive connections. Nothing is tried twice: whatever is not the right answer counts as failed.
The apps do not know how to end gracefully. After each scenario nothing may be left but the newest version: containers,
addresses of the name, files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness import mistakes, rollouts
from harness.rollouts import Fields, Rollouts, Seen, after_the_switch, before_the_switch, overtaken, upgrade

from bench.measure import Section

CLIENTS = 16
_STEPS = [{"weight": 20, "for": "2s"}, {"weight": 50, "for": "2s"}]
APPS: Mapping[str, Fields] = {
    "trio": {"replicas": 3, "rollout": {"strategy": "rolling"}},
    "bird": {"replicas": 2, "rollout": {"strategy": "canary", "steps": _STEPS, "bake": "2s"}},
}
"""Beside those of the tests."""

_WAYS = ("keep-alive", "one-shot", "large bodies", "between apps")
_HEAD = ("scenario", "s", *_WAYS, "failed", "cut", "reloads", "slowest, s")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that must cost nobody anything."""

    name: str
    happens: rollouts.Scenario
    asked: tuple[str, ...] = ("shop", "api")
    """The apps that clients ask; another app calls the first one."""


_TRIO = ("trio",)
SCENARIOS = (
    Scenario("two apps at once", upgrade("shop", "api")),
    Scenario("revert before the switch", before_the_switch(Rollouts.revert)),
    Scenario("revert after the switch", after_the_switch(Rollouts.revert)),
    Scenario("agent killed before the switch", before_the_switch(Rollouts.kill_agent)),
    Scenario("agent killed after the switch", after_the_switch(Rollouts.kill_agent)),
    Scenario("dnsmasq killed before the switch", before_the_switch(Rollouts.kill_names)),
    Scenario("dnsmasq killed after the switch", after_the_switch(Rollouts.kill_names)),
    Scenario("Docker's events lost, two apps", rollouts.events_lost),
    Scenario("a newer commit before the switch", overtaken("shop")),
    Scenario("a newer commit after the switch", after_the_switch(lambda lab: lab.upgrade("shop"))),
    Scenario("rolling, three replicas", upgrade("trio"), _TRIO),
    Scenario("rolling, revert in the middle", after_the_switch(Rollouts.revert, "trio"), _TRIO),
    Scenario("rolling, agent killed in the middle", after_the_switch(Rollouts.kill_agent, "trio"), _TRIO),
    Scenario("rolling, a newer commit in the middle", after_the_switch(lambda lab: lab.upgrade("trio"), "trio"), _TRIO),
    Scenario("rolling, a newer commit at the start", overtaken("trio"), _TRIO),
    Scenario("canary, agent killed, then a revert", rollouts.canary("bird"), ("bird",)),
)
"""In this order, after so many upgrades in a row."""

MISTAKES: Mapping[str, Callable[[Rollouts], Seen]] = {
    "old is stopped at the switch": mistakes.old_stopped_at_the_switch,
    "the resolver is not waited for": mistakes.resolver_not_waited_for,
    "four switches by reload, nobody stopped": mistakes.switched_by_reload,
}


def under_load(lab: Rollouts, upgrades: int) -> Section:
    """Everything that can come in between; no request may fail."""
    section = Section("Rollouts under load", _HEAD)

    def in_a_row(lab: Rollouts) -> None:
        for _ in range(upgrades):
            upgrade("shop")(lab)

    for scenario in (Scenario(f"{upgrades} upgrades in a row", in_a_row), *SCENARIOS):
        with section.trying(scenario.name):
            seen = lab.measure(scenario.happens, hosts=scenario.asked, clients=CLIENTS)
            section.add(_row(scenario.name, seen), wrong(seen))
    return section


def wrong(seen: Seen) -> list[str]:
    """Whatever should not have been seen."""
    unseen = [f"nobody came this way: {way}" for way, report in seen.reports.items() if not report.total]
    return [*seen.failures, *seen.cut, *([f"{seen.reloads} reloads"] if seen.reloads else []), *unseen]


def done_wrong(lab: Rollouts) -> Section:
    """The same harness must notice when rollouts are done wrong."""
    section = Section("Done wrong on purpose", _HEAD)
    for name, mistake in MISTAKES.items():
        with section.trying(name):
            seen = mistake(lab)
            section.add(_row(name, seen), [] if seen.failures else ["nobody noticed"])
    return section


def _row(name: str, seen: Seen) -> tuple[object, ...]:
    requests = [str(seen.reports[way].total) for way in _WAYS]
    slowest = max(report.slowest for report in seen.reports.values())
    return name, f"{seen.seconds:.1f}", *requests, len(seen.failures), len(seen.cut), seen.reloads, f"{slowest:.2f}"
