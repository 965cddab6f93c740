from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.walk import Walk

from reconciler.core import actions as act
from reconciler.core.model import Commit
from reconciler.core.plan import Plan
from reconciler.core.status import AppStatus, Condition
from reconciler.errors import Unavailable
from reconciler.report import Report, Seen, verdict

TIP = Commit("3fa9c2d1" + "0" * 32, "Ada", "The shop", 1.0)
SEEN = Seen(TIP, (), (), None)
WORK = act.SetName("shop", "why", ())
REHEARSAL = act.EndRehearsal("shop", "why", "c", "shop.rehearsal.f", 1.0)


class Desk:
    """A report over a real store and real metrics, with a clock that stands still."""

    def __init__(self, tmp_path: Path) -> None:
        self.walk = Walk(tmp_path)
        self.now = 100.0
        self.report = Report("web-1", self.walk.store, self.walk.metrics, lambda: self.now)

    def kept(self) -> float:
        """When the status that the store has was written."""
        found = self.walk.store.status()
        assert found is not None
        assert self.report.status is not None
        assert json.loads(found[0])["verdict"]
        return found[1]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    try:
        yield desk
    finally:
        desk.walk.close()


def app(name: str = "shop", reason: str = "Applied", *, stalled: bool = False, health: str = "Healthy") -> AppStatus:
    sync, conditions = ("OutOfSync" if stalled else "Synced"), (Condition("Stalled", stalled, reason, "because"),)
    return AppStatus(name, sync, health, reason, "because", conditions=conditions)  # type: ignore[arg-type]  # one of the words


def plan(*apps: AppStatus, **values: object) -> Plan:
    return Plan(statuses={each.name: each for each in apps}, **values)  # type: ignore[arg-type]  # fields of Plan


@pytest.mark.parametrize(
    ("made", "faults", "busy", "result"),
    [
        (plan(app()), (), False, "converged"),
        (plan(app()), (), True, "progressing"),
        (plan(app(), actions=(WORK,)), (), False, "progressing"),
        (plan(app(), actions=(REHEARSAL,), wake_at=200.0), (), False, "converged"),
        (plan(app()), (("RollbackNotReady", "no such column"),), False, "converged"),
        (plan(app(stalled=True)), (), False, "blocked"),
        (plan(app(stalled=True), wake_at=200.0), (), False, "progressing"),
        (plan(app()), (("GitUnreachable", "nobody listens"),), False, "blocked"),
        (plan(app()), (("ImageNotRemoved", "in use"), ("StoreDamaged", "moved aside")), False, "converged"),
    ],
)
def test_the_result_says_whether_anything_moves_or_stands_in_the_way(
    desk: Desk,
    made: Plan,
    faults: tuple[tuple[str, str], ...],
    busy: bool,  # noqa: FBT001  (a case)
    result: str,
) -> None:
    told = desk.report.walked(made, Seen(TIP, (), faults, 90.0), busy=busy)
    assert told is desk.report.status
    assert (told.result, told.host, told.last_fetch_at) == (result, "web-1", 90.0)
    assert told.verdict.startswith(f"{result} at 3fa9c2d1: 1 app")
    for reason, message in faults:
        assert f"{reason}: {message}" in told.verdict


def test_one_sentence_names_five_and_counts_the_others() -> None:
    statuses = {name: app(name, "Pulling", stalled=True) for name in "gfedcba"}
    statuses |= {"x": app("x", health="Degraded")}
    assert verdict(TIP, statuses, (("NginxDown", "it is gone"),), "progressing") == (
        "progressing at 3fa9c2d1: 8 apps; not in sync: a (Pulling), b (Pulling), c (Pulling), d (Pulling), e (Pulling)"
        " and 2 more; not healthy: x; NginxDown: it is gone"
    )


