"""JSON becomes nodes. Exactly RFC 8259, with places, which the standard library's parser does not tell.

Nor does YAML's parser do: escapes of characters beyond U+FFFF and keys that stand a line above their ``:`` are good
JSON that libyaml refuses.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right

from reconciler.core.node import DEEPEST, Node, Reader, Unreadable, plain

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\.)*+"')  # possessive: no backtracking
_WORD = re.compile(r"[A-Za-z0-9_.+'-]+")


class JsonReader(Reader):
    """Reads one text."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path, text)
        self._at = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def read(self) -> Node:
        """The document. Raises Unreadable where the text is no JSON."""
        self._skip()
        root = self._value(0)
        if self._at < len(self.text):
            raise self._wrong("text after the end of the document")
        return root

    def _place(self, index: int) -> tuple[int, int]:
        line = bisect_right(self._lines, index)
        return line, index - self._lines[line - 1] + 1

    def _wrong(self, message: str) -> Unreadable:
        return self.fail(*self._place(self._at), f"not valid JSON: {message}")

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self._at)
        if match:
            self._at = match.end()

    def _take(self, mark: str) -> bool:
        if not self.text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        self._skip()
        return True

    def _value(self, depth: int) -> Node:
        line, column = self._place(self._at)
        self.count(line, column)
        first = self.text[self._at : self._at + 1]
        if first and first in "{[" and depth >= DEEPEST:
            raise self.fail(line, column, f"more than {DEEPEST} objects and lists within one another")
        if first == "{":
            return self._object(Node(self.path, line, column, {}), depth)
        if first == "[":
            return self._list(Node(self.path, line, column, []), depth)
        if first == '"':
            text = self._string()
            self.check(text, line, column)
            return Node(self.path, line, column, text, text)
        return self._literal(line, column)

    def _object(self, node: Node, depth: int) -> Node:
        self._take("{")
        if self._take("}"):
            return node
        while True:
            line, column = self._place(self._at)
            if node.fields and self.text.startswith("}", self._at):
                raise self._wrong("there is a ',' too many before this '}'")
            if not self.text.startswith('"', self._at):
                raise self._wrong("a key in double quotes must stand here")
            key = self._string()
            if not self._take(":"):
                raise self._wrong("':' must follow the key")
            self.put(node, (key, line, column), self._value(depth + 1))
            if self._take("}"):
                return node
            if not self._take(","):
                raise self._wrong("',' or '}' must stand here")

    def _list(self, node: Node, depth: int) -> Node:
        self._take("[")
        if self._take("]"):
            return node
        while True:
            if node.items and self.text.startswith("]", self._at):
                raise self._wrong("there is a ',' too many before this ']'")
            self.append(node, self._value(depth + 1))
            if self._take("]"):
                return node
            if not self._take(","):
                raise self._wrong("',' or ']' must stand here")

    def _string(self) -> str:
        match = _STRING.match(self.text, self._at)
        if match is None:
            raise self._wrong("this text is never closed, or has a line end in it")
        try:
            text = str(json.loads(match[0])) if "\\" in match[0] else match[0][1:-1]
        except json.JSONDecodeError as error:
            self._at += error.pos
            raise self._wrong("an escape that JSON does not know") from None
        self._at = match.end()
        self._skip()
        return text

    def _literal(self, line: int, column: int) -> Node:
        match = _WORD.match(self.text, self._at)
        word = match[0] if match else ""
        if word not in {"true", "false", "null"} and not _NUMBER.fullmatch(word):
            raise self._wrong("a value must stand here" if not word else "text must stand in double quotes")
        self._at += len(word)
        self._skip()
        return Node(self.path, line, column, plain(word), word)
