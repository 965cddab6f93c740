"""The one way to run an external command.

Every call has a timeout, a session of its own and an explicit environment; nothing passes through a shell.
Commands that need standard error kept out of messages (sops prints plaintext there) say so with ``quiet``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.errors import Unavailable

log = logging.getLogger(__name__)

_running: set[subprocess.Popen[bytes]] = set()
_starting = threading.Lock()  # so that ``end_all`` misses none that runs already but is not in the set yet
_STDERR_KEPT = 2_000  # characters of standard error that an operator can still read


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command that ran to its end left behind."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: str

    @property
    def tail(self) -> str:
        """The end of standard error, fit for a message."""
        return self.stderr.strip()[-_STDERR_KEPT:]


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    directory: str = "/",
    quiet: bool = False,
) -> Completed:
    """Run a command to its end.

    Args:
        argv: The command and its arguments.
        timeout: Seconds after which the whole process group is killed.
        environment: The complete environment; ``None`` inherits ours.
        stdin: Bytes for standard input.
        directory: The working directory.
        quiet: Drop standard error unread, because it may hold secrets.

    Raises:
        Unavailable: The command is not installed (reason ``CommandMissing``), could not be started for want of
            anything else (``CommandFailed``), or took longer than ``timeout`` (``Timeout``). A non-zero exit code is
            not an error here; the caller knows its meaning.
    """
    log.debug("run %s", " ".join(argv))
    try:
        with _starting:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet else subprocess.PIPE,
                env=None if environment is None else dict(environment),
                cwd=directory,
                start_new_session=True,
            )
            _running.add(process)
    except OSError as error:
        raise _not_started(argv[0], directory, error) from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise Unavailable(f"{argv[0]} did not finish within {timeout:g} s", reason="Timeout") from error
        except BaseException:
            _kill(process)
            raise
        finally:
            _running.discard(process)
    return Completed(tuple(argv), process.returncode, stdout, (stderr or b"").decode(errors="replace"))


def end_all() -> None:
    """Kill every command that still runs, with its children: whoever ends now must leave none behind."""
    with _starting:
        running = tuple(_running)
    for process in running:
        if process.returncode is None:
            log.debug("end %s", process.args)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _not_started(command: str, directory: str, error: OSError) -> Unavailable:
    # Popen names the directory in the error where it could not be entered, and else the command.
    if error.filename == directory and command != directory:
        return Unavailable(
            f"{command} cannot be started in {directory}: {error.strerror}",
            reason="CommandFailed",
            remedy=f"See that {directory} is a directory: `ls -ld {directory}`",
        )
    if isinstance(error, FileNotFoundError):
        return Unavailable(
            f"the command {command!r} is not installed",
            reason="CommandMissing",
            remedy=f"Install {command} or name its path in the agent's settings",
        )
    if isinstance(error, PermissionError):
        return Unavailable(
            f"the command {command!r} may not be executed",
            reason="CommandMissing",
            remedy=f"Look at `ls -l {command}`, and whether its disk is mounted noexec",
        )
    return Unavailable(
        f"the command {command!r} cannot be started: {error.strerror or error}",
        reason="CommandFailed",
        remedy="Look for want of memory, processes or open files (`systemctl status reconciler`, `dmesg`), and that "
        "the program is made for this machine",
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()
