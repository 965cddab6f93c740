"""``reconciler why`` on one page: one sentence, then what a person would ask next, in that order."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.cli.text import Style, clean, duration, listed, moment, shorten, wrapped
from reconciler.cli.why import Asked, Explanation, Stand
from reconciler.core.serialise import Json, plain
from reconciler.core.status import AppStatus

_LABEL = 10
_SUBJECT = 60
_LABELS = {"RollbackReady": "way back"}


def why_text(told: Explanation, style: Style, now: float) -> str:
    """One page.

    Args:
        told: What is known.
        style: How to print.
        now: Unix time.
    """
    blocks = [_headline(told, style, now), _facts(_before(told, now), style)]
    blocks.append([line for words in told.last_words for line in map(style.dim, _quoted(words, style.width))])
    blocks.append(
        [
            *_facts(_after(told, now), style),
            *_facts(_way_back(told), style),
            *(line for words in told.rehearsal_words for line in map(style.dim, _quoted(words, style.width))),
            *_facts(_at_last(told, now), style),
        ]
    )
    if told.stale:
        text = f"{told.stale[0].upper()}{told.stale[1:]}, {duration(now - told.at)} ago."
        blocks.append([style.bad(line) for line in wrapped(text, style.width, "")])
    if told.trouble:
        blocks.append([style.dim(line) for line in wrapped(f"({told.trouble})", style.width, "")])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def why_json(told: Explanation) -> Json:
    """The same for machines, complete."""
    return plain(told)


def _headline(told: Explanation, style: Style, now: float) -> list[str]:
    since = f" since {moment(told.since)} ({duration(now - told.since)})" if told.since else ""
    reason = told.status.reason if told.status else ""
    sentences: dict[Stand, str] = {
        "fine": f"is fine: it runs on {told.host} as the repository says{since}",
        "gone": f"is not on {told.host} any more{since}: {told.changed}",
        "suspended": f"is suspended{since}: nothing of it is changed on {told.host}",
        "held up": f"is held up on {told.host}{since}: {reason}",
        "on its way": f"is on its way on {told.host}{since}: {reason}",
        "not well": f"is not well on {told.host}{since}: {reason}",
    }
    paint = {"fine": style.good, "held up": style.bad, "not well": style.bad}.get(told.stand, style.warn)
    return [paint(line) for line in wrapped(f"{told.app} {sentences[told.stand]}.", style.width, "")]


def _before(told: Explanation, now: float) -> Iterator[tuple[str, str]]:
    """What was asked, how far it came, what ended it."""
    if told.commit is not None:
        yield "commit", _commit(told.commit, now)
    if told.changed and told.stand != "gone":
        yield "changed", told.changed
    if told.checked:
        yield "checked", _checked(told)
    if told.blocked_by:
        yield "now" if told.stand == "on its way" else "in the way", told.blocked_by
    if told.last_words:
        after = told.status is not None and told.status.reason.startswith("AfterDeploy")
        whose = "the version that was given up" if told.quarantine else "after_deploy" if after else ""
        yield "last words", f"of {whose}:" if whose else ""


def _after(told: Explanation, now: float) -> Iterator[tuple[str, str]]:
    """What serves all the same, what happens now, what to do."""
    if told.status is not None:
        yield "serves", _serves(told, told.status, now)
    if told.next:
        when = ""
        if told.next_retry is not None:
            when = f" in {duration(told.next_retry - now)}" if told.next_retry > now else " now"
        yield "next", f"{told.next}{when}"


def _way_back(told: Explanation) -> Iterator[tuple[str, str]]:
    for condition in told.conditions:
        answer = "yes" if condition.status else "no"
        yield (
            _LABELS.get(condition.type, condition.type),
            f"{answer}{f': {condition.message}' if condition.message else f' ({condition.reason})'}",
        )


def _at_last(told: Explanation, now: float) -> Iterator[tuple[str, str]]:
    """What happened lately, what is wrong with the host, what to do."""
    for i, entry in enumerate(told.lately):
        what = clean(entry.reason or entry.subject)
        yield "lately" if i == 0 else "", f"{duration(now - entry.at)} ago {entry.event}: {shorten(what, 100)}"
    for i, (reason, message) in enumerate(told.faults):
        yield "host" if i == 0 else "", f"{reason}: {message}"
    for i, advice in enumerate(told.advice):
        yield "to do" if i == 0 else "", advice


def _commit(asked: Asked, now: float) -> str:
    who = f" by {clean(asked.author)}" if asked.author else ""
    when = f", {duration(now - asked.at)} ago" if asked.at else ""
    what = f": {shorten(clean(asked.subject), _SUBJECT)}" if asked.subject else ""
    return f"{asked.revision[:8]}{who}{when}{what}"


def _checked(told: Explanation) -> str:
    fine = [stage for stage, state in told.checked.items() if state == "fine"]
    rest = [f"{stage}: {state}" for stage, state in told.checked.items() if state != "fine"]
    good = f"{listed(fine)} {'are' if len(fine) > 1 else 'is'} fine" if fine else ""
    return "; ".join(part for part in (good, *rest) if part)


def _serves(told: Explanation, status: AppStatus, now: float) -> str:
    if not status.replicas_running:
        return "nothing: no replica runs"
    asked = status.replicas_desired or status.replicas_running
    counted = f"{status.replicas_healthy} of {asked} {'replica is' if asked == 1 else 'replicas are'} healthy"
    where = f", at {listed(status.addresses)}" if status.addresses else ", and nobody is sent to it"
    image = f" ({clean(status.image)})" if status.image else ""
    version = f"the version before, {_commit(told.serves, now)}{image}; " if told.serves else f"{clean(status.image)}; "
    return f"{version}{counted}{where}"


def _facts(facts: Iterator[tuple[str, str]], style: Style) -> list[str]:
    lines = []
    for name, text in facts:
        first, *rest = wrapped(text, style.width, f"  {name:<{_LABEL}}  ")
        lines += [f"  {style.bold(name)}{first[2 + len(name) :]}".rstrip(), *rest]
    return lines


def _quoted(words: str, width: int) -> list[str]:
    return wrapped(words, width, "    | ")
