from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness.builders import NOW, app, changed, container, converged, desired, steps

from reconciler.core import actions as act

LATER = NOW + 10_000


@pytest.mark.parametrize(
    ("change", "repair"),
    [
        ({"state": "exited"}, "StartContainer"),
        ({"state": "paused"}, "Unpause"),
        ({"state": "dead"}, "RemoveContainer"),
        ({"address": None}, "Reconnect"),
    ],
)
def test_each_kind_of_drift_has_the_gentlest_repair(change: dict[str, Any], repair: str) -> None:
    end = converged(desired(app(replicas=2)))
    made = steps(end.wanted, changed(end.observed, "shop.2.", **change), end.memory, LATER)
    assert any(action.drift and type(action).__name__ == repair for action in made.actions)


def test_changed_limits_are_set_back() -> None:
    end = converged(desired(app()))
    limits = container(end, "shop").limits
    assert limits is not None
    made = steps(end.wanted, changed(end.observed, "shop", limits=replace(limits, memory=5)), end.memory, LATER)
    assert made.actions == (
        act.UpdateLimits(
            "shop", made.actions[0].reason, container(end, "shop").id, container(end, "shop").name, limits, drift=True
        ),
    )
