from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import NOW, app, converged, desired, steps, wanted, without

from reconciler.core.memory import Due, Quarantined, Retry, Suspended, Way
from reconciler.core.model import Task
from reconciler.core.status import AppStatus
from reconciler.core.target import Blocked, Target

LATER = NOW + 10_000


def conditions(status: AppStatus) -> dict[str, tuple[bool, str, str]]:
    return {each.type: (each.status, each.reason, each.message) for each in status.conditions}


def test_an_app_that_is_as_it_should_be_says_so_everywhere() -> None:
    end = converged(desired(app(replicas=2)))
    status = steps(end.wanted, end.observed, end.memory, LATER).statuses["shop"]
    assert (status.sync, status.health, status.reason) == ("Synced", "Healthy", "Applied")
    assert (status.replicas_desired, status.replicas_running, status.replicas_healthy) == (2, 2, 2)
    assert len(status.addresses) == 2
    assert conditions(status) == {
        "Ready": (True, "Applied", "runs as the repository says"),
        "Healthy": (True, "Healthy", "2 of 2 running replicas are healthy"),
        "Progressing": (False, "Idle", ""),
        "Stalled": (False, "Applied", ""),
    }


def test_what_bars_the_tip_comes_first_and_what_is_done_meanwhile_after_it() -> None:
    end = converged(desired(app()))
    wrong = "apps/shop/app.yaml:3:1: unknown key"
    held = wanted(shop=Target("shop", desired(app()), Blocked("InvalidManifest", wrong)))
    status = steps(held, end.observed, end.memory, LATER).statuses["shop"]
    assert (status.sync, status.health) == ("OutOfSync", "Healthy")
    assert conditions(status)["Stalled"] == (True, "InvalidManifest", wrong)
    status = steps(held, without(end.observed, "shop"), end.memory, LATER).statuses["shop"]
    assert status.message.startswith(f"{wrong} (container shop.1.")
    assert conditions(status)["Progressing"][0], "it is repaired meanwhile"


def test_an_app_that_nobody_may_touch_is_suspended_whatever_it_is_like() -> None:
    end = converged(desired(app()))
    memory = replace(end.memory, suspended={"shop": Suspended(NOW, "holiday")})
    for observed in (end.observed, without(end.observed, "shop")):
        status = steps(end.wanted, observed, memory, LATER).statuses["shop"]
        assert (status.health, status.reason) == ("Suspended", "Suspended")
        assert not conditions(status)["Ready"][0]


@pytest.mark.parametrize(("fingerprint", "health"), [("", "Missing"), ("another", "Progressing")])
def test_who_waits_for_another_try_makes_no_progress_but_another_version_does(fingerprint: str, health: str) -> None:
    retries = {"shop": Retry(LATER + 60, 3, "EngineDown", "Docker is away", fingerprint)}
    end = converged(desired(app()))
    gone = without(end.observed, "shop")
    status = steps(end.wanted, gone, replace(end.memory, retries=retries), LATER).statuses["shop"]
    assert status.health == health


def test_last_words_are_those_of_what_holds_it_up_and_no_more_than_fit() -> None:
    end, version = converged(desired(app())), desired(app())
    words = "\n".join(f"line {number} {'x' * 400}" for number in range(60))
    quarantined = {"shop": Quarantined(version.trial, "CrashLoop", "it ended", version.revision, NOW, words)}
    memory = replace(end.memory, quarantined=quarantined)
    held = wanted(shop=Target("shop", version, Blocked("CrashLoop", "it ended")))
    said = steps(held, end.observed, memory, LATER).statuses["shop"].last_words
    assert said.endswith(f"line 59 {'x' * 400}")
    assert (len(said), "line 10 " in said) == (16_000, False)
    held = wanted(shop=Target("shop", version, Blocked("InvalidManifest", "broken")))
    assert steps(held, end.observed, memory, LATER).statuses["shop"].last_words == "", "that was another reason"
    assert steps(end.wanted, end.observed, memory, LATER).statuses["shop"].last_words == "", "it is over"


def test_an_after_deploy_that_failed_has_last_words_too() -> None:
    version = desired(app(after_deploy=Task(("notify",))))
    end = converged(version)
    due = Due(version.fingerprint, Way(), NOW, cause="AfterDeployFailed", message="it ended", logs="no such table")
    status = steps(end.wanted, end.observed, replace(end.memory, due={"shop": due}), LATER).statuses["shop"]
    assert (status.reason, status.last_words, status.health) == ("AfterDeployFailed", "no such table", "Healthy")
