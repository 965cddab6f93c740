"""The texts themselves are in ``golden/``: read them, they are what people get. UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from harness.builders import SUBNET, converged, desired, wanted
from harness.golden import assert_golden
from harness.plans import COMMIT, DB, LATER, SHOP, SITUATIONS, TOKENS, Situation
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.cli.plan_text import plan_json, plan_text
from reconciler.cli.render_text import render_json, render_text
from reconciler.cli.text import Style
from reconciler.core import serialise
from reconciler.core.model import App, Commit, Secret, SecretsFile, Task, Volume
from reconciler.core.plan import plan
from reconciler.core.simulate import forecast
from reconciler.core.target import Blocked, Pull, Target

GOLDEN = Path(__file__).parent / "golden"
ESCAPES = re.compile("\x1b\\[[0-9]+m")


def text_of(situation: Situation, style: Style) -> str:
    return plan_text(
        situation.forecast,
        situation.start,
        COMMIT,
        situation.observed,
        style,
        host="web-1",
        applied=situation.applied,
    )


def json_of(situation: Situation) -> str:
    read = plan_json(
        situation.forecast, situation.start, COMMIT, situation.observed, host="web-1", applied=situation.applied
    )
    return serialise.text(read, indent=2)


@pytest.mark.parametrize("name", SITUATIONS)
def test_plans_read_as_they_should(name: str) -> None:
    assert_golden(GOLDEN / f"{name}.txt", text_of(SITUATIONS[name](), Style(width=100)))


def test_the_same_for_machines() -> None:
    assert_golden(GOLDEN / "upgrade.json", json_of(SITUATIONS["upgrade"]()))


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_situation_shows_a_secret_or_an_escape_sequence(name: str) -> None:
    situation = SITUATIONS[name]()
    for text in (text_of(situation, Style()), json_of(situation)):
        assert not any(token in text for token in TOKENS)
        assert "\x1b" not in text


@pytest.mark.parametrize("name", SITUATIONS)
def test_colours_change_nothing_but_colours(name: str) -> None:
    situation = SITUATIONS[name]()
    coloured = text_of(situation, Style(colour=True, terminal=True, width=80))
    assert ESCAPES.search(coloured)
    assert ESCAPES.sub("", coloured) == text_of(situation, Style(width=80))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_line_fits_the_terminal(name: str) -> None:
    text = text_of(SITUATIONS[name](), Style(width=72))
    # The head of an app and a single long word stand on their own line, whatever the width.
    assert [line for line in text.splitlines() if len(line) > 72 and line[:2] not in {"~ ", "+ ", "- ", "! "}] == []


def test_a_working_tree_has_no_revision() -> None:
    situation = SITUATIONS["upgrade"]()
    tree = Commit("0" * 40, "", "after 1a2b3c4d", 0)
    text = plan_text(situation.forecast, situation.start, tree, situation.observed, Style())
    assert text.startswith("To bring this host to the working tree (after 1a2b3c4d) 1 of 2 apps changes")


def test_a_plan_for_machines_says_what_the_exit_code_will_be() -> None:
    read = json.loads(json_of(SITUATIONS["recreate"]()))
    assert read["exit_code"] == 2
    assert read["in_sync"] is False
    assert read["host"] == "web-1"
    assert read["changes"][0]["down"]["at_most"] == 150
    assert json.loads(json_of(SITUATIONS["nothing-to-do"]()))["exit_code"] == 0


# --- whatever happens, no secret ------------------------------------------------------------------------------------

secrets = st.text("0123456789abcdef", min_size=8, max_size=8).map(lambda text: f"S3CRET-{text}".encode())


@st.composite
def apps(draw: st.DrawFn) -> App:
    base = draw(st.sampled_from((SHOP, DB)))
    return replace(
        base,
        image=f"{base.name}:{draw(st.integers(1, 3))}",
        replicas=draw(st.integers(1, 3)),
        environment=draw(st.dictionaries(st.sampled_from(("LOG_LEVEL", "MODE")), st.sampled_from(("a", "b")))),
        secrets=SecretsFile("s.yaml", draw(st.sampled_from(((), ("DATABASE_URL",), ("payment_key",))))),
        before_deploy=draw(st.none() | st.just(Task(("migrate",)))),
        volumes=draw(st.sampled_from(((), (Volume("data", "/data"),)))),
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(apps(), max_size=2, unique_by=lambda one: one.name))
def test_no_forecast_whatsoever_shows_a_secret(data: st.DataObject, before: list[App]) -> None:
    def hidden() -> dict[str, bytes]:
        return {"DATABASE_URL": data.draw(secrets), "payment_key": data.draw(secrets)}

    ran = {one.name: desired(one, image=f"sha256:{one.image}", secrets=hidden()) for one in before}
    there = converged(*ran.values())
    targets = {}
    for one in data.draw(st.lists(apps(), max_size=2, unique_by=lambda one: one.name)):
        tip = desired(one, image=f"sha256:{one.image}", secrets=hidden())
        old = ran.get(one.name)
        pull = Pull(one.image, COMMIT.sha, ("ci", Secret(b"S3CRET-registry")), False, tip)
        targets[one.name] = data.draw(
            st.sampled_from(
                (
                    Target(one.name, tip),
                    Target(one.name, old, Blocked("CrashLoop", "it crashed")),
                    Target(one.name, old or tip, Blocked("Pulling", "") if old else None, pull),
                )
            )
        )
    asked = wanted(*(t.desired for t in targets.values() if t.desired), revision=COMMIT.sha, **targets)
    start = plan(asked, there.observed, there.memory, SUBNET, LATER)
    end = forecast(asked, there.observed, there.memory, SUBNET, LATER)
    texts = (
        plan_text(end, start, COMMIT, there.observed, Style()),
        serialise.text(plan_json(end, start, COMMIT, there.observed)),
        render_text(targets, Style()),
        serialise.text(render_json(targets)),
    )
    assert not any("S3CRET" in text for text in texts)
