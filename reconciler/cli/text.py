"""What a terminal can do, and the small words of all our texts: durations, ages, counts, tables.

Invariant: nothing that somebody else wrote (a commit's subject, an engine's message) reaches the terminal before it
has passed ``clean``; it could carry escape sequences.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from reconciler.core.memory import Rehearsed

_WORD = re.compile(r"\(?[0-9][0-9.]* [^ ]+|[^ ]+")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


@dataclass(frozen=True, slots=True)
class Style:
    """How to print. The default is what a file or a pipe gets: no colours, no width."""

    colour: bool = False
    terminal: bool = False
    """A person watches: progress may be drawn over."""
    width: int = 0
    """Columns; 0: as wide as it takes."""

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] | None = None) -> Style:
        """What this stream can show. Colours need a terminal that is not ``dumb``, and no ``NO_COLOR``."""
        environment = os.environ if environment is None else environment
        terminal = stream.isatty()
        colour = terminal and environment.get("TERM", "") != "dumb" and not environment.get("NO_COLOR")
        return cls(colour=colour, terminal=terminal, width=terminal_width(stream, environment))

    def bold(self, text: str) -> str:
        """What the eye should find first."""
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        """What may be skipped."""
        return self._paint("2", text)

    def good(self, text: str) -> str:
        """As it should be, or new."""
        return self._paint("32", text)

    def warn(self, text: str) -> str:
        """On the way, or worth a look."""
        return self._paint("33", text)

    def bad(self, text: str) -> str:
        """A person has to act, or something goes."""
        return self._paint("31", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


def terminal_width(stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Columns of the terminal; 0, which is no limit, where there is none. ``COLUMNS`` overrides it."""
    stream = sys.stdout if stream is None else stream
    said = (os.environ if environment is None else environment).get("COLUMNS", "")
    if said.isdecimal():
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


# --- words ----------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """One line that does nothing to a terminal: control and direction characters are shown, not obeyed."""
    return "".join(_visible(character) for character in " ".join(text.split()))


def verbatim(line: str) -> str:
    """One line of a file or a command, blanks and tabs as they are, and nothing that a terminal would obey."""
    return "".join(character if character == "\t" else _visible(character) for character in line)


def _visible(character: str) -> str:
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return character.encode("unicode_escape").decode("ascii")
    return character


def count(number: int, noun: str) -> str:
    """``1 app``, ``2 apps``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def duration(seconds: float) -> str:
    """``1.4 s``, ``90 s``, ``2 min``, ``2 min 10 s``, ``3 h 5 min``, ``2 d 1 h``."""
    if seconds < 10:  # noqa: PLR2004  (tenths matter below)
        return f"{max(seconds, 0):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < _HOUR:
        parts = (whole // _MINUTE, "min", whole % _MINUTE, "s")
    elif whole < _DAY:
        parts = (whole // _HOUR, "h", whole % _HOUR // _MINUTE, "min")
    else:
        parts = (whole // _DAY, "d", whole % _DAY // _HOUR, "h")
    great, great_unit, small, small_unit = parts
    if not great:
        return f"{small} {small_unit}"
    return f"{great} {great_unit} {small} {small_unit}" if small else f"{great} {great_unit}"


def age(seconds: float) -> str:
    """For a column: ``5s``, ``12m``, ``4h``, ``3d``. A clock that was set back makes it ``0s``."""
    whole = max(0, int(seconds))
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def moment(at: float) -> str:
    """A Unix time as people write it, in UTC: ``2027-01-15 08:00:02Z``."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "?"


def rehearsed(answer: Rehearsed) -> str:
    """Whether an app could go back, as an answer to that question."""
    if answer.ready:
        return f"yes, rehearsed at {moment(answer.at)} with the data as it was then"
    return f"no, as of {moment(answer.at)}: {clean(answer.message)}"


# --- layout ---------------------------------------------------------------------------------------------------------


def breadth(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def shorten(text: str, width: int) -> str:
    """At most so many columns; what is cut off at the end shows as ``...``."""
    if breadth(text) <= width:
        return text
    kept, room = "", max(width - 3, 0)
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + "..."[:width]


def pad(text: str, width: int) -> str:
    """Filled up with blanks; colours come after."""
    return text + " " * (width - breadth(text))


def wrapped(text: str, width: int, first: str, rest: str | None = None) -> list[str]:
    """A text in lines of at most ``width`` columns (0: one line), cleaned.

    Never broken inside a word, nor between a number and its unit.

    Args:
        text: The text.
        width: Columns, indentation included.
        first: What the first line begins with.
        rest: What further lines begin with; as many blanks as ``first`` is long when left out.
    """
    rest = " " * breadth(first) if rest is None else rest
    lines: list[str] = []
    line, empty = first, True
    for word in _WORD.findall(clean(text)):
        if not empty and width and breadth(line) + 1 + breadth(word) > width:
            lines.append(line)
            line, empty = rest, True
        line += word if empty else f" {word}"
        empty = False
    return [*lines, line]


def widths(rows: Iterable[Sequence[str]]) -> list[int]:
    """The width of each column of a table."""
    return [max(map(breadth, column)) for column in zip(*rows, strict=True)]
