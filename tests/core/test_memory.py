from __future__ import annotations

from dataclasses import replace

from harness.builders import NOW

from reconciler.core.memory import Due, Way


def test_each_deployment_is_a_run_of_its_own() -> None:
    due = Due("f1", Way(), NOW)
    assert due.run == replace(due, cause="AfterDeployFailed", message="it ended").run
    assert due.run != replace(due, at=NOW + 0.5).run
    assert due.run == Due("f1", Way(), float(repr(NOW))).run, "as the store has it"
