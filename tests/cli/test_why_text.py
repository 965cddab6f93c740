from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from harness.golden import assert_golden
from harness.whys import NOW, cases

from reconciler.cli.text import Style, breadth
from reconciler.cli.why_text import why_json, why_text
from reconciler.core import serialise

GOLDEN = Path(__file__).parent / "golden"
CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_every_trouble_reads_as_it_should(name: str) -> None:
    assert_golden(GOLDEN / f"why-{name}.txt", why_text(CASES[name], Style(width=100), NOW))


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_page_for_any_terminal_and_obeys_nobody(name: str) -> None:
    plain = why_text(CASES[name], Style(width=60), NOW)
    assert max(map(breadth, plain.splitlines())) <= 60
    assert "\x1b" not in plain
    coloured = why_text(CASES[name], Style(colour=True, width=60), NOW)
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == plain


def test_machines_get_all_of_it() -> None:
    told = json.loads(serialise.text(why_json(CASES["given-up"])))
    assert told["stand"] == "held up"
    assert len(told["last_words"]) == 50
    assert told["commit"]["author"] == "Bob"
    assert told["quarantine"]["cleared_by"][1] == "reconciler retry shop"
    assert told["serves"]["revision"].startswith("1a2b3c4d")