def test_a_walk_that_failed_keeps_what_was_known_and_says_that_it_is_old(desk: Desk) -> None:
    desk.report.walked(plan(app()), SEEN, busy=False)
    told = desk.report.failed(Unavailable("Docker is away", reason="EngineDown"), None, (("EngineDown", "away"),), 90.0)
    assert (told.result, told.verdict, told.commit) == ("failed", "failed: Docker is away", TIP)
    assert (told.apps["shop"].sync, told.apps["shop"].health) == ("Unknown", "Healthy")
    assert told.faults == (("EngineDown", "away"),)


def test_the_store_hears_of_changes_at_once_and_else_once_a_minute(desk: Desk) -> None:
    desk.report.walked(plan(app()), SEEN, busy=False)
    desk.now = 130.0
    desk.report.walked(plan(app()), SEEN, busy=False)
    assert desk.kept() == 100.0
    desk.now = 131.0
    desk.report.walked(plan(app("other")), SEEN, busy=True)
    assert desk.kept() == 131.0
    desk.now = 191.0
    desk.report.walked(plan(app("other")), SEEN, busy=True)
    assert desk.kept() == 191.0


def test_conditions_keep_the_time_of_their_last_change(desk: Desk) -> None:
    first = desk.report.walked(plan(app()), SEEN, busy=False).apps["shop"]
    desk.now = 150.0
    assert desk.report.walked(plan(app()), SEEN, busy=False).apps["shop"] is first
    (condition,) = desk.report.walked(plan(app(stalled=True)), SEEN, busy=False).apps["shop"].conditions
    assert (first.conditions[0].since, condition.since) == (100.0, 150.0)


def test_a_refusal_is_logged_and_written_down_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        desk.report.walked(plan(app(reason="InvalidManifest", stalled=True), app("other")), SEEN, busy=False)
    (entry,) = desk.walk.store.history(None, 10)
    assert (entry.app, entry.event, entry.author, entry.reason) == (
        "shop",
        "refused",
        "Ada",
        "InvalidManifest: because",
    )
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "because" in record.getMessage()]
    assert said == [("WARNING", "shop: InvalidManifest: because"), ("INFO", "other: Applied: because")]
    desk.report.walked(plan(app("other")), SEEN, busy=False)
    desk.report.walked(plan(app(reason="InvalidManifest", stalled=True)), SEEN, busy=False)
    assert len(desk.walk.store.history("shop", 10)) == 2, "it was mended, and came again"


def test_what_a_canary_has_counted_so_far_is_shown_and_not_logged_each_time(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for message in (
        "at 10 % for 3 more minutes: 5 requests",
        "at 10 % for 3 more minutes: 9 requests",
        "at 10 % for 99 more seconds: 9 requests",
        "at 50 % for 3 more minutes: 9 requests",
    ):
        told = desk.report.walked(plan(replace(app(reason="Canary"), message=message)), SEEN, busy=False)
        assert told.apps["shop"].message == message
    said = [record.getMessage() for record in caplog.records if "Canary" in record.getMessage()]
    assert [line.partition("%")[0] for line in said if "requests" in line] == [
        "shop: Canary: at 10 ",
        "shop: Canary: at 50 ",
    ]


def test_a_store_that_cannot_be_written_does_not_keep_the_status_from_people(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("no space left", reason="DiskFull")

    monkeypatch.setattr(desk.walk.store, "save_status", full)
    monkeypatch.setattr(desk.walk.store, "add", full)
    told = desk.report.walked(plan(app(reason="InvalidManifest", stalled=True)), SEEN, busy=False)
    assert told.result == "blocked"
    assert "the status cannot be kept: no space left" in caplog.text
    monkeypatch.undo()
    desk.report.walked(plan(app(reason="InvalidManifest", stalled=True)), SEEN, busy=False)
    assert desk.kept() == 100.0, "it is tried again"


def test_a_condition_that_knows_its_own_time_keeps_it(desk: Desk) -> None:
    rehearsed = Condition("RollbackReady", True, "RehearsalPassed", "it was healthy", 40.0)
    told = desk.report.walked(plan(replace(app(), conditions=(rehearsed,))), SEEN, busy=False)
    assert [c.since for c in told.apps["shop"].conditions] == [40.0]
