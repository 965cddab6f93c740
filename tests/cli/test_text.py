from __future__ import annotations

import io
import os
import pty
from dataclasses import replace

import pytest

from reconciler.cli.text import (
    Style,
    age,
    breadth,
    clean,
    count,
    duration,
    listed,
    moment,
    pad,
    rehearsed,
    shorten,
    terminal_width,
    widths,
    wrapped,
)
from reconciler.core.memory import Rehearsed


def test_a_pipe_gets_no_colours_and_no_width() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        assert Style.of(stream, {"TERM": "xterm"}) == Style()
    assert Style.of(io.StringIO(), {}).width == 0


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)],
)
def test_a_terminal_gets_colours_unless_somebody_minds(environment: dict[str, str], *, colour: bool) -> None:
    main, other = pty.openpty()
    try:
        with os.fdopen(other, "w") as stream:
            style = Style.of(stream, environment)
            assert style.terminal
            assert style.colour is colour
            assert Style.of(stream, {"COLUMNS": "77"}).width == 77
            assert terminal_width(stream, {"COLUMNS": "wide"}) == os.get_terminal_size(stream.fileno()).columns
    finally:
        os.close(main)


def test_colours_are_only_written_where_they_are_wanted() -> None:
    assert Style().bad("x") == "x"
    assert Style(colour=True).bad("x") == "\x1b[31mx\x1b[0m"
    assert Style(colour=True).bold("") == ""


def test_what_others_wrote_cannot_reach_the_terminal_as_commands() -> None:
    assert clean("a\x1b[31mb\nc\td\x9b\u202e\u200b") == r"a\x1b[31mb c d\x9b\u202e\u200b"
    assert clean("Zoë 猫") == "Zoë 猫"
    assert clean("odd \udcff byte") == r"odd \udcff byte"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.04, "0 s"),
        (1.4, "1.4 s"),
        (5, "5 s"),
        (59.7, "1 min"),
        (130, "2 min 10 s"),
        (3_600, "1 h"),
        (11_100, "3 h 5 min"),
        (176_400, "2 d 1 h"),
    ],
)
def test_durations_are_as_exact_as_they_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (59, "59s"), (60, "1m"), (7_300, "2h"), (400_000, "4d")])
def test_ages_fit_a_column(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_moments_are_in_utc_and_never_fail() -> None:
    assert moment(1_800_000_000) == "2027-01-15 08:00:00Z"
    assert moment(float("inf")) == "?"
    assert moment(1e30) == "?"


def test_small_words() -> None:
    assert (count(1, "app"), count(0, "app")) == ("1 app", "0 apps")
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_columns_are_counted_as_a_terminal_shows_them() -> None:
    assert breadth("猫e\u0301") == 3
    assert shorten("abcdefgh", 6) == "abc..."
    assert shorten("猫猫猫猫", 6) == "猫..."
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 2) == ".."
    assert pad("猫", 4) == "猫  "
    assert widths([("a", "bbb"), ("猫", "")]) == [2, 3]


def test_long_texts_are_wrapped_between_words_but_not_before_a_unit() -> None:
    assert wrapped("wait at most 20 min for it", 20, "  1. ") == ["  1. wait at most", "     20 min for it"]
    assert wrapped("one two", 0, "- ") == ["- one two"]
    assert wrapped("averylongword b", 6, "", "  ") == ["averylongword", "  b"]
    assert wrapped("", 10, "x") == ["x"]


def test_whether_an_app_could_go_back_is_an_answer() -> None:
    answer = Rehearsed("f2", "f1", True, "RehearsalPassed", "", "r", 1_800_000_000.0)
    assert rehearsed(answer) == "yes, rehearsed at 2027-01-15 08:00:00Z with the data as it was then"
    assert rehearsed(replace(answer, ready=False, message="a\x1b[2J")).startswith("no, as of 2027-01-15 08:00:00Z: a")
    assert "\x1b" not in rehearsed(replace(answer, ready=False, message="a\x1b[2J"))
