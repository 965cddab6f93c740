"""``reconciler rollback`` in words: the commit's message, the commands for whoever does it by hand, and the answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.cli.text import Style, clean, count, listed, moment, shorten, verbatim, wrapped
from reconciler.core.model import Commit
from reconciler.core.serialise import Json, plain

_TAKEN_BACK = 10  # commits that are named
_LINE = 72  # columns of a commit's message
_FILES = 8  # named in the text; JSON has all


@dataclass(frozen=True, slots=True)
class Move:
    """What goes back, from where to where. Paths are the repository's."""

    app: str
    base: Commit
    """What is built on."""
    to: Commit
    """As it was at this revision."""
    because: str
    """How ``to`` was chosen; completes "to 1a2b3c4d, ..."."""
    restore: tuple[str, ...]
    """Folders (at the root: files) that become what they were at ``to``."""
    remove: tuple[str, ...] = ()
    """Folders that go, because the app stood elsewhere."""
    foreign: tuple[str, ...] = ()
    """Folders of other apps inside of these, which stay as they are."""
    files: tuple[str, ...] = ()
    """Files that change."""
    takes_back: tuple[Commit, ...] = ()
    """Newest first; there may be one more than is shown."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``rollback`` did, or why it did nothing."""

    result: Literal["rolled back", "unchanged", "would roll back", "not done"]
    move: Move
    commit: str = ""
    """The new commit."""
    pushed_to: str = ""
    """``main of origin``."""
    reason: str = ""
    """Why it is not done: a CamelCase word, and a sentence."""
    message: str = ""
    commands: tuple[str, ...] = ()
    """For pasting, where it was not done."""
    notes: tuple[str, ...] = ()
    diff: str = ""


# --- the commit -----------------------------------------------------------------------------------------------------


def subject(move: Move) -> str:
    """The first line of the commit."""
    return f"Roll back {move.app} to {move.to.short}"


def body(move: Move) -> str:
    """The rest of it: what, from where to where, why."""
    where = listed(move.restore)
    back = f"This takes {where} from {named(move.base)} back to what it was at {named(move.to)}, {move.because}"
    told = [f"{back}. Nothing else is changed."]
    if move.remove:
        told.append(f"{listed(move.remove)} goes: at that time {move.app} stood in {where}.")
    if move.why:
        told.append(f"Why: {move.why}")
    blocks = ["\n".join(wrapped(text, _LINE, "")) for text in told]
    if move.takes_back:
        blocks.append("\n".join(["It takes back:", "", *_taken_back(move)]))
    blocks.append(f"Rolled-back-from: {move.base.sha}\nRolled-back-to: {move.to.sha}")
    return "\n\n".join(blocks)


def _gist(move: Move) -> str:
    """The same for a command line: one line."""
    why = f" Why: {clean(move.why)}" if move.why else ""
    return f"From {move.base.short} back to what {listed(move.restore)} was at {move.to.short}.{why}"


def named(commit: Commit) -> str:
    """A commit as people know it."""
    return f'{commit.short} ("{shorten(clean(commit.subject), 60)}", {clean(commit.author)})'


def _taken_back(move: Move) -> list[str]:
    lines = [f"- {c.short} {shorten(clean(c.subject), 60)} ({clean(c.author)})" for c in move.takes_back[:_TAKEN_BACK]]
    return [*lines, "- and more before"] if len(move.takes_back) > _TAKEN_BACK else lines


# --- by hand --------------------------------------------------------------------------------------------------------


def commands_beside(move: Move, top: Path, remote: str, ref: str) -> tuple[str, ...]:
    """For a clone that is in use: a work tree beside it, so that nobody has to clear anything away."""
    beside = f"{top}-rollback-{move.app}"
    begin: list[Sequence[str]] = [
        ["git", "-C", str(top), "fetch", "--quiet", remote, ref],
        ["git", "-C", str(top), "worktree", "add", "--quiet", "--detach", beside, "FETCH_HEAD"],
    ]
    end = [["git", "-C", str(top), "worktree", "remove", beside]]
    return (*map(shlex.join, begin), *_by_hand(move, beside, remote, ref), *map(shlex.join, end))


def commands_anew(move: Move, url: str, branch: str) -> tuple[str, ...]:
    """For a machine with no clone at all."""
    folder = f"rollback-{move.app}"
    begin = ["git", "clone", "--quiet", "--branch", branch, "--", url, folder]
    return (shlex.join(begin), *_by_hand(move, folder, "origin", f"refs/heads/{branch}"))


def commands_push(move: Move, top: Path, remote: str, ref: str, sha: str) -> tuple[str, ...]:
    """For a commit that is made, and that the remote did not take: as it was meant, or as a branch to be reviewed."""
    branch = f"refs/heads/rollback-{move.app}-{move.to.short}"
    begin = ["git", "-C", str(top), "push", remote]
    return shlex.join([*begin, f"{sha}:{ref}"]), shlex.join([*begin, f"{sha}:{branch}"])


