"""What each verb does: a prefix of the walk, printed."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler import schema, settings
from reconciler.cli import DIFFERENCES, ERROR, IN_SYNC
from reconciler.core import serialise
from reconciler.errors import InvalidInput, ReconcilerError, Refused, Unavailable

if TYPE_CHECKING:
    from reconciler.cli.wiring import Host

Options = argparse.Namespace


def print_error(error: ReconcilerError, options: Options) -> None:
    """An error, for people on standard error, for programs on standard output."""
    if options.output == "json":
        print(serialise.text({"error": error.reason, "message": error.message, "remedy": error.remedy}))
    else:
        print(f"reconciler: {error}", file=sys.stderr)


# --- without a host -------------------------------------------------------------------------------------------------


def validate(options: Options) -> int:
    """Check every manifest of a directory."""
    from reconciler.cli.render_text import problems_json, problems_text
    from reconciler.cli.text import Style
    from reconciler.cli.wiring import manifest_reader
    from reconciler.world.directory import DirectoryTree

    tree = DirectoryTree(options.path)
    catalog = manifest_reader().read(tree)
    if not catalog.apps and not catalog.problems:
        raise InvalidInput(
            f"there is no manifest below {options.path}",
            reason="NoManifests",
            remedy="A manifest is a file called app.yaml, app.yml or app.json",
        )
    manifests = len(catalog.apps) + len(catalog.broken)
    if options.output == "json":
        print(serialise.text(problems_json(catalog.problems, manifests), indent=2))
    else:
        print(problems_text(catalog.problems, manifests, Style.of(sys.stdout)))
    return ERROR if any(problem.severity == "error" for problem in catalog.problems) else IN_SYNC


def print_schema(options: Options) -> int:
    """Print a schema."""
    print(schema.text(options.name), end="")
    return IN_SYNC


def version(options: Options) -> int:
    """Print the version."""
    print(serialise.text({"version": options.version}) if options.output == "json" else options.version)
    return IN_SYNC


# --- on a host ------------------------------------------------------------------------------------------------------


def render(options: Options) -> int:
    """Print the resolved desired state."""
    from reconciler.cli.render_text import render_json, render_text
    from reconciler.cli.text import Style

    view = _host(options).look()
    targets = {n: t for n, t in view.wanted.targets.items() if options.app in {None, n}}
    if options.app and not targets:
        raise InvalidInput(f"no app called {options.app!r} belongs on this host", reason="UnknownApp")
    if options.output == "json":
        print(serialise.text(render_json(targets), indent=2))
    else:
        print(render_text(targets, Style.of(sys.stdout)))
    return IN_SYNC


def plan(options: Options) -> int:
    """Print what would happen."""
    if options.against is not None:
        from reconciler.cli.against import plan_against

        return plan_against(options)
    from reconciler.cli.plan_text import forecast_exit_code, plan_json, plan_text
    from reconciler.cli.text import Style
    from reconciler.core.simulate import forecast

    host = _host(options)
    view = host.look()
    expected = forecast(view.wanted, view.observed, view.memory, host.settings.docker.subnet, time.time())
    about = (expected, view.plan, view.commit, view.observed)
    name, applied = host.settings.host, host.applied_apps(view)
    if options.output == "json":
        print(serialise.text(plan_json(*about, host=name, applied=applied), indent=2))
    else:
        print(plan_text(*about, Style.of(sys.stdout), host=name, applied=applied))
    return forecast_exit_code(expected, view.plan)


def sync(options: Options) -> int:
    """Walk until everything is in sync, or nothing more can be done without a person."""
    from reconciler.cli.syncing import sync_here, sync_through_agent

    host = _host(options)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # "look again" is meant for an agent: we are looking
    try:
        host.lock.acquire()
    except Refused:
        return sync_through_agent(host, options)
    return sync_here(host, options)


def run(options: Options) -> int:
    """The agent."""
    from reconciler import process
    from reconciler.world.notify import Notifier

    host = _host(options, worktree=options.worktree)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop is there to look again
    host.lock.acquire()
    agent, wakers = host.agent(Notifier(os.environ))
    agent.run(wakers)
    process.end_all()  # git may be waiting for a remote that stalls
    return ERROR if agent.crashed else IN_SYNC


def status(options: Options) -> int:
    """Where every app stands, from the running agent, else what it saw last."""
    from reconciler.cli.status_text import status_text
    from reconciler.cli.text import Style, terminal_width
    from reconciler.cli.wiring import status_now

    current, stale = status_now(_host(options))
    if options.output == "json":
        print(serialise.text({"stale": stale, **_object(serialise.plain(current))}, indent=2))
    else:
        print(status_text(current, Style.of(sys.stdout), now=time.time(), width=terminal_width(), stale=stale))
    if stale:
        return ERROR
    return IN_SYNC if current.result == "converged" else DIFFERENCES


def history(options: Options) -> int:
    """What happened."""
    from reconciler.cli.history_text import history_json, history_text
    from reconciler.cli.text import Style

    entries = _host(options).store.history(options.app, options.limit)
    if options.output == "json":
        print(serialise.text(history_json(entries), indent=2))
    else:
        print(history_text(entries, Style.of(sys.stdout), time.time()))
    return IN_SYNC


def why(options: Options) -> int:
    """Where one app stands, why, and what to do."""
    from reconciler.cli.text import Style
    from reconciler.cli.why import explain, recollect
    from reconciler.cli.why_text import why_json, why_text
    from reconciler.cli.wiring import status_now

    host = _host(options)
    current, stale = status_now(host)
    told = explain(options.app, current, stale, recollect(host, options.app))
    if options.output == "json":
        print(serialise.text(why_json(told), indent=2))
    else:
        print(why_text(told, Style.of(sys.stdout), time.time()))
    if stale:
        return ERROR
    return IN_SYNC if told.fine else DIFFERENCES


def rollback(options: Options) -> int:
    """Put an app back to how it was."""
    from reconciler.cli.rollback import rollback as roll_back

    return roll_back(options)


# --- a person decides -----------------------------------------------------------------------------------------------


def accept(options: Options) -> int:
    """Accept a rewritten history, or what a revision removes."""
    host = _host(options)
    commit = host.source.accept(options.revision)
    host.store.accept(commit.sha)
    return _decided(host, options, f"{commit.short} ({commit.subject}) is accepted")


def suspend(options: Options) -> int:
    """Leave an app alone."""
    host = _host(options)
    host.store.suspend(options.app, options.why, time.time())
    return _decided(host, options, f"{options.app} is left alone until: reconciler resume {options.app}")


def resume(options: Options) -> int:
    """Take an app up again."""
    host = _host(options)
    if options.app not in host.store.memory().suspended:
        raise InvalidInput(f"{options.app} is not suspended", reason="NotSuspended")
    host.store.resume(options.app)
    return _decided(host, options, f"{options.app} is taken up again")


def retry(options: Options) -> int:
    """Lift a quarantine; run an after_deploy that failed once more; go on where before_deploy broke what runs.

    Where nothing of that waits, ask again whether the app could go back.
    """
    host = _host(options)
    memory = host.store.memory()
    due, rehearsed = memory.due.get(options.app), memory.rehearsed.get(options.app)
    waits = options.app in memory.quarantined or bool(due and due.cause) or _is_stopped(host, options.app)
    if not waits and (rehearsed is None or rehearsed.ready):
        raise InvalidInput(
            f"no version of {options.app} is in quarantine, and nothing else of it waits for a person",
            reason="NotQuarantined",
        )
    host.store.retry(options.app, time.time() if waits else 0.0)
    if not waits:
        return _decided(host, options, f"whether {options.app} could go back is rehearsed once more")
    return _decided(host, options, f"{options.app} is tried once more")


def _is_stopped(host: Host, app: str) -> bool:
    """Its rollout waits, because before_deploy made the version that runs sick; or that is just being restarted."""
    from reconciler.cli.wiring import status_now
    from reconciler.core.guarding import BROKEN

    with contextlib.suppress(ReconcilerError):
        current, _ = status_now(host)
        return app in current.apps and current.apps[app].reason in {BROKEN, "Working"}
    return False


def names(options: Options) -> int:
    """Become dnsmasq."""
    host = _host(options)
    host.names.prepare()
    argv = host.names.argv()
    try:
        os.execvp(argv[0], argv)  # noqa: S606  (no shell is wanted)
    except OSError as error:
        raise Unavailable(f"{argv[0]} cannot be started: {error.strerror}", reason="CommandMissing") from error


def _decided(host: Host, options: Options, text: str) -> int:
    pid = host.lock.holder()
    with contextlib.suppress(OSError):  # it has just ended, or is root's: its next poll comes anyway
        if pid:  # 0: somebody runs, but could not write down who
            os.kill(pid, signal.SIGHUP)
    text += "; the agent was told" if pid is not None else "; the next sync or agent will act on it"
    print(serialise.text({"message": text}) if options.output == "json" else text)
    return IN_SYNC


def _host(options: Options, worktree: Path | None = None) -> Host:
    from reconciler.cli.wiring import Host

    return Host(settings.load_settings(options.config), worktree)


def _object(value: serialise.Json) -> dict[str, serialise.Json]:
    return value if isinstance(value, dict) else {}


VERBS: dict[str, Callable[[Options], int]] = {
    "validate": validate,
    "render": render,
    "plan": plan,
    "sync": sync,
    "run": run,
    "status": status,
    "history": history,
    "why": why,
    "rollback": rollback,
    "schema": print_schema,
    "version": version,
    "accept": accept,
    "suspend": suspend,
    "resume": resume,
    "retry": retry,
    "names": names,
}
