from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from harness.golden import assert_golden

from reconciler.cli.rollback_text import (
    Answer,
    Move,
    answer_json,
    answer_text,
    body,
    commands_anew,
    commands_beside,
    commands_push,
    subject,
)
from reconciler.cli.text import Style, breadth
from reconciler.core import serialise
from reconciler.core.model import Commit

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_800_000_000.0
GOOD, BAD, TIP = "1a2b3c4d" * 5, "5e6f7a8b" * 5, "9c0d1e2f" * 5
MOVE = Move(
    app="shop",
    base=Commit(TIP, "Cy", "Use other 3", NOW - 60),
    to=Commit(GOOD, "Ada", "Use shop 1", NOW - 300_000),
    because="which is what web-1 ran before",
    restore=("apps/shop",),
    files=("apps/shop/app.yaml", "apps/shop/shop.toml"),
    takes_back=(Commit(BAD, "Bob", "Use shop 2\x1b[2J", NOW - 700),),
    why="web-1 gave 5e6f7a8b up: shop.1.3fa9c2d1 ended 3 times before it was healthy, last exit code 1",
)
MOVED = replace(
    MOVE,
    restore=("apps/shop's",),
    remove=("teams/shop",),
    foreign=("teams/shop/worker",),
    takes_back=MOVE.takes_back * 11,
)
DIFF = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-image: shop:2\n+image: shop:1\x1b[31m\n \tkept"
DONE = Answer("rolled back", MOVE, commit=TIP, pushed_to="main of origin", notes=("the fleet file has changed since",))
TOLD = Answer(
    "not done",
    MOVED,
    reason="NoClone",
    message="/root lies in no clone of the config repository",
    commands=commands_anew(MOVED, "ssh://git@git.example.com/config.git", "main"),
)
REFUSED = Answer(
    "not done",
    MOVE,
    commit=TIP,
    reason="PushRefused",
    message="main of origin does not take it: reviewed changes only",
    commands=commands_push(MOVE, Path("/home/ada/config"), "origin", "refs/heads/main", TIP),
)


def test_a_commit_says_what_from_where_to_where_and_why() -> None:
    assert_golden(GOLDEN / "rollback-message.txt", f"{subject(MOVE)}\n\n{body(MOVE)}\n\n----\n\n{body(MOVED)}")


def test_answers_read_as_they_should() -> None:
    asked = replace(DONE, result="would roll back", commit="", diff=DIFF, notes=())
    texts = [
        answer_text(answer, Style(width=100))
        for answer in (DONE, TOLD, REFUSED, asked, replace(DONE, result="unchanged"))
    ]
    assert_golden(GOLDEN / "rollback-answers.txt", "\n\n----\n\n".join(texts))


def test_what_strangers_wrote_does_nothing_to_a_terminal() -> None:
    asked = replace(DONE, result="would roll back", diff=DIFF)
    plain, coloured = answer_text(asked, Style()), answer_text(asked, Style(colour=True))
    assert "\x1b" not in plain
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == plain


def test_only_what_is_for_pasting_is_wider_than_the_terminal() -> None:
    lines = answer_text(DONE, Style(width=60)).splitlines()
    assert max(map(breadth, lines)) <= 60


def test_a_clone_in_use_is_left_alone_by_the_commands() -> None:
    commands = commands_beside(MOVE, Path("/home/ada/my config"), "origin", "refs/heads/main")
    assert commands[0] == "git -C '/home/ada/my config' fetch --quiet origin refs/heads/main"
    assert all("rollback-shop" in command for command in commands[1:])


def test_machines_get_all_of_it() -> None:
    told = json.loads(serialise.text(answer_json(TOLD)))
    assert (told["result"], told["reason"], told["to"]["sha"]) == ("not done", "NoClone", GOOD)
    assert told["commands"][0].startswith("git clone ")
    assert len(told["takes_back"]) == 10
