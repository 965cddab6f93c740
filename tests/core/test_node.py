from __future__ import annotations

import pytest

from reconciler.core.document import read
from reconciler.core.model import Problem
from reconciler.core.node import Node, in_order, plain


def node(text: str, path: str = "a.yaml") -> Node:
    root = read(path, text.encode()).root
    assert root is not None
    return root


def test_finding_values() -> None:
    root = node("a: {b: [1, 2]}\nc: x")
    assert [each.value for each in root.each("a", "b")] == [1, 2]
    assert root.each("a", "nothing") == ()
    assert root.at("a", "b", "c") is None
    assert root.at("nothing", "at", "all") is None


def test_merging_keeps_where_each_value_was_written() -> None:
    below = node("env: {A: 1, B: 2}\nlist: [1]\nonly: x\nshape: {a: b}", "fleet.yaml")
    over = node("env: {B: 3}\nlist: [2, 3]\nshape: text", "app.yaml")
    merged = below.merged(over)
    places = {key: (value.path, value.text) for key, value in merged.fields["env"].fields.items()}
    assert places == {"A": ("fleet.yaml", "1"), "B": ("app.yaml", "3")}
    assert [item.text for item in merged.each("list")] == ["2", "3"]
    assert merged.fields["only"].path == "fleet.yaml"
    assert merged.fields["shape"].text == "text"
    assert (merged.path, below.fields["env"].fields["B"].text) == ("app.yaml", "2")


def test_without() -> None:
    root = node("a: 1\nb: 2")
    assert list(root.without({"a"}).fields) == ["b"]
    assert list(root.fields) == ["a", "b"]


def test_problems_point_at_key_or_value() -> None:
    value = node("\n  key: value").fields["key"]
    assert str(value.problem("wrong")) == "a.yaml:2:8: wrong"
    assert str(value.key_problem("wrong", "shop")) == "a.yaml:2:3: wrong"


@pytest.mark.parametrize(("text", "value"), [("", None), ("-", "-"), ("-1", -1), ("0", 0), ("-0", 0), ("00", "00")])
def test_plain_words(text: str, value: object) -> None:
    assert plain(text) == value


def test_in_order_and_each_once() -> None:
    problems = [
        Problem("b", 1, 1, "x"),
        Problem("a", 10, 1, "x", "shop"),
        Problem("a", 2, 1, "x"),
        Problem("b", 1, 1, "x"),
    ]
    problems += [Problem("a", 10, 1, "x", None)]  # cannot be compared with "shop"
    assert [(each.path, each.line, each.app) for each in in_order(problems)] == [
        ("a", 2, None),
        ("a", 10, None),
        ("a", 10, "shop"),
        ("b", 1, None),
    ]
