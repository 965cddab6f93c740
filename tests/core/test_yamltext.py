"""What the golden files of test_manifest.py do not show."""

from __future__ import annotations

import pytest

from reconciler.core import document
from reconciler.core.node import Unreadable
from reconciler.core.yamltext import YamlReader


def read(text: str) -> tuple[object, list[str]]:
    reader = YamlReader("a.yaml", text)
    return reader.read().value, [str(problem) for problem in reader.problems]


def test_block_and_flow_and_comments() -> None:
    assert read("# c\n---\na:\n- b\n- - c\n  - {d: e}\nf: >-\n  g\n  h\n...\n") == (
        {"a": ["b", ["c", {"d": "e"}]], "f": "g h"},
        [],
    )


def test_what_is_left_out_stays_out() -> None:
    value, problems = read("a: 1\n<<: {x: y}\n2: {p: q}\na: 3\nb: [*c, d]\n")
    assert value == {"a": 1, "b": [None, "d"]}
    assert [problem.split(":")[1:3] for problem in problems] == [["2", "1"], ["3", "1"], ["4", "1"], ["5", "5"]]


def test_an_alias_within_a_merge_is_told_once() -> None:
    _, problems = read("a: {<<: *b}\n")
    assert problems == ["a.yaml:1:5: merge keys (<<) are not allowed; write the keys out"]


def test_a_quoted_merge_key_is_a_key() -> None:
    assert read('"<<": x\n') == ({"<<": "x"}, [])


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n"])
def test_nothing_at_all(text: str) -> None:
    with pytest.raises(Unreadable, match=r"a\.yaml:1:1: the file is empty"):
        read(text)


BROKEN = ["a: b: c", "a: [", "a: 'b", "[a\nb: c", "a\nb\nc: d", "{", "? [", "- a\nb", "!", "%", "&"]


@pytest.mark.parametrize("text", BROKEN)
def test_places_of_errors_lie_in_the_text(text: str) -> None:
    for whole in (text, text + "\n", text + "\n\n"):
        problems = document.read("a.yaml", whole.encode()).problems
        assert problems
        for problem in problems:
            assert problem.column <= len(whole.split("\n")[problem.line - 1]) + 1
