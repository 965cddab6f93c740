from __future__ import annotations

from reconciler.core import convert
from reconciler.core.document import read
from reconciler.core.model import Volume
from reconciler.core.node import Node


def node(text: str) -> Node:
    root = read("a.yaml", text.encode()).root
    assert root is not None
    return root


def test_given_leaves_out_what_is_not_there() -> None:
    root = node("{a: 5s, b: 1k}")
    assert convert.given(root, a=convert.as_seconds, b=convert.as_bytes, c=convert.as_text) == {"a": 5, "b": 1024}
    assert convert.given(None, a=convert.as_text) == {}


def test_conversions() -> None:
    assert convert.as_int(node("2.0")) == 2
    assert convert.as_float(node("0.5")) == 0.5
    assert convert.as_bool(node("true")) is True
    assert convert.as_bool(node("False")) is False
    assert convert.as_texts(node("[a, 1.10]")) == ("a", "1.10")
    assert convert.as_mapping(node("{a: 1.10}")) == {"a": "1.10"}
    assert convert.as_mode(node("0640")) == 0o640
    assert convert.as_volume(node("a:/b:ro")) == Volume("a", "/b", read_only=True)
    assert convert.as_volume(node("/a:/b")) == Volume("/a", "/b")
