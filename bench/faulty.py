"""Versions that never become healthy, under load: the old one serves, nobody notices, and the reason is named.

Each is committed, waited for until the status gives the reason, and taken back. Meanwhile somebody watches every
change of the name's file, and every version that answers through nginx: neither may ever be the new one's.
"""

from __future__ import annotations

from harness.failing import commit_and_revert, faults
from harness.registry import Registry
from harness.rollouts import Rollouts

from bench.measure import Section
from bench.scenarios import CLIENTS, wrong

_HEAD = ("how it fails", "reason in the status", "s until then", "requests", "failed", "cut", "what the status says")


def never_healthy(lab: Rollouts) -> Section:
    """One after another."""
    section = Section("Versions that never become healthy", _HEAD)
    registry = Registry()
    registry.start()
    try:
        for name, fault in faults(registry).items():
            with section.trying(name):
                verdict = commit_and_revert(lab, fault, clients=CLIENTS)
                seen = verdict.seen
                total = sum(report.total for report in seen.reports.values())
                counts = (f"{verdict.seconds:.1f}", total, len(seen.failures), len(seen.cut))
                message = verdict.message.replace(registry.host, "registry.example.com")
                section.add((name, fault.reason, *counts, message), [*wrong(seen), *verdict.wrong])
    finally:
        registry.destroy()
    return section
