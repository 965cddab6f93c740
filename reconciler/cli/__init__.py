"""Arguments in, text out. The only place that knows both the walk and the world.

Exit codes of every verb: 0 in sync or done, 1 error, 2 differences (``plan``: something would change; ``sync`` and
``status``: not everything is in sync; ``why``: nor is this app; ``rollback``: it would change something and has not;
``validate`` has only 0 and 1).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from reconciler import __version__

IN_SYNC, ERROR, DIFFERENCES = 0, 1, 2

DEFAULT_CONFIG = Path("/etc/reconciler/agent.yaml")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors exit with 1: 2 means differences here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ERROR, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command ``reconciler``."""
    options = parser().parse_args(arguments)
    _log(options)
    from reconciler.cli import verbs
    from reconciler.errors import ReconcilerError

    code = ERROR
    try:
        code = verbs.VERBS[options.verb](options)
        sys.stdout.flush()
    except ReconcilerError as error:
        verbs.print_error(error, options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone; nothing more to say
    except KeyboardInterrupt:
        code = 130
    if options.verb == "run":
        # A pull or a git command may still be under way in a thread; what it left is seen by the next start.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = _Parser(
        prog="reconciler",
        description="GitOps for plain Linux VMs: keeps this host the way its Git repository says.",
        epilog="Exit codes: 0 in sync or done, 1 error, 2 differences.",
    )
    top.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help=f"the agent's settings (default: {DEFAULT_CONFIG})"
    )
    top.add_argument("--output", choices=("text", "json"), default="text", help="for people, or for programs")
    top.add_argument("--verbose", action="store_true", help="log what is done and why")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # After the verb too, and then only where given: an absent one must not undo one that stood before the verb.
        sub.add_argument("--config", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument("--output", choices=("text", "json"), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    validate = verb("validate", "check every manifest; needs no host, no Docker and no keys", "reconciler validate .")
    validate.add_argument("path", nargs="?", type=Path, default=Path(), help="the config repository (default: here)")

    render = verb("render", "print what this host should have, secrets hidden", "reconciler render shop")
    render.add_argument("app", nargs="?", help="only this app")

    plan = verb("plan", "print what would happen, why, in which order, and what it costs", "reconciler plan")
    plan.add_argument("--against", metavar="REV", help="compare the repository in PATH with REV instead; needs no host")
    plan.add_argument("--path", type=Path, default=Path(), help="with --against: the config repository (default: here)")
    plan.add_argument("--host", help="with --against: a host of fleet.yaml (default: each of them)")

    sync = verb("sync", "bring this host to the tip of the repository, and wait for it", "reconciler sync")
    sync.add_argument("--timeout", type=float, default=600.0, help="seconds to wait (default: 600)")

    run = verb("run", "the agent: sync, repair, and follow the repository until stopped", "reconciler run")
    run.add_argument("--worktree", type=Path, metavar="PATH", help="follow a directory, uncommitted edits included")

    verb("status", "where every app stands", "reconciler status")

    history = verb("history", "what happened, newest first", "reconciler history shop")
    history.add_argument("app", nargs="?", help="only this app")
    history.add_argument("--limit", type=int, default=20, help="so many entries (default: 20)")

    why = verb("why", "where one app stands, why, and what to do", "reconciler why shop")
    why.add_argument("app")

    rollback = verb(
        "rollback",
        "put an app back to how it was, by a commit that is pushed; or say how, where that cannot be done",
        "reconciler rollback shop --to 1a2b3c4d",
    )
    rollback.add_argument("app")
    rollback.add_argument("--to", metavar="REV", help="as it was at REV (default: the version before this one)")
    rollback.add_argument("--repository", type=Path, metavar="PATH", help="a clone's manifests (default: around here)")
    rollback.add_argument("--why", default="", help="for the commit's message")
    rollback.add_argument("--dry-run", action="store_true", help="show the difference and change nothing")

    schema = verb("schema", "print a JSON Schema, for editors and for reading", "reconciler schema app")
    schema.add_argument("name", choices=("app", "fleet", "agent"))

    verb("version", "print the version", "reconciler version")

    accept = verb("accept", "accept a rewritten history or a mass removal", "reconciler accept 1a2b3c4d")
    accept.add_argument("revision")
    suspend = verb("suspend", "leave an app alone until resume", "reconciler suspend shop --why 'debugging'")
    suspend.add_argument("app")
    suspend.add_argument("--why", default="", help="shown in the status")
    resume = verb("resume", "take a suspended app up again", "reconciler resume shop")
    resume.add_argument("app")
    retry = verb(
        "retry", "try once more what was given up, or go on where a rollout has stopped", "reconciler retry shop"
    )
    retry.add_argument("app")

    verb("names", "run the names service in the foreground; for systemd", "reconciler names")
    top.set_defaults(version=__version__)
    return top


def _log(options: argparse.Namespace) -> None:
    level = logging.DEBUG if options.verbose else logging.INFO if options.verb == "run" else logging.ERROR
    # Under systemd the journal knows the time.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(level=level, format=f"{stamp}%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("urllib3", "docker", "git", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
