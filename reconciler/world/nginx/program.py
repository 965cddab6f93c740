"""nginx's program and process: version, test, master, error log."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from reconciler import settings
from reconciler.errors import Unavailable
from reconciler.process import Completed, run

_TIMEOUT = 60.0  # seconds; 1,000 hosts with TLS are tested in one


@dataclass(frozen=True, slots=True)
class Build:
    """What ``nginx -V`` says."""

    version: tuple[int, ...]
    prefix: str
    pid: str
    error_log: str
    temp_paths: tuple[str, ...]
    """The directives for the directories that this nginx makes and gives to its user, even when it only tests."""


class Program:
    """nginx as the settings name it."""

    def __init__(self, nginx: settings.Nginx) -> None:
        self._nginx = nginx
        self._build: tuple[tuple[object, ...], Build] | None = None

    def build(self) -> Build:
        """Version and compiled-in paths; asked again only when the program's file is another one.

        Raises:
            Unavailable: reason ``NginxMissing``, or ``NginxUnusable`` when it does not say its version.
        """
        program = shutil.which(self._nginx.command[0])
        if program is None:
            raise self._missing()
        about = Path(program).stat()
        signature = (program, about.st_mtime_ns, about.st_ino, about.st_size)
        if self._build is None or self._build[0] != signature:
            told = self._call("-V")
            version = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", told.stderr)
            if version is None:
                raise Unavailable(
                    f"{program} -V does not say its version: {told.tail}",
                    reason="NginxUnusable",
                    remedy="Name nginx's program under nginx.command in the agent's settings",
                )
            paths = {"prefix": "/usr/local/nginx", "pid-path": "logs/nginx.pid", "error-log-path": "logs/error.log"}
            paths |= dict(re.findall(r"--(prefix|pid-path|error-log-path)=(\S+)", told.stderr))
            if "-p" in self._nginx.command[:-1]:
                paths["prefix"] = self._nginx.command[self._nginx.command.index("-p") + 1]
            build = Build(
                tuple(map(int, version.groups())),
                paths["prefix"],
                paths["pid-path"],
                paths["error-log-path"],
                tuple(
                    f"{kind}_temp_path"
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
                    if f"--without-http_{kind}_module" not in told.stderr
                ),
            )
            self._build = (signature, build)
        return self._build[1]

    def test(self, config: Path) -> Completed:
        """``nginx -T``: test, and print the whole configuration as it was read."""
        return self._call("-T", "-c", str(config))

    def reload(self, dump: str) -> bool:
        """Signal the master of the nginx that has this configuration; False when there is none.

        Not ``nginx -s reload``: it signals whichever process has got the number in a stale pid file.
        """
        try:
            pid = int(self._path(directive(dump, "pid") or self.build().pid).read_text())
            handle = os.pidfd_open(pid)
        except (OSError, ValueError, OverflowError):
            return False
        try:
            if not Path(f"/proc/{pid}/comm").read_text().startswith("nginx"):
                return False
            signal.pidfd_send_signal(handle, signal.SIGHUP)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def error_log(self, dump: str) -> ErrorLog:
        """The error log, from its present end on."""
        target = directive(dump, "error_log") or self.build().error_log
        if target == "stderr" or target.startswith(("syslog:", "memory:")):
            return ErrorLog(None)
        return ErrorLog(self._path(target))

    def _path(self, named: str) -> Path:
        return Path(self.build().prefix, named)

    def _call(self, *arguments: str) -> Completed:
        try:
            return run([*self._nginx.command, *arguments], timeout=_TIMEOUT)
        except Unavailable as error:
            if error.reason == "CommandMissing":
                raise self._missing() from error
            raise

    def _missing(self) -> Unavailable:
        return Unavailable(
            f"nginx ({self._nginx.command[0]}) is not installed, so no route can change",
            reason="NginxMissing",
            remedy="Install nginx, name its program under nginx.command in the agent's settings, or set 'nginx: null'",
        )


class ErrorLog:
    """What nginx writes to its error log from now on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begin = path.stat().st_size if path is not None and path.exists() else 0

    def complaints(self) -> str:
        """New messages of level critical and above, in one line."""
        if self._path is None:
            return "its error log is not a file, look where it goes (journalctl -u nginx)"
        try:
            with self._path.open("rb") as file:
                file.seek(self._begin)
                text = file.read(1_000_000).decode(errors="replace")
        except OSError as error:
            return f"its error log cannot be read: {error}"
        said = re.findall(r"\[(?:emerg|alert|crit)\] \d+#\d+: (.*)", text)
        return "; ".join(dict.fromkeys(said)) or f"it says nothing about it in {self._path}"


def directive(dump: str, name: str) -> str | None:
    """The first argument of a directive that stands outside of all blocks; None when there is none."""
    main = re.split(r"^\s*(?:events|http|stream|mail)\s*\{", dump, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(rf"^\s*{name}\s+[\"']?([^\s;\"']+)", main, re.MULTILINE)
    return found[1] if found else None
