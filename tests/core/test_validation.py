"""What the golden files of test_manifest.py and test_settings.py do not show."""

from __future__ import annotations

import socket
import time

import pytest

from reconciler.core.document import read
from reconciler.core.node import MOST_PROBLEMS, Node
from reconciler.core.validation import Validator, listed, suggestion


def node(text: str) -> Node:
    root = read("a.yaml", text.encode()).root
    assert root is not None
    return root


def said(schema: dict[str, object], text: str) -> list[str]:
    return [str(problem) for problem in Validator(schema, {}).check(node(text)).problems]


def test_a_line_end_does_not_slip_through_a_pattern() -> None:
    schema: dict[str, object] = {"type": "string", "pattern": "^[a-z.]+$", "patternErrorMessage": "must be a word"}
    assert said(schema, "a.example") == []
    assert said(schema, '"a.example\\n"') == ["a.yaml:1:1: the file must be a word, not 'a.example\\n'"]


def test_digits_are_ascii() -> None:
    schema: dict[str, object] = {"type": "string", "pattern": r"^\d$", "patternErrorMessage": "must be a digit"}
    assert said(schema, "'5'") == []
    assert said(schema, "'٣'") != []


def test_references_across_files_and_what_stands_beside_them() -> None:
    others = {"b.json": {"$defs": {"x": {"$ref": "#/$defs/y", "maximum": 5}, "y": {"type": "integer", "minimum": 1}}}}
    schema = {"properties": {"a": {"$ref": "b.json#/$defs/x"}}}
    validator = Validator(schema, others)
    assert [str(each) for each in validator.check(node("a: 9")).problems] == [
        "a.yaml:1:4: 'a' must be from 1 to 5, not 9"
    ]


def test_an_unknown_reference_is_an_error_and_not_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(KeyError):
        Validator({"$ref": "http://127.0.0.1:9/x.json#/a"}, {})


def test_a_keyword_without_words_of_ours_still_gives_a_problem() -> None:
    assert said({"multipleOf": 2}, "3") == ["a.yaml:1:1: the file does not satisfy the schema's 'multipleOf'"]


def test_problems_at_a_place_that_was_told_are_left_out() -> None:
    document = read("a.yaml", b"a: *b\nc: 1")
    assert document.root is not None
    schema = {"properties": {"a": {"type": "string"}, "c": {"type": "string"}}}
    findings = Validator(schema, {}).check(document.root, told=document.problems)
    assert [(problem.line, problem.column) for problem in findings.problems] == [(2, 4)]
    assert findings.damaged_keys == {"a", "c"}


def test_unknown_keys_damage_nothing() -> None:
    findings = Validator({"properties": {"a": {"properties": {}, "additionalProperties": False}}}, {}).check(
        node("a: {x: 1}")
    )
    assert len(findings.problems) == 1
    assert findings.damaged == frozenset()


def test_thousands_of_unknown_keys_are_cut_short() -> None:
    began = time.perf_counter()
    text = "\n".join(f"imagee{number}: 1" for number in range(9_000))
    assert len(said({"properties": {"image": {}}, "additionalProperties": False}, text)) == MOST_PROBLEMS
    assert time.perf_counter() - began < 10


def test_suggestions() -> None:
    known = ["image", "working_dir", "db", "shop"]
    assert suggestion("imgae", known) == "; did you mean 'image'?"
    assert suggestion("Working-Dir", known) == "; did you mean 'working_dir'?"
    assert suggestion("dv", known) == "; did you mean 'db'?"
    assert suggestion("unrelated", known) == ""
    assert suggestion("x" * 100_000, known) == ""


def test_lists_end() -> None:
    assert listed(["a", "$schema", "b"]) == "a, b"
    assert listed([str(number) for number in range(45)]).endswith("39 and 5 more")
