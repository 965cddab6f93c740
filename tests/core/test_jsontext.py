"""What the golden files of test_manifest.py and the comparison in test_document.py do not show."""

from __future__ import annotations

import time

import pytest

from reconciler.core.jsontext import JsonReader
from reconciler.core.node import Unreadable


def test_escapes_and_spaces() -> None:
    reader = JsonReader("a.json", ' \r\n\t{ "\\u0061\\/\\ud83d\\ude00" : [ ] , "b" : { } }\n')
    assert reader.read().value == {"a/😀": [], "b": {}}
    assert reader.problems == []


def test_control_characters_by_escape() -> None:
    reader = JsonReader("a.json", '{"a": "\\u0000", "\\u0007": 1, "b": "\\t\\n"}')
    reader.read()
    assert [(problem.line, problem.column) for problem in reader.problems] == [(1, 7), (1, 17)]


@pytest.mark.parametrize(
    "word", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "True", "None", "undefined", "1e"]
)
def test_words_that_are_not_json(word: str) -> None:
    with pytest.raises(Unreadable, match="text must stand in double quotes"):
        JsonReader("a.json", word).read()


def test_numbers_keep_their_digits() -> None:
    root = JsonReader("a.json", "[1.10, 123456789012345678901234567890, 1E400]").read()
    assert [item.text for item in root.items] == ["1.10", "123456789012345678901234567890", "1E400"]
    assert root.value == [1.1, "123456789012345678901234567890", "1E400"]


def test_a_long_open_text_is_given_up_at_once() -> None:
    began = time.perf_counter()
    with pytest.raises(Unreadable, match="never closed"):
        JsonReader("a.json", '"' + "\\\\a" * 80_000).read()
    assert time.perf_counter() - began < 2
