"""What nginx has loaded, and how it is brought to load something else.

    DIRECTORY/generations/ID/reconciler.conf   complete configurations, named after their bytes; the last five are kept
    DIRECTORY/current -> generations/ID        what nginx's main configuration includes

nginx is asked over HTTP which generation it has loaded. A reload is silently refused when a port is taken, so nothing
but that answer counts.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from reconciler import settings
from reconciler.core.observed import SiteState
from reconciler.core.site import FILE, GENERATION_HOST, app_at, slots_in
from reconciler.disk import sync_directory, unavailable
from reconciler.errors import Failed, ReconcilerError, Unavailable
from reconciler.process import Completed
from reconciler.world.nginx.certificates import Certificates
from reconciler.world.nginx.program import Program

log = logging.getLogger(__name__)

_RESOLVE = (1, 27, 3)
_KEEP = 5  # generations
_ASK_TIMEOUT = 2.0  # seconds
_POLL = 0.02  # seconds
_SETTLED = 0.3  # seconds during which nothing but the new generation answers
_GENERATION = re.compile(r"[0-9a-f]{16}\Z")


def include_line(directory: Path) -> str:
    """The line that nginx's main configuration must have in its ``http`` block."""
    return f"include {directory}/current/*.conf;"


class NginxSite:
    """Implements ``protocols.Site``.

    Args:
        nginx: From the settings.
        directory: Ours, on a disk that survives a reboot.
    """

    def __init__(self, nginx: settings.Nginx, directory: Path) -> None:
        self._nginx = nginx
        self._generations = directory / "generations"
        self._current = directory / "current"
        self._include = include_line(directory)
        self._program = Program(nginx)
        self._certificates = Certificates(nginx.certificates)
        self._read: tuple[str, frozenset[str]] = ("", frozenset())

    def observe(self) -> SiteState:
        """What is loaded: one HTTP request, and no command as long as nginx's program is the same.

        ``loaded`` is empty where nginx answers, but with no generation of ours.

        Raises:
            Unavailable: reason ``NginxMissing``, or ``CertificatesUnreadable`` at the start.
        """
        build = self._program.build()
        digests = self._certificates.usable()
        loaded, written = self._loaded(), self._written()
        return SiteState(
            loaded=loaded,
            written=written,
            resolve=build.version >= _RESOLVE,
            certificates=frozenset(digests),
            certificate_digests=digests,
            version=build.version,
            slots=self._slots(loaded or written or ""),
            since=self._since(),
            ipv6=Path("/proc/net/if_inet6").exists(),
        )

    def load(self, generation: str, files: Sequence[tuple[str, str]]) -> None:
        """Write, test, switch, reload and confirm.

        The candidate is first tested alone, in a configuration of nothing but itself, where nobody else can load it.
        Only then is it switched to, and tested together with the rest of the host's configuration. Whoever reloads
        nginx in those few milliseconds gets a generation that is sound by itself, and nginx refuses it as we would
        where it collides with the rest. (A copy of the main configuration cannot be tested instead: the line that
        includes us may stand at any depth, and relative paths in it depend on where the file lies.)

        Raises:
            Failed: reason ``NginxRejected`` (a test failed), ``NginxNotIncluded`` (nginx's configuration does not
                mention ours) or ``NginxDidNotLoad`` (it went on with the old generation, e.g. because a port is
                taken). The old generation is in place again.
            Unavailable: reason ``NginxDown``, and the new generation is in place for when it starts;
                ``NginxMissing``; ``DiskFull`` and the like.
        """
        loaded, before = self._loaded(), self._written()
        if loaded == before == generation:
            return
        try:
            self._write(generation, files)
            self._test_alone(generation)
            self._switch(generation)
            try:
                dump = self._test_whole(generation)
            except ReconcilerError:
                self._put_back(generation, loaded, before)
                raise
            self._reload(generation, dump, loaded, before)
            self._remove_old(generation)
        except OSError as error:
            raise unavailable(error, self._generations, "the new nginx configuration cannot be written") from error

    def _loaded(self) -> str | None:
        """Ask on a fresh connection: one kept open would still talk to a worker of the generation before."""
        address = self._nginx.address or "127.0.0.1"
        request = f"GET / HTTP/1.0\r\nHost: {GENERATION_HOST}\r\nConnection: close\r\n\r\n"
        try:
            with socket.create_connection((address, self._nginx.http), timeout=_ASK_TIMEOUT) as connection:
                connection.sendall(request.encode())
                with connection.makefile("rb") as answer:
                    body = answer.read(65_536).partition(b"\r\n\r\n")[2].decode("ascii", "replace").strip()
        except OSError:
            return None
        return body if _GENERATION.match(body) else ""

    def _written(self) -> str | None:
        try:
            return self._current.readlink().name
        except OSError:
            return None

    def _since(self) -> float:
        try:
            return self._current.lstat().st_mtime
        except OSError:
            return 0.0

    def _slots(self, generation: str) -> frozenset[str]:
        """Apps whose slots a generation has; its file is read once, as it never changes."""
        if self._read[0] != generation:
            text = _content(self._generations / generation / FILE) if _GENERATION.match(generation) else None
            self._read = (generation, slots_in(text or ""))
        return self._read[1]

    def _write(self, generation: str, files: Sequence[tuple[str, str]]) -> None:
        directory = self._generations / generation
        if all(_content(directory / name) == content for name, content in files):
            os.utime(directory)  # the last to be used are kept
            return
        self._generations.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self._generations))
        try:
            for name, content in files:
                with (draft / name).open("w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            draft.chmod(0o755)
            if directory.exists():  # its bytes were cut short by a crash, or edited
                shutil.rmtree(directory)
            draft.rename(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync_directory(self._generations)

    def _test_alone(self, generation: str) -> None:
        candidate = self._generations / generation
        with tempfile.TemporaryDirectory(prefix="reconciler-nginx-") as place:
            config = Path(place, "nginx.conf")
            # Even to test, nginx makes its temporary directories and gives them to the user of its configuration. This
            # one names none: the workers that run could no longer write a request's body to the real ones.
            temporary = "".join(f"{name} {place}/{name};\n" for name in self._program.build().temp_paths)
            config.write_text(
                f"pid {place}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
                f'http {{\naccess_log off;\n{temporary}include "{candidate}/*.conf";\n}}\n'
            )
            told = self._program.test(config)
        if told.code != 0:
            raise _rejected(told, candidate)

    def _test_whole(self, generation: str) -> str:
        """Test everything with the candidate in place; the whole configuration as nginx read it."""
        told = self._program.test(self._nginx.config)
        if told.code != 0:
            raise _rejected(told, self._current)
        dump = told.stdout.decode(errors="replace")
        read = re.findall(r"^# configuration file (.*):$", dump, re.MULTILINE)
        candidate = (self._generations / generation / FILE).resolve()
        if not any(Path(name).name == FILE and Path(name).resolve() == candidate for name in read):
            raise Failed(
                f"{self._nginx.config} does not include our configuration, so no route can work",
                reason="NginxNotIncluded",
                remedy=f"Add this line to its http block, or to a file that the block includes: {self._include}",
            )
        return dump

    def _reload(self, generation: str, dump: str, loaded: str | None, before: str | None) -> None:
        error_log = self._program.error_log(dump)
        if not self._program.reload(dump):
            raise Unavailable(
                f"nginx is not running; generation {generation} is in place and will be served when it starts",
                reason="NginxDown",
                remedy="Start nginx (systemctl start nginx), and look at its error log",
            )
        deadline = time.monotonic() + self._nginx.reload_timeout
        since = None
        # nginx starts new workers and tells the old ones to go 100 ms later: until then either may answer.
        while since is None or time.monotonic() - since < _SETTLED:
            if self._loaded() != generation:
                since = None
            elif since is None:
                since = time.monotonic()
            if since is None and time.monotonic() > deadline:
                self._put_back(generation, loaded, before)
                self._program.reload(dump)  # should it be late, it finds the old one
                raise Failed(
                    f"nginx did not load generation {generation} within {self._nginx.reload_timeout:g} s and goes on "
                    f"with what it had: {error_log.complaints()}",
                    reason="NginxDidNotLoad",
                    remedy="Mend what nginx complains about (a taken port must be free before it can listen there)",
                )
            time.sleep(_POLL)
        log.info("nginx has loaded generation %s", generation)

    def _put_back(self, generation: str, loaded: str | None, before: str | None) -> None:
        """Point ``current`` to what nginx has loaded, or had before."""
        kept = (name for name in (loaded, before, *self._kept()) if name and (self._generations / name).is_dir())
        good = next((name for name in kept if name != generation), None)
        if good is None:
            self._current.unlink(missing_ok=True)
        else:
            self._switch(good)

    def _switch(self, generation: str) -> None:
        draft = self._current.with_name(".current")
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("generations") / generation)
        draft.replace(self._current)
        sync_directory(self._current.parent)

    def _kept(self) -> list[str]:
        """Generations on disk, newest first."""
        found = [entry for entry in self._generations.iterdir() if _GENERATION.match(entry.name)]
        return [entry.name for entry in sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True)]

    def _remove_old(self, generation: str) -> None:
        for name in self._kept()[_KEEP:]:
            if name != generation:
                shutil.rmtree(self._generations / name, ignore_errors=True)


def _rejected(told: Completed, directory: Path) -> Failed:
    """The failure in nginx's own words, with the app they are about where the place is in our file."""
    lines = [line for line in told.stderr.splitlines() if "[emerg]" in line] or told.tail.splitlines()
    complaint = "; ".join(line.partition("] ")[2] or line for line in lines[:3])
    place = re.search(rf"{re.escape(str(directory))}/{re.escape(FILE)}:(\d+)", complaint)
    app = app_at(_content(directory / FILE) or "", int(place[1])) if place else None
    remedy = "Mend it; nginx goes on with the routes it has"
    if "duplicate default server" in complaint:
        remedy = (
            "Another site of this host is the default server: remove that (Debian's is "
            "/etc/nginx/sites-enabled/default), or set nginx.default_server to false in the agent's settings"
        )
    if "Read-only file system" in complaint:
        remedy = (
            "systemd lets the agent write only where packages of nginx do: systemctl edit reconciler, with the lines "
            "[Service] and ReadWritePaths=/that/directory, then systemctl restart reconciler"
        )
    what = f"the routes of {app}" if app else "the new configuration"
    return Failed(f"nginx rejects {what}: {complaint}", reason="NginxRejected", remedy=remedy)


def _content(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None
