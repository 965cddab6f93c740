from __future__ import annotations

import re
from pathlib import Path

from harness.golden import assert_golden

from reconciler.cli.history_text import history_json, history_text
from reconciler.cli.text import Style, breadth
from reconciler.core import serialise
from reconciler.protocols import HistoryEntry

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_800_000_000.0
NEW, OLD = "1a2b3c4d" * 5, "0a0b0c0d" * 5
ENTRIES = (
    HistoryEntry(
        NOW - 3, "shop", "rolled back", OLD, "f1", "shop:1", "Ada", "Revert it", "image shop:2 -> shop:1", 2.1
    ),
    HistoryEntry(NOW - 90, "db", "repaired", reason="container db.1.3fa9c2d1 is gone"),
    HistoryEntry(NOW - 300, "shop", "failed", NEW, "f2", "", "Bob", "Try", "CrashLoop: shop.1.3fa9c2d1 ended 3 times"),
    HistoryEntry(NOW - 4_000, "shop", "deployed", OLD, "f1", "shop:1", "Ada", "Hello", "first deployment", 64.0),
    HistoryEntry(NOW - 90_000, "", "accepted", OLD, author="a name\x1b[2J that goes on and on"),
)


def test_history_reads_as_it_should() -> None:
    assert_golden(GOLDEN / "history.txt", history_text(ENTRIES, Style(), NOW))


def test_a_terminal_cuts_what_happened_and_nothing_else() -> None:
    lines = history_text(ENTRIES, Style(width=120), NOW).splitlines()
    assert max(map(breadth, lines)) <= 120
    assert lines[3].endswith("...")


def test_no_history() -> None:
    assert history_text((), Style(), NOW) == "Nothing has happened yet."
    assert history_json(()) == []


def test_colours_change_nothing_but_colours() -> None:
    coloured = history_text(ENTRIES, Style(colour=True, width=120), NOW)
    assert "\x1b[32mdeployed" in coloured
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == history_text(ENTRIES, Style(width=120), NOW)


def test_the_same_for_machines_is_complete() -> None:
    first = history_json(ENTRIES)[0]
    assert isinstance(first, dict)
    assert first["duration"] == 2.1
    assert first["at"] == "2027-01-15T07:59:57.000Z"
    assert "\x1b" not in serialise.text(history_json(ENTRIES))
