"""YAML's events become nodes.

Only the parser's events are used. PyYAML's composer recurses in C, and 50,000 nested brackets, a file of 100 KB,
overflow the stack of the whole process; events come one by one, so we stop at the depth we choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import yaml

from reconciler.core.node import DEEPEST, Node, Reader, Unreadable, plain

# The parser of libyaml is ten times faster than the one in Python; the wheels of PyYAML bring it.
_LOADER: type[yaml.CSafeLoader | yaml.SafeLoader] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

# What libyaml says (and, where it differs, PyYAML), in words for people who write YAML twice a year.
_WORDS = (
    (
        "mapping values are not allowed",
        "a second ':' in this line, or a wrong indentation: put text with ': ' in quotes",
    ),
    ("could not find expected ':'", "there is no ':' after this key"),
    ("did not find expected key", "this line does not fit the lines above: look at its indentation"),
    ("expected <block end>", "this line does not fit the lines above: look at its indentation"),
    ("did not find expected '-'", "this line does not fit the list above: look at its indentation"),
    ("did not find expected ',' or ']'", "this list needs ',' between its items and ']' at its end"),
    ("expected ',' or ']'", "this list needs ',' between its items and ']' at its end"),
    ("did not find expected ',' or '}'", "this mapping needs ',' between its keys and '}' at its end"),
    ("expected ',' or '}'", "this mapping needs ',' between its keys and '}' at its end"),
    ("did not find expected node content", "something is missing here: a value, or a closing bracket"),
    ("found unexpected end of stream", "a quote that begins here is never closed"),
    ("did not find expected <document start>", "text after the end of the document"),
    ("found unknown escape character", "an escape that YAML does not know; in single quotes '\\' means itself"),
    ("block sequence entries are not allowed", "a list cannot begin here: put '-' on a line of its own"),
    ("found incompatible YAML document", "only YAML 1.1 and 1.2 can be read; leave out the %YAML line"),
)

# The parser notices these at the next line or at the end of the text; people look for them where they begin.
_AT_THE_BEGINNING = ("could not find expected ':'", "found unexpected end of stream", "expected ',' or")


class _Mark(Protocol):
    """A place, as both parsers tell it: from 0."""

    line: int
    column: int


@dataclass(slots=True)
class _Open:
    """A mapping or list that is not closed yet."""

    node: Node
    key: tuple[str, int, int] | None = None
    """In a mapping: the key whose value comes next."""
    wrong_key: bool = False
    """That key has been reported: its value is read and left out."""


class YamlReader(Reader):
    """Reads one text."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path, text)
        self._open: list[_Open] = []
        self._root: Node | None = None

    def read(self) -> Node:
        """The document. Raises Unreadable where the text is no YAML."""
        try:
            self._events()
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except yaml.YAMLError:
            raise self.fail(1, 1, "not valid YAML") from None
        if self._root is None or (self._root.value is None and not self._root.text):  # nothing, or nothing after ---
            raise self.fail(1, 1, "the file is empty")
        return self._root

    def _events(self) -> None:
        documents = 0
        for event in yaml.parse(self.text, Loader=_LOADER):
            if isinstance(event, yaml.ScalarEvent):
                self._value(event, self._scalar(event))
            elif isinstance(event, yaml.MappingStartEvent):
                self._begin(event, {})
            elif isinstance(event, yaml.SequenceStartEvent):
                self._begin(event, [])
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
            elif isinstance(event, yaml.AliasEvent):
                node = self._node(event, None)
                if not self._merges():
                    self.note(node.line, node.column, "aliases (*name) are not allowed; write the value out")
                self._value(event, node)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fail(*_place(event.start_mark), "a second document begins here; only one is allowed")

    def _node(self, event: yaml.Event, value: object, text: str = "") -> Node:
        node = Node(self.path, *_place(event.start_mark), value, text)
        self.count(node.line, node.column)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self.note(
                node.line, node.column, f"tags ({event.tag[:40]!r}) are not allowed; quotes make text of a number"
            )
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.anchor is not None:
            self.note(node.line, node.column, "anchors (&name) are not allowed; write the value out where it is needed")
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        text = event.value
        if event.implicit[0]:
            return self._node(event, plain(text), text)
        node = self._node(event, text, text)
        self.check(text, node.line, node.column)
        return node

    def _begin(self, event: yaml.Event, value: object) -> None:
        node = self._node(event, value)
        if len(self._open) >= DEEPEST:
            raise self.fail(node.line, node.column, f"more than {DEEPEST} mappings and lists within one another")
        self._value(event, node)
        self._open.append(_Open(node))

    def _value(self, event: yaml.Event, node: Node) -> None:
        """A node is complete or begins: put it where it belongs."""
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node.value, list):
            self.append(parent.node, node)
        elif parent.key is None:
            parent.key = self._key(event, node, parent)
        else:
            if not parent.wrong_key:
                self.put(parent.node, parent.key, node)
            parent.key, parent.wrong_key = None, False

    def _key(self, event: yaml.Event, node: Node, parent: _Open) -> tuple[str, int, int]:
        if isinstance(node.value, dict | list):
            raise self.fail(
                node.line, node.column, "a key must be text, not a mapping or a list; '{' and '[' need quotes"
            )
        if node.text == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            self.note(node.line, node.column, "merge keys (<<) are not allowed; write the keys out")
            parent.wrong_key = True
        elif not isinstance(node.value, str):
            if not isinstance(event, yaml.AliasEvent):
                self.note(node.line, node.column, f'a key must be text: put it in quotes ("{node.text[:40]}")')
            parent.wrong_key = True
        return node.text, node.line, node.column

    def _merges(self) -> bool:
        """The value of a merge key comes next, which has been reported."""
        return bool(self._open) and self._open[-1].key is not None and self._open[-1].wrong_key

    def _syntax(self, error: yaml.MarkedYAMLError) -> Unreadable:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return self.fail(1, 1, "not valid YAML")
        line, column = _place(mark)
        said = error.problem or ""
        if "cannot start any token" in said:
            return self.fail(line, column, self._bad_beginning(line, column))
        words = next((words for said_so, words in _WORDS if said_so in said), f"not valid YAML: {said}")
        if error.context_mark is not None and any(so in said for so in _AT_THE_BEGINNING):
            line, column = _place(error.context_mark)
        return self.fail(line, column, words)

    def _bad_beginning(self, line: int, column: int) -> str:
        found = self.text.split("\n")[line - 1][column - 1 : column]
        if found == "\t":
            return "a tab cannot indent YAML; use spaces"
        return f"text cannot begin with {found!r}; put it in quotes"


def _place(mark: _Mark | None) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
