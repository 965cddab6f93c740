"""Values that know where they stand in their file, and what the readers of YAML and JSON share."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence

from reconciler.core.model import Problem

LARGEST = 256 * 1024
"""Bytes of a manifest."""
DEEPEST = 50
"""Mappings and lists within one another."""
MOST_NODES = 20_000
"""Keys and values of one file. Each takes some 300 bytes of memory, and two bytes of text are enough for one."""
MOST_PROBLEMS = 200
"""Problems of one file that are told at once."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_MOST_DIGITS = 18  # of an integer that a 64-bit reader keeps; longer ones are account numbers and stay text

# Everything but tab and line feed; bidirectional controls make a text look like another one in a review.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


class Node:
    """One value of a document, and where it stands. Lines and columns count from 1."""

    __slots__ = ("column", "fields", "items", "key_column", "key_line", "line", "path", "text", "value")

    def __init__(self, path: str, line: int, column: int, value: object, text: str = "") -> None:
        self.path = path
        self.line = line
        self.column = column
        self.key_line = line
        """Of the key that this is the value of; of the value itself where there is none."""
        self.key_column = column
        self.value = value
        """Plain: dict, list, str, int, float, bool or None."""
        self.text = text
        """A scalar as it was written: ``1.10`` stays ``1.10``."""
        self.fields: dict[str, Node] = {}
        self.items: list[Node] = []

    def at(self, *keys: str) -> Node | None:
        """The value under keys within one another."""
        node: Node | None = self
        for key in keys:
            node = node.fields.get(key) if node is not None else None
        return node

    def each(self, *keys: str) -> Sequence[Node]:
        """The items of the list under keys within one another; none where there is no list."""
        node = self.at(*keys)
        return node.items if node is not None else ()

    def problem(self, message: str, app: str | None = None) -> Problem:
        """A problem with this value."""
        return Problem(self.path, self.line, self.column, message, app)

    def key_problem(self, message: str, app: str | None = None) -> Problem:
        """A problem with the key of this value."""
        return Problem(self.path, self.key_line, self.key_column, message, app)

    def without(self, keys: Collection[str]) -> Node:
        """This mapping without some of its keys."""
        result = Node(self.path, self.line, self.column, self.value, self.text)
        result.fields = {key: node for key, node in self.fields.items() if key not in keys}
        return result

    def merged(self, over: Node) -> Node:
        """This mapping with ``over`` laid upon it, key by key; every value keeps its own place."""
        result = Node(over.path, over.line, over.column, over.value, over.text)
        result.key_line, result.key_column = over.key_line, over.key_column
        result.fields = dict(self.fields)
        for key, value in over.fields.items():
            below = self.fields.get(key)
            if below is not None and isinstance(below.value, dict) and isinstance(value.value, dict):
                result.fields[key] = below.merged(value)
            else:
                result.fields[key] = value
        return result


def plain(text: str) -> object:
    """What an unquoted word means: JSON's numbers, true, false and null; all else is text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    match = _NUMBER.fullmatch(text) if text[0] in "-0123456789" else None
    if match is None:
        return text
    if match[1] is None and match[2] is None:
        return int(text) if len(text.lstrip("-")) <= _MOST_DIGITS else text
    number = float(text)
    return number if math.isfinite(number) else text


class Unreadable(Exception):  # noqa: N818  (ends in ``document.read``, which turns it into a problem)
    """The rest of the text cannot be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Reader:
    """Notes what is wrong with a text on the way."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.problems: list[Problem] = []
        self._nodes = 0

    def count(self, line: int, column: int) -> None:
        """One more key or value. Raises Unreadable where there are too many."""
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self.fail(line, column, f"more than {MOST_NODES} keys and values in one file")

    def note(self, line: int, column: int, message: str) -> None:
        """Something is wrong, and reading goes on."""
        self.problems.append(Problem(self.path, line, column, message))

    def fail(self, line: int, column: int, message: str) -> Unreadable:
        """Something is wrong, and nobody can tell what follows. The place is moved into the text."""
        lines = self.text.split("\n")
        if len(lines) > 1 and not lines[-1]:
            lines.pop()  # a parser's end of text lies on a line that no editor shows
        if line > len(lines):
            line, column = len(lines), len(lines[-1]) + 1
        return Unreadable(Problem(self.path, line, min(column, len(lines[line - 1]) + 1), message))

    def put(self, mapping: Node, key: tuple[str, int, int], value: Node) -> None:
        """Add a key with its line and column, and its value, to a mapping."""
        name, value.key_line, value.key_column = key
        if name in mapping.fields:
            first = mapping.fields[name].key_line
            self.note(key[1], key[2], f"the key {name!r} stands twice; the first one is in line {first}")
            return
        self.check(*key)
        mapping.fields[name] = value
        if isinstance(mapping.value, dict):
            mapping.value[name] = value.value

    def append(self, sequence: Node, value: Node) -> None:
        """Add an item to a list."""
        sequence.items.append(value)
        if isinstance(sequence.value, list):
            sequence.value.append(value.value)

    def check(self, text: str, line: int, column: int) -> None:
        """No control characters, whatever escape they were written with."""
        found = _FORBIDDEN.search(text)
        if found:
            self.note(line, column, f"this text holds the character U+{ord(found[0]):04X}, which is not allowed")


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By place, each once."""
    return tuple(
        sorted(set(problems), key=lambda each: (each.path, each.line, each.column, each.message, each.app or ""))
    )
