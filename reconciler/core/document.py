"""Strict YAML and JSON: bytes become nodes that know their place, or problems that know theirs.

What YAML offers and nobody needs in a manifest is refused: anchors and aliases, tags, merge keys, several
documents, keys that are not text, the same key twice. Plain words are read by JSON's rules, so that ``no``, ``on``,
``012``, ``1:30`` and dates stay the text they are.

Invariant: any bytes give an answer in time proportional to their number, and every place lies within the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reconciler.core.jsontext import JsonReader
from reconciler.core.model import Problem
from reconciler.core.node import LARGEST, MOST_PROBLEMS, Node, Unreadable, in_order
from reconciler.core.yamltext import YamlReader

# C0 but for tab and line ends, DEL, C1, line ends that only YAML 1.1 knows (editors would count other lines),
# bidirectional controls, a byte order mark in the middle.
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_LONE_RETURN = re.compile(r"\r(?!\n)")


@dataclass(frozen=True, slots=True)
class Document:
    """What became of a file."""

    root: Node | None
    """None when the text cannot be read to its end."""
    problems: tuple[Problem, ...] = ()


def read(path: str, content: bytes, largest: int = LARGEST, *, form: Literal["yaml", "json"] | None = None) -> Document:
    """Read one file: JSON where its name ends in ``.json`` (or ``form`` says so), else YAML. Never raises."""
    text = _decode(path, content, largest)
    if isinstance(text, Problem):
        return Document(None, (text,))
    form = form or ("json" if path.endswith(".json") else "yaml")
    reader = JsonReader(path, text) if form == "json" else YamlReader(path, text)
    try:
        root = reader.read()
    except Unreadable as error:
        return Document(None, in_order([*reader.problems[:MOST_PROBLEMS], error.problem]))
    return Document(root, in_order(reader.problems[:MOST_PROBLEMS]))


def _decode(path: str, content: bytes, largest: int) -> str | Problem:
    if len(content) > largest:
        return Problem(path, 1, 1, f"the file has {len(content)} bytes; at most {largest} are allowed")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(path, 1, 1, "the file is UTF-16; save it as UTF-8")
    if content.startswith(b"\xef\xbb\xbf"):
        return Problem(path, 1, 1, "the file begins with a byte order mark; save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = _place(before, len(before))
        return Problem(
            path, line, column, f"the byte 0x{content[error.start]:02X} is not UTF-8; save the file as UTF-8"
        )
    for pattern, what in ((_FORBIDDEN, "control character"), (_LONE_RETURN, "carriage return without a line feed")):
        found = pattern.search(text)
        if found:
            line, column = _place(text, found.start())
            return Problem(path, line, column, f"a {what} (U+{ord(found[0]):04X}) is not allowed")
    if not text.strip():
        return Problem(path, 1, 1, "the file is empty")
    return text


def _place(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)
