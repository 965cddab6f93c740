"""``reconciler history``: what happened, when, who asked for it, how long it took; newest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.cli.text import Style, age, breadth, clean, duration, moment, pad, shorten, widths
from reconciler.core.serialise import Json, plain
from reconciler.protocols import HistoryEntry

_HEAD = ("WHEN", "AGO", "APP", "EVENT", "REVISION", "WHO", "TOOK", "WHAT")
_GAP = "  "
_LEAST_WHAT = 20
_LONGEST_WHO = 20
_COLOURS: Mapping[str, str] = {
    "deployed": "good",
    "rolled back": "warn",
    "repaired": "warn",
    "restarted": "warn",
    "failed": "bad",
    "refused": "bad",
}


def history_text(entries: Sequence[HistoryEntry], style: Style, now: float) -> str:
    """One line for each entry; WHAT is cut where the terminal ends.

    Args:
        entries: Newest first.
        style: How to print.
        now: Unix time.
    """
    if not entries:
        return "Nothing has happened yet."
    rows = [_HEAD, *(_row(entry, now) for entry in entries)]
    sizes = widths(row[:-1] for row in rows)
    lines = []
    for index, row in enumerate(rows):
        cells = [pad(cell, size) for cell, size in zip(row, sizes, strict=False)]
        room = style.width - sum(map(breadth, cells)) - len(_GAP) * len(cells)
        what = shorten(row[-1], max(room, _LEAST_WHAT)) if style.width else row[-1]
        if index == 0:
            lines.append(style.dim(_GAP.join([*cells, what]).rstrip()))
            continue
        cells[3] = _painted(entries[index - 1].event, cells[3], style)
        lines.append(_GAP.join([*cells, what]).rstrip())
    return "\n".join(lines)


def history_json(entries: Sequence[HistoryEntry]) -> list[Json]:
    """The same for machines, complete."""
    return [plain(entry) for entry in entries]


def _row(entry: HistoryEntry, now: float) -> tuple[str, ...]:
    return (
        moment(entry.at),
        age(now - entry.at),
        entry.app or "(host)",
        entry.event,
        entry.revision[:8] or "-",
        shorten(clean(entry.author), _LONGEST_WHO) or "-",
        "-" if entry.duration is None else duration(entry.duration),
        _what(entry),
    )


def _what(entry: HistoryEntry) -> str:
    subject, reason = clean(entry.subject), clean(entry.reason)
    return f"{subject} ({reason})" if subject and reason else subject or reason


def _painted(event: str, cell: str, style: Style) -> str:
    match _COLOURS.get(event):
        case "good":
            return style.good(cell)
        case "warn":
            return style.warn(cell)
        case "bad":
            return style.bad(cell)
        case _:
            return cell
