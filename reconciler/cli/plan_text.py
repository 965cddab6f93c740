"""``reconciler plan`` as a person would write it: what will happen, to what, why, in which order, and who notices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reconciler.cli.changes import Change
from reconciler.cli.outlook import Nginx, Outlook, Standing, forecast_exit_code, outlook
from reconciler.cli.steps import Kind
from reconciler.cli.text import Style, clean, count, duration, listed, wrapped
from reconciler.core.model import App, Commit
from reconciler.core.observed import Observed
from reconciler.core.plan import Plan
from reconciler.core.serialise import Json, plain
from reconciler.core.simulate import Forecast

__all__ = ["forecast_exit_code", "plan_json", "plan_text"]

_LABEL = 10
_MARKS: Mapping[Kind, str] = {"first deployment": "+", "removal": "-"}
"""Those of a ``diff`` code block, which forges colour; everything else is a ``~``."""


def plan_text(
    forecast: Forecast,
    start: Plan,
    commit: Commit,
    before: Observed,
    style: Style,
    *,
    host: str = "",
    applied: Mapping[str, App] | None = None,
) -> str:
    """The whole plan.

    Args:
        forecast: The rollout on paper.
        start: The plan as it is made now.
        commit: The revision that is asked for.
        before: The host as it is now.
        style: How to print.
        host: This host's name.
        applied: Apps as the revision applied last had them, where it can be read; names whose routes change.
    """
    seen = outlook(forecast, start, before, applied)
    blocks = [
        _headline(seen, commit, host, style),
        *(_change(change, style) for change in seen.changes),
        _host(seen, style),
        _standing(seen, commit, style),
        _refused(seen, style),
        _faults(seen, style),
        _problems(seen, style),
        _closing(seen, style),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def plan_json(
    forecast: Forecast,
    start: Plan,
    commit: Commit,
    before: Observed,
    *,
    host: str = "",
    applied: Mapping[str, App] | None = None,
) -> dict[str, Json]:
    """The same for machines: the fields of ``Outlook``, the commit and the exit code."""
    read = plain(outlook(forecast, start, before, applied))
    if not isinstance(read, dict):
        raise TypeError("an outlook is an object")
    return {"host": host, "commit": plain(commit), "exit_code": forecast_exit_code(forecast, start), **read}


# --- the head -------------------------------------------------------------------------------------------------------


def _headline(seen: Outlook, commit: Commit, host: str, style: Style) -> list[str]:
    revision = f"{_short(commit)} ({_described(commit)})"
    if seen.in_sync:
        if not seen.apps:
            return [style.good(f"Nothing to do: {_short(commit)} has no apps for {host or 'this host'}.")]
        verb = "runs" if seen.apps == 1 else "run"
        return [style.good(f"Nothing to do: {count(seen.apps, 'app')} {verb} as {_short(commit)} says.")]
    number = len(seen.changes)
    if seen.host_steps and not number:
        return _bold(f"To bring {host or 'this host'} to {revision} only the host itself changes, no app.", style)
    if number:
        verb = "changes" if number == 1 else "change"
        text = f"To bring {host or 'this host'} to {revision} {number} of {count(seen.apps, 'app')} {verb}"
        return [*_bold(f"{text}; {_downtimes(seen)}.", style)]
    if seen.standing or seen.refused or seen.faults or seen.problems:
        return _bold(f"Nothing can be done now, but {host or 'this host'} is not as {revision} says.", style)
    return _bold(f"To bring {host or 'this host'} to {revision} no app changes.", style)


def _bold(text: str, style: Style) -> list[str]:
    return [style.bold(line) for line in wrapped(text, style.width, "", "")]


def _downtimes(seen: Outlook) -> str:
    parts = [f"{c.app} is down for about {duration(c.down.expected)}" for c in seen.changes if c.down]
    parts += [f"{c.app} is down now" for c in seen.changes if c.down_now]
    gone = [c.app for c in seen.changes if c.kind == "removal"]
    if gone:
        parts.append(f"{listed(gone)} {'is' if len(gone) == 1 else 'are'} removed")
    return listed(parts) if parts else "nothing goes down"


def _short(commit: Commit) -> str:
    """What people call this revision. A working tree, as ``plan --against`` and ``--worktree`` have it, has no id."""
    return commit.short if commit.sha.strip("0") else "the working tree"


def _described(commit: Commit) -> str:
    return clean(f"{commit.author}: {commit.subject}" if commit.author else commit.subject)


# --- one app --------------------------------------------------------------------------------------------------------


def _change(change: Change, style: Style) -> list[str]:
    mark = _MARKS.get(change.kind, "~")
    colour = {"+": style.good, "-": style.bad}.get(mark, style.warn)
    impact = style.bad if change.down or change.kind == "removal" else style.dim
    kind = {"return": "back to the last good version", "pull": "look for a newer image"}.get(change.kind, change.kind)
    lines = [f"{colour(mark)} {style.bold(change.app)}: {kind}; {impact(change.impact)}"]
    lines += _field("why", ", ".join(change.why), style)
    if change.strategy:
        asked = change.strategy_because == "asked for by the manifest"
        because = "the manifest asks for it" if asked else change.strategy_because
        lines += _field("how", f"{change.strategy}, because {because}", style)
    if change.down:
        soon, late = duration(change.down.expected), duration(change.down.at_most)
        text = f"{soon} if healthy at once, at most {late} ({change.down.because}), then the old version is put back"
        lines += _field("down", text, style)
    if change.way_back:
        lines += _field("back?", change.way_back, style)
    if change.back:
        lines += _field("back", change.back, style)
    if change.note:
        lines += _field("note", change.note, style)
    for number, step in enumerate(change.steps, 1):
        lines += wrapped(step, style.width, f"  {number:>2}. ")
    return lines


def _field(label: str, text: str, style: Style) -> list[str]:
    lines = wrapped(text, style.width, " " * _LABEL)
    return [f"  {style.dim(label)}{lines[0][2 + len(label) :]}", *lines[1:]]


# --- what does not change, and why ----------------------------------------------------------------------------------


def _host(seen: Outlook, style: Style) -> list[str]:
    if not seen.host_steps:
        return []
    lines = [style.bold("The host itself, first of all:")]
    for number, step in enumerate(seen.host_steps, 1):
        lines += wrapped(step, style.width, f"  {number:>2}. ")
    return lines


def _standing(seen: Outlook, commit: Commit, style: Style) -> list[str]:
    if not seen.standing:
        return []
    one = len(seen.standing) == 1
    lines = [style.bold(f"{count(len(seen.standing), 'app')} {'does' if one else 'do'} not follow {_short(commit)}:")]
    for standing in seen.standing:
        lines += _one_standing(standing, style)
    return lines


def _one_standing(standing: Standing, style: Style) -> list[str]:
    lines = [f"{style.bad('!')} {style.bold(standing.app)}: {standing.reason}; {style.dim(standing.runs)}"]
    if standing.problems:
        for problem in standing.problems:
            lines += wrapped(str(problem), style.width, "    ")
    elif standing.message:
        lines += wrapped(standing.message, style.width, "    ")
    if standing.remedy:
        lines += wrapped(f"{standing.remedy}.", style.width, "    ")
    return lines


def _refused(seen: Outlook, style: Style) -> list[str]:
    if not seen.refused:
        return []
    return [style.bold("Removals are refused:"), *_exclaim([seen.refused], style)]


def _faults(seen: Outlook, style: Style) -> list[str]:
    if not seen.faults:
        return []
    texts = [f"{reason}: {message}" for reason, message in seen.faults]
    return [style.bold("Something is wrong with the host itself:"), *_exclaim(texts, style)]


def _problems(seen: Outlook, style: Style) -> list[str]:
    if not seen.problems:
        return []
    texts = [f"{'warning: ' if p.severity == 'warning' else ''}{p}" for p in seen.problems]
    lines = [style.bold("Problems in the repository:")]
    for text in texts:
        lines += wrapped(text, style.width, "    ")
    return lines


def _exclaim(texts: Iterable[str], style: Style) -> list[str]:
    lines = []
    for text in texts:
        first, *rest = wrapped(text, style.width, "! ", "    ")
        lines += [style.bad("!") + first[1:], *rest]
    return lines


def _closing(seen: Outlook, style: Style) -> list[str]:
    lines = []
    for note in seen.notes:
        lines += wrapped(f"{note}.", style.width, "", "")
    lines += wrapped(" ".join(_afterword(seen)), style.width, "", "")
    return [style.dim(line) for line in lines if line]


def _afterword(seen: Outlook) -> Iterator[str]:
    if seen.nginx is not None and (seen.changes or seen.nginx.reloads):
        yield _nginx(seen.nginx)
    if len(seen.changes) > 1:
        yield "Apps change side by side, dependencies first."
    if seen.seconds >= 1:
        without = f", not counting {listed(seen.uncounted)}" if seen.uncounted else ""
        yield f"About {duration(seen.seconds)} in all if everything is healthy at once{without}."


def _nginx(nginx: Nginx) -> str:
    if not nginx.reloads:
        return "nginx is not reloaded."
    if not nginx.running:
        return "nginx takes up our configuration, which it does not run now."
    return f"nginx reloads once: routes{f' of {listed(nginx.routes)}' if nginx.routes else ''} change."