def _by_hand(move: Move, folder: str, remote: str, ref: str) -> list[str]:
    excluded = [f":(top,exclude,literal){path}" for path in move.foreign]
    begin = ["git", "-C", folder]
    lines = []
    if move.remove:
        lines.append([*begin, "rm", "-r", "--quiet", "--", *move.remove, *excluded])
    restore = [*begin, "restore", f"--source={move.to.sha}", "--staged", "--worktree"]
    lines += [
        [*restore, "--", *move.restore, *excluded],
        [*begin, "commit", "--quiet", "-m", subject(move), "-m", _gist(move), "-m", f"Rolled-back-to: {move.to.sha}"],
        [*begin, "push", remote, f"HEAD:{ref}"],
    ]
    return [shlex.join(line) for line in lines]


# --- the answer -----------------------------------------------------------------------------------------------------


def answer_text(answer: Answer, style: Style) -> str:
    """What was done, or what to paste."""
    move, width = answer.move, style.width
    paint = {"rolled back": style.good, "unchanged": style.good, "would roll back": style.warn}
    first = [paint.get(answer.result, style.bad)(line) for line in wrapped(_headline(answer), width, "")]
    if answer.result == "unchanged":
        return "\n".join(first)
    blocks = [first, _facts(answer, style)]
    if answer.notes:
        blocks.append([line for note in answer.notes for line in wrapped(note, width, style.warn("Note: "), "      ")])
    if answer.diff:
        blocks.append([_painted(line, style) for line in answer.diff.splitlines()])
    if answer.commands:
        intro = "Where you may push, these commands do it:"
        if answer.commit:
            intro = f"The commit {answer.commit[:8]} is made, on no branch. Push it as it was meant, or for review:"
        # Each only after the one before it went well, but for the two ways to push a commit.
        glue = "\n" if answer.commit else " &&\n"
        pasted = glue.join(f"    {verbatim(line)}" for line in answer.commands)
        blocks.append([*wrapped(intro, width, ""), "", *pasted.split("\n")])
    if answer.result == "rolled back":
        blocks.append(wrapped(f"Hosts follow at their next poll; there, see: reconciler why {move.app}", width, ""))
    return "\n\n".join("\n".join(block) for block in blocks)


def answer_json(answer: Answer) -> dict[str, Json]:
    """The same for machines, complete."""
    move = answer.move
    return {
        "app": move.app,
        "result": answer.result,
        "from": plain(move.base),
        "to": plain(move.to),
        "because": move.because,
        "why": move.why,
        "restored": list(move.restore),
        "removed": list(move.remove),
        "files": list(move.files),
        "takes_back": [plain(commit) for commit in move.takes_back[:_TAKEN_BACK]],
        "commit": answer.commit or None,
        "pushed_to": answer.pushed_to or None,
        "reason": answer.reason or None,
        "message": answer.message or None,
        "commands": list(answer.commands),
        "notes": list(answer.notes),
        "diff": answer.diff or None,
    }


def _headline(answer: Answer) -> str:
    move = answer.move
    match answer.result:
        case "rolled back":
            return f"{move.app} goes back to {named(move.to)}: {answer.commit[:8]} is pushed to {answer.pushed_to}."
        case "unchanged":
            return f"Nothing to do: {move.app} is as it was at {named(move.to)}."
        case "would roll back":
            ready = f" Nothing is in the way of a push to {answer.pushed_to}." if answer.pushed_to else ""
            held = f" It could not be pushed from here: {answer.message}." if answer.message else ""
            return f"{move.app} would go back to {named(move.to)}.{ready}{held}"
        case "not done":
            return f"Nothing was changed: {answer.message}."


def _facts(answer: Answer, style: Style) -> list[str]:
    move = answer.move
    more = f" and {len(move.files) - _FILES} more" if len(move.files) > _FILES else ""
    facts = [
        ("to", f"{named(move.to)} of {moment(move.to.committed_at)}, {move.because}"),
        ("from", named(move.base)),
        ("changes", f"{count(len(move.files), 'file')}: {', '.join(move.files[:_FILES])}{more}"),
    ]
    facts += [("moves", f"{listed(move.remove)} -> {listed(move.restore)}")] if move.remove else []
    facts += [("why", move.why)] if move.why else []
    facts += [("takes back" if not i else "", line[2:]) for i, line in enumerate(_taken_back(move))]
    lines = []
    for name, text in facts:
        first, *rest = wrapped(text, style.width, f"  {name:<10}  ")
        lines += [first, *rest]
    return lines


def _painted(line: str, style: Style) -> str:
    shown = verbatim(line)
    if line.startswith(("+++", "---", "diff ", "index ", "@@")):
        return style.dim(shown)
    return style.good(shown) if line.startswith("+") else style.bad(shown) if line.startswith("-") else shown
