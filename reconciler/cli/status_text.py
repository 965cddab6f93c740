"""``reconciler status``: one table, then only what is wrong, then how fresh all this is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from reconciler.cli.text import Style, age, breadth, clean, count, duration, pad, shorten, widths, wrapped
from reconciler.core.model import Problem
from reconciler.core.status import AppStatus, HealthWord, HostStatus, Sync

_HEAD = ("APP", "SYNC", "HEALTH", "REPLICAS", "REVISION", "IMAGE", "SINCE", "REASON")
_GAP = "  "
_SYNCED, _HEALTHY, _REPLICAS, _REVISION, _IMAGE, _SINCE, _REASON = range(1, len(_HEAD))
_GIVEN_UP = (_IMAGE, _REVISION, _SINCE, _REPLICAS, _SYNCED)
"""Columns that a narrow terminal goes without, in this order."""
_LEAST_IMAGE, _LEAST_NAME = 12, 12

_SYNC: Mapping[Sync, Callable[[Style, str], str]] = {
    "Synced": Style.good,
    "OutOfSync": Style.warn,
    "Unknown": Style.bad,
}
_HEALTH: Mapping[HealthWord, Callable[[Style, str], str]] = {
    "Healthy": Style.good,
    "Progressing": Style.warn,
    "Suspended": Style.warn,
    "Degraded": Style.bad,
    "Missing": Style.bad,
}


def status_text(status: HostStatus, style: Style, *, now: float, width: int, stale: str = "") -> str:
    """Where every app stands.

    Args:
        status: The host's status.
        style: How to print.
        now: Unix time.
        width: Columns; 0: as wide as it takes.
        stale: Why this is not what the running agent says; empty when it is.
    """
    blocks = [
        _table(status, style, now, width),
        _messages(status, style, width, now),
        _faults(status, style, width),
        _ways_back(status, width, now),
        _problems(status, style, width),
        _closing(status, style, width, now=now, stale=stale),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _fine(app: AppStatus) -> bool:
    return app.sync == "Synced" and app.health == "Healthy"


# --- the table ------------------------------------------------------------------------------------------------------


def _table(status: HostStatus, style: Style, now: float, width: int) -> list[str]:
    apps = [status.apps[name] for name in sorted(status.apps)]
    if not apps:
        return [f"No apps on {status.host}."]
    columns, rows = _fit([_HEAD, *(_row(app, now) for app in apps)], width)
    sizes = widths(rows)
    lines = [style.dim(_line(rows[0], sizes))]
    for app, row in zip(apps, rows[1:], strict=True):
        padded = [pad(cell, size) for cell, size in zip(row, sizes, strict=True)]
        lines.append(_GAP.join(_painted(app, columns, padded, style)).rstrip())
    return lines


def _row(app: AppStatus, now: float) -> tuple[str, ...]:
    replicas = f"{app.replicas_healthy}/{app.replicas_desired}" if app.replicas_desired else f"{app.replicas_running}/-"
    since = _since(app)
    return (
        app.name,
        app.sync,
        app.health,
        replicas,
        (app.revisions.applied or "-")[:8],
        clean(app.image) or "-",
        "-" if since is None else age(now - since),
        "" if _fine(app) else app.reason,
    )


def _since(app: AppStatus) -> float | None:
    """Since when it is as it is: ready or not for the present reason."""
    ready = next((c.since for c in app.conditions if c.type == "Ready" and c.since), None)
    return app.applied_at if _fine(app) and app.applied_at else ready


def _fit(rows: Sequence[tuple[str, ...]], width: int) -> tuple[list[int], list[list[str]]]:
    """The columns that are shown, and the cells cut to what fits.

    Images first lose their registry, then their middle; what a narrow terminal has left belongs to names and reasons.
    """
    columns, cells = list(range(len(_HEAD))), [list(row) for row in rows]
    if not any(row[_REASON] for row in rows[1:]):
        columns.remove(_REASON)
    if not width:
        return columns, _only(cells, columns)
    if _over(cells, columns, width) > 0:
        for row in cells[1:]:
            row[_IMAGE] = row[_IMAGE].rpartition("/")[2]
    room = max(breadth(row[_IMAGE]) for row in cells) - _over(cells, columns, width)
    if room >= _LEAST_IMAGE:
        for row in cells[1:]:
            row[_IMAGE] = _middle(row[_IMAGE], room)
    for column in _GIVEN_UP:
        if _over(cells, columns, width) > 0:
            columns.remove(column)
    room = max(breadth(row[0]) for row in cells) - _over(cells, columns, width)
    for row in cells[1:]:
        row[0] = shorten(row[0], max(room, _LEAST_NAME))
    return columns, _only(cells, columns)


def _only(rows: Iterable[list[str]], columns: Iterable[int]) -> list[list[str]]:
    return [[row[column] for column in columns] for row in rows]


def _over(rows: Sequence[Sequence[str]], columns: Iterable[int], width: int) -> int:
    """Columns of the terminal by which the table is too wide."""
    sizes = widths(_only([list(row) for row in rows], columns))
    return sum(sizes) + len(_GAP) * (len(sizes) - 1) - width


def _middle(image: str, width: int) -> str:
    """The tag says most, so the end stays."""
    if len(image) <= width:
        return image
    tail = (width - 3) * 2 // 3
    return f"{image[: width - 3 - tail]}...{image[len(image) - tail :]}"


def _painted(app: AppStatus, columns: Sequence[int], cells: Sequence[str], style: Style) -> list[str]:
    paints: dict[int, Callable[[Style, str], str]] = {
        0: Style.bold,
        _SYNCED: _SYNC[app.sync],
        _HEALTHY: _HEALTH[app.health],
    }
    if app.replicas_healthy < app.replicas_desired:
        paints[_REPLICAS] = Style.warn
    return [
        paints[column](style, cell) if column in paints else cell for column, cell in zip(columns, cells, strict=True)
    ]


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    return _GAP.join(pad(cell, size) for cell, size in zip(cells, sizes, strict=True)).rstrip()


# --- what is wrong --------------------------------------------------------------------------------------------------


def _messages(status: HostStatus, style: Style, width: int, now: float) -> list[str]:
    lines: list[str] = []
    told = {message for _, message in status.faults}
    for name in sorted(status.apps):
        app = status.apps[name]
        if _fine(app) or not app.message or app.message in told:
            continue
        again = ""
        if app.next_retry is not None:
            again = (
                f"; tried again in {duration(app.next_retry - now)}" if app.next_retry > now else "; tried again now"
            )
        first, *rest = wrapped(f"{app.message}{again}", width, f"{name}: ", "    ")
        lines += [style.bold(name) + first[len(name) :], *rest]
        for line in app.last_words.splitlines()[-_LAST_LINES:]:
            lines += wrapped(line, width, "    | ")
    return lines


def _faults(status: HostStatus, style: Style, width: int) -> list[str]:
    lines: list[str] = []
    for reason, message in status.faults:
        first, *rest = wrapped(f"{reason}: {message}", width, "! ", "    ")
        lines += [style.bad("!") + first[1:], *rest]
    return lines


def _ways_back(status: HostStatus, width: int, now: float) -> list[str]:
    """Apps that tried it and could go back; of those that could not the faults tell."""
    ready = [
        f"{name} ({duration(now - condition.since)} ago)"
        for name, app in sorted(status.apps.items())
        for condition in app.conditions
        if condition.type == "RollbackReady" and condition.status
    ]
    return wrapped(f"Rehearsed, and could go back: {', '.join(ready)}.", width, "", "    ") if ready else []


def _problems(status: HostStatus, style: Style, width: int) -> list[str]:
    said = [app.message for app in status.apps.values() if not _fine(app)]
    left = [p for p in sorted(status.problems) if not any(str(p) in message for message in said)]
    if not left:
        return []
    lines = [style.bold(f"{count(len(left), 'more problem' if said else 'problem')} in the repository:")]
    for problem in left:
        lines += wrapped(_problem(problem), width, "  ", "      ")
    return lines


def _problem(problem: Problem) -> str:
    return f"{'warning: ' if problem.severity == 'warning' else ''}{problem}"


# --- how fresh ------------------------------------------------------------------------------------------------------


def _closing(status: HostStatus, style: Style, width: int, *, now: float, stale: str) -> list[str]:
    """The verdict, without what the table and the lines above have said already."""
    ago = f"{duration(now - status.at)} ago"
    commit = status.commit
    revision = f"{commit.short} ({clean(commit.author)}: {clean(commit.subject)})" if commit else "the repository"
    behind = sum(app.sync != "Synced" for app in status.apps.values())
    unwell = sum(app.sync == "Synced" and app.health != "Healthy" for app in status.apps.values())
    parts = [f"{status.host} {_VERDICTS[status.result].format(revision)}"]
    if behind:
        parts.append(f"{behind} of {count(len(status.apps), 'app')} not in sync")
    if unwell:
        parts.append(f"{count(unwell, 'app')} not healthy")
    text = ", ".join(parts)
    if status.last_fetch_at is None:
        text += "; the repository was not reached yet"
    elif status.at - status.last_fetch_at > _OLD_FETCH:
        text += f"; the repository was reached {duration(now - status.last_fetch_at)} ago"
    paint = {"converged": style.good, "progressing": style.warn}.get(status.result, style.bad)
    if stale:
        text = f"{stale[0].upper()}{stale[1:]}; this is what it saw {ago}: {text}."
        paint = style.bad
    else:
        text += f"; seen {ago}."
    return [paint(line) for line in wrapped(text, width, "", "")]


_VERDICTS = {
    "converged": "runs as {} says",
    "progressing": "is on its way to {}",
    "blocked": "is held up on its way to {}",
    "failed": "cannot follow {}",
}
_OLD_FETCH = 300.0
_LAST_LINES = 5  # of what a version that was given up said last; --output json shows more
"""Seconds; a fetch that was longer ago than this is worth a word."""
