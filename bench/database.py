"""A database on a volume, written to without end: whatever happens, no row that was acknowledged is lost.

The app keeps rows in SQLite and says 200 once a row is on the disk. Four clients write, each row once. Old stops before
new starts, so some are refused meanwhile; but what was acknowledged must be there at the end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from harness import rows
from harness.rollouts import Fields, Rollouts, Scenario, overtaken, upgrade
from harness.rows import Writers

from bench.measure import Section

APPS: Mapping[str, Fields] = {"ledger": rows.LEDGER, "forgetful": rows.FORGETFUL}

_UPGRADES = 10
_ASIDE = 0.5
"""Seconds of writing before and after."""
_HEAD = ("scenario", "s", "rows acknowledged", "refused", "lost", "longest pause, s")


def _in_a_row(lab: Rollouts) -> None:
    for _ in range(_UPGRADES):
        upgrade("ledger")(lab)


_SCENARIOS: Mapping[str, Scenario] = {
    f"{_UPGRADES} upgrades in a row": _in_a_row,
    "an upgrade that fails: old is put back": rows.put_back("ledger"),
    "agent killed while old is stopped": rows.killed_while_old_is_stopped("ledger"),
    "a newer commit while new is waited for": overtaken("ledger"),
}


def no_row_lost(lab: Rollouts) -> Section:
    """And one app that has no volume must lose some, or nobody would notice."""
    section = Section("A database on a volume", _HEAD)
    with Writers(lab.host, "ledger") as throughout:
        for name, scenario in _SCENARIOS.items():
            with section.trying(name):
                lost = _measure(section, lab, name, "ledger", scenario)
                section.wrong += [f"{name}: lost {row}" for row in lost]
    section.wrong += [f"at the end: lost {row}" for row in throughout.lost()]
    name = "on purpose: no volume"
    with section.trying(name):
        lost = _measure(section, lab, name, "forgetful", upgrade("forgetful"))
        section.wrong += [] if lost else [f"{name}: nobody noticed"]
    return section


def _measure(section: Section, lab: Rollouts, name: str, app: str, scenario: Scenario) -> list[str]:
    began = time.monotonic()
    with Writers(lab.host, app) as writers:
        time.sleep(_ASIDE)
        scenario(lab)
        seconds = time.monotonic() - began - _ASIDE
        time.sleep(_ASIDE)
    lost = writers.lost()
    counts = (len(writers.acknowledged), writers.refused, len(lost))
    section.add((name, f"{seconds:.1f}", *counts, f"{writers.longest_pause:.1f}"), [])
    return lost
