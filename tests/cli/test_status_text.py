from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.golden import assert_golden

from reconciler.cli.status_text import status_text
from reconciler.cli.text import Style, breadth
from reconciler.core.model import Commit, Problem
from reconciler.core.status import AppStatus, Condition, HealthWord, HostStatus, Revisions, Sync

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_800_000_000.0
PROBLEMS = (
    Problem("apps/api/app.yaml", 4, 1, 'unknown key "imgae"; did you mean "image"?', "api"),
    Problem("apps/x/App.yaml", 0, 0, "is never read; did you mean app.yaml?", None, "warning"),
)


def app(name: str, sync: Sync = "Synced", health: HealthWord = "Healthy", **changes: Any) -> AppStatus:
    status = AppStatus(
        name=name,
        sync=sync,
        health=health,
        reason="Applied",
        message="runs as the repository says",
        revisions=Revisions("1a2b3c4d" * 5, "1a2b3c4d" * 5, "1a2b3c4d" * 5),
        image=f"registry.example.com/shop/{name}:2.3.1",
        replicas_desired=2,
        replicas_running=2,
        replicas_healthy=2,
        conditions=(Condition("Ready", sync == "Synced", "Applied", "", NOW - 4_000),),
        applied_at=NOW - 400_000,
    )
    return replace(status, **changes)


def host(*apps: AppStatus, **changes: Any) -> HostStatus:
    status = HostStatus(
        host="web-1",
        version="1",
        at=NOW - 3,
        verdict="",
        result="converged",
        apps={one.name: one for one in apps},
        commit=Commit("1a2b3c4d" * 5, "Ada", "raise the limit", NOW - 60),
        last_fetch_at=NOW - 9,
    )
    return replace(status, **changes)


def troubled() -> HostStatus:
    return host(
        app("shop"),
        app("payments-worker", health="Degraded", replicas_healthy=1, reason="Unhealthy", message="GET /up: 500"),
        app("api", "OutOfSync", reason="InvalidManifest", message=str(PROBLEMS[0])),
        app(
            "mail",
            "OutOfSync",
            "Missing",
            reason="ImageNotFound",
            message="registry.example.com/mail:9 is not there",
            replicas_desired=1,
            replicas_running=0,
            replicas_healthy=0,
            next_retry=NOW + 34,
            revisions=Revisions(),
        ),
        result="blocked",
        problems=PROBLEMS,
        faults=(("NginxDidNotLoad", "nginx went on with the old configuration: port 80 is taken"),),
    )


@pytest.mark.parametrize("width", [0, 100, 70, 44])
def test_trouble_reads_as_it_should_at_every_width(width: int) -> None:
    assert_golden(GOLDEN / f"status-{width}.txt", status_text(troubled(), Style(), now=NOW, width=width))


def test_the_last_words_of_what_was_given_up_stand_below_it() -> None:
    words = "one\ntwo\nthree\nfour\nfive\n\x1b[31mthe database is not there"
    text = status_text(
        host(app("shop", "OutOfSync", reason="CrashLoop", message="it ended 3 times", last_words=words)),
        Style(),
        now=NOW,
        width=0,
    )
    block = text.split("shop: it ended 3 times\n")[1].split("\n\n")[0].splitlines()
    assert block[0] == "    | two"
    assert block[4].endswith("the database is not there")
    assert "\x1b" not in text


def test_where_all_is_well_there_is_one_table_and_one_sentence() -> None:
    assert_golden(GOLDEN / "status-calm.txt", status_text(host(app("shop"), app("db")), Style(), now=NOW, width=0))


def test_no_line_is_wider_than_the_terminal() -> None:
    for width in range(40, 140):
        lines = status_text(troubled(), Style(), now=NOW, width=width).splitlines()
        assert max(map(breadth, lines)) <= width


def test_every_app_is_in_the_table_however_narrow() -> None:
    for width in (0, 100, 60, 40):
        rows = status_text(troubled(), Style(), now=NOW, width=width).split("\n\n")[0].splitlines()
        assert [row[:4] for row in rows] == ["APP ", "api ", "mail", "paym", "shop"]


def test_a_status_that_is_old_says_so_first() -> None:
    old = status_text(
        host(app("shop")), Style(), now=NOW + 177, width=0, stale="the agent is not running"
    ).splitlines()[-1]
    assert old.startswith("The agent is not running; this is what it saw 3 min ago: web-1 runs as 1a2b3c4d")


def test_a_repository_that_was_not_reached_for_long_is_said() -> None:
    late = status_text(host(app("shop"), last_fetch_at=NOW - 7_200), Style(), now=NOW, width=0)
    never = status_text(host(app("shop"), last_fetch_at=None), Style(), now=NOW, width=0)
    assert "the repository was reached 2 h ago" in late
    assert "the repository was not reached yet" in never


def test_a_refusal_that_holds_up_several_apps_is_told_once() -> None:
    refusal = "1a2b3c4d removes 3 of 3 apps; reconciler accept 1a2b3c4d"
    held = [app(name, "OutOfSync", reason="PruneBlocked", message=refusal) for name in ("a", "b", "c")]
    text = status_text(host(*held, faults=(("PruneBlocked", refusal),)), Style(), now=NOW, width=0)
    assert text.count(refusal) == 1


def test_an_empty_host_and_one_that_never_saw_a_commit() -> None:
    text = status_text(host(commit=None, result="failed"), Style(), now=NOW, width=0)
    assert text.splitlines() == ["No apps on web-1.", "", "web-1 cannot follow the repository; seen 3 s ago."]


def test_colours_change_nothing_but_colours() -> None:
    coloured = status_text(troubled(), Style(colour=True), now=NOW, width=90)
    assert "\x1b[31m" in coloured
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == status_text(troubled(), Style(), now=NOW, width=90)


def test_who_could_go_back_is_named_and_who_could_not_is_a_notice() -> None:
    ready = Condition("RollbackReady", True, "RehearsalPassed", "it became healthy", NOW - 720)
    status = host(app("shop", conditions=(ready,)), app("mail"), app("api", conditions=(replace(ready, status=False),)))
    status = replace(status, faults=(("RollbackNotReady", "api could not go back: no such column: total"),))
    text = status_text(status, Style(), now=NOW, width=0)
    assert "Rehearsed, and could go back: shop (12 min ago)." in text
    assert "! RollbackNotReady: api could not go back: no such column: total" in text
    assert "go back: " not in status_text(host(app("mail")), Style(), now=NOW, width=0)
