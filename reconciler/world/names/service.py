"""The names service: dnsmasq with one file for each app, which nginx and the other apps ask.

dnsmasq watches a directory and takes a file that is replaced in it within some tens of milliseconds. It is a process of
its own: names and traffic survive the agent. What it *answers* is observed, not only what was written, because a
dnsmasq whose directory was removed and made again is blind without a word.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler import disk, settings
from reconciler.core.appfile import NAME
from reconciler.core.observed import NamesState, NameState
from reconciler.core.slots import is_slot
from reconciler.errors import InvalidInput, Unavailable
from reconciler.process import run
from reconciler.world.names import processes
from reconciler.world.names.asking import PORT, Resolver

log = logging.getLogger(__name__)

_BLIND = 1.2  # seconds after which file and answer must agree; dnsmasq needs 0.06
_START = 5.0  # seconds until it answers
_COME_BACK = 2.0  # seconds until systemd has restarted it
_COMM = 15  # bytes of a program's name that the kernel keeps
_ANY = "reconciler"  # any name will do to hear whether somebody answers
_LATE = 10.0  # seconds; a file that is older was answered long before we first looked
_MEANWHILE = (
    "apps run on and keep the connections they have; nginx before 1.27.3 answers 503, later ones go on with the "
    "addresses they know"
)
_UPSTREAM = re.compile(r"[0-9A-Fa-f.:]+(#[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class _File:
    signature: tuple[int, int, int]
    addresses: tuple[str, ...]


class DnsmasqNames:
    """Implements ``protocols.Names``.

    Args:
        directory: One file for each name, on a disk that survives a reboot. Never removed: see above.
        gateway: Where dnsmasq listens; containers have it as their resolver.
        service: From the settings.
        pidfile: Written by dnsmasq. Its log is beside it.
    """

    def __init__(self, directory: Path, gateway: str, service: settings.NamesService, pidfile: Path) -> None:
        self._directory = directory
        self._gateway = gateway
        self._resolver = Resolver(gateway)
        self._service = service
        self._pidfile = pidfile
        self._files: dict[str, _File] = {}
        self._agreed: dict[str, tuple[tuple[str, ...], float]] = {}

    # --- files ---

    def set(self, name: str, addresses: Sequence[str]) -> None:
        """Replace one name's file atomically; with no addresses the file is empty, so that its time is known.

        Raises:
            InvalidInput: reason ``UnsafeName``; what the schema lets through never is.
            Unavailable: reason ``DiskFull`` and the like; the name goes on answering what it did.
        """
        path = self._path(name)
        try:
            wanted = sorted({str(ipaddress.IPv4Address(address)) for address in addresses})
        except ValueError as error:
            raise InvalidInput(f"the name {name!r} cannot have the address {error}", reason="UnsafeName") from error
        content = _content(name, wanted)
        draft = self._directory / f".{name}"  # dnsmasq reads no file whose name begins with a dot
        try:
            if path.is_file() and path.read_bytes() == content:
                if path.stat().st_mtime > time.time() + 1:
                    os.utime(path)  # the clock went back; nobody could tell when this settles
                return
            self.prepare()
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(0o644)
            draft.replace(path)
            disk.sync_directory(self._directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise disk.unavailable(error, self._directory, f"the addresses of {name} cannot be written") from error

    def forget(self, name: str) -> None:
        """Remove the file of a name that no app has any more."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise disk.unavailable(error, self._directory, f"the name {name} cannot be removed") from error

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise InvalidInput(f"{name!r} cannot be a name", reason="UnsafeName")
        return self._directory / name

    def _written(self) -> dict[str, tuple[tuple[str, ...], float]]:
        """Name -> addresses and time of change. Only files that have changed are read."""
        files: dict[str, _File] = {}
        written = {}
        for entry in self._entries():
            with contextlib.suppress(OSError):  # removed in this moment
                about = entry.stat()
                signature = (about.st_mtime_ns, about.st_ino, about.st_size)
                known = self._files.get(entry.name)
                if known is None or known.signature != signature:
                    known = _File(signature, _addresses(entry.name, Path(entry.path).read_bytes()))
                files[entry.name] = known
                written[entry.name] = (known.addresses, about.st_mtime)
        self._files = files
        return written

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self._directory) as entries:
                yield from (entry for entry in entries if _is_name(entry.name))
        except FileNotFoundError:
            return

    # --- answers ---

    def observe(self, names: Collection[str]) -> NamesState:
        """What is written and what is answered for these names, and for every other name that has a file.

        Hundreds of names cost one socket and some milliseconds. ``up_since`` is None as well where somebody else
        answers at our address.
        """
        written = self._written()
        asked = sorted(written.keys() | set(names)) or [_ANY]
        answered = self._resolver.ask(asked)
        states = {name: self._state(name, written, answered) for name in written.keys() | set(names)}
        self._agreed = {name: since for name, since in self._agreed.items() if name in states}
        process = self._pid()
        return NamesState(processes.started_at(process) if answered and process else None, states)

    def _state(
        self,
        name: str,
        written: Mapping[str, tuple[tuple[str, ...], float]],
        answered: Mapping[str, tuple[str, ...]],
    ) -> NameState:
        """One name, and since when it answers what is written: a busy machine may read the file late."""
        addresses, written_at = written.get(name, ((), 0.0))
        answer = answered.get(name)
        if answer != addresses:
            self._agreed.pop(name, None)
            return NameState(addresses, written_at, answer)
        known = self._agreed.get(name)
        if known is None or known[0] != addresses or known[1] > written_at + _LATE:  # or the clock went back
            now = time.time()
            known = (addresses, now if 0 <= now - written_at < _LATE else written_at)
            self._agreed[name] = known
        return NameState(addresses, written_at, answer, known[1])

    def _agrees(self) -> bool:
        """It answers, and what it answers is what is written. Remembers nothing: ``observe`` may run beside it."""
        written = self._written()
        answered = self._resolver.ask(sorted(written) or [_ANY])
        return bool(answered) and all(answered.get(name) == addresses for name, (addresses, _) in written.items())

    # --- the process ---

    def argv(self) -> list[str]:
        """The full command line that stays in the foreground and logs to standard error, for systemd."""
        return [*self._arguments(), "--keep-in-foreground", "--log-facility=-"]

    def prepare(self) -> None:
        """Make the directories that dnsmasq wants to find."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._pidfile.parent.mkdir(mode=0o755, parents=True, exist_ok=True)

    def start(self) -> None:
        """See that the service runs and answers what is written; restart it where it is blind or hangs.

        The new process is a daemon of its own session, with init as its parent: it outlives us.

        Raises:
            Unavailable: reason ``NamesDown`` (systemd should have started it), ``NamesPortTaken``, ``NamesFailed``
                or ``CommandMissing``.
        """
        self.prepare()
        running = self._search()
        if running:
            if _within(_BLIND, self._agrees):
                if self._pid() is None:  # somebody has removed it
                    self._pidfile.write_text(f"{running[0]}\n")
                return
            log.warning("dnsmasq (process %d) does not answer what is written: it is restarted", running[0])
            for pid in running:
                processes.stop(pid)
        if self._service.start:
            self._spawn()
        patience = _START if self._service.start else _COME_BACK
        if self._resolver.is_here() and not _within(patience, lambda: bool(self._resolver.ask([_ANY]))):
            if self._service.start:
                raise Unavailable(
                    f"the names service was started but does not answer at {self._gateway}; {self._log_tail()}",
                    reason="NamesFailed",
                    remedy="Look whether a firewall of this host drops packets to its own addresses",
                )
            raise Unavailable(
                f"the names service does not run: {_MEANWHILE}",
                reason="NamesDown",
                remedy="systemctl restart reconciler-names, and look at: journalctl -u reconciler-names",
            )

    def _arguments(self) -> list[str]:
        upstream = self._service.upstream
        if not all(map(_UPSTREAM.match, upstream)):
            raise InvalidInput(f"names.upstream: {upstream!r} are not IP addresses", reason="InvalidSettings")
        return [
            self._service.command,
            "--conf-file=/dev/null",  # the host's own dnsmasq.conf is about another dnsmasq
            f"--pid-file={self._pidfile}",
            f"--listen-address={self._gateway}",
            "--bind-dynamic",  # the bridge may come later, and go and come back
            "--no-hosts",
            f"--hostsdir={self._directory}",
            "--local-ttl=0",
            # Plain names never leave the host, and unknown ones are NXDOMAIN: musl and nginx take REFUSED badly.
            "--domain-needed",
            "--cache-size=1000",
            "--dns-forward-max=1000",
            "--edns-packet-max=4096",
            "--dns-loop-detect",  # the host's own resolver may be told to ask us
            *(["--no-resolv"] if upstream else []),
            *(f"--server={server}" for server in upstream),
            *self._user(),
        ]

    def _user(self) -> list[str]:
        """Let dnsmasq give up root for a user of its own, unless that user could not reach the names."""
        closed = [path for path in (self._directory, *self._directory.parents) if _is_closed(path)]
        if closed:
            log.warning("dnsmasq runs as root, because %s is closed to its own user", closed[0])
            return ["--user=root", "--group=root"]
        return []

    def _spawn(self) -> None:
        """Without --keep-in-foreground: dnsmasq returns when it listens, or says why it cannot."""
        done = run([*self._arguments(), f"--log-facility={self._log()}"], timeout=_START)
        if done.code == 0:
            log.info("dnsmasq was started at %s", self._gateway)
            return
        if "in use" in done.stderr:
            raise Unavailable(
                f"the names service cannot listen at {self._gateway}, port {PORT}: "
                f"{processes.listener(self._gateway, PORT)} does. Until it can, {_MEANWHILE}",
                reason="NamesPortTaken",
                remedy="Stop that program, or let it listen at other addresses only (dnsmasq: bind-interfaces)",
            )
        raise Unavailable(
            f"the names service does not start: {done.tail}. Until it does, {_MEANWHILE}",
            reason="NamesFailed",
            remedy=f"Try it by hand: {' '.join(self.argv())}",
        )

    def _log(self) -> Path:
        return self._pidfile.with_suffix(".log")

    def _log_tail(self) -> str:
        try:
            lines = self._log().read_text(errors="replace").splitlines()[-3:]
        except OSError:
            return "it has no log"
        return f"the end of its log: {'; '.join(lines)}"

    def _pid(self) -> int | None:
        """Our dnsmasq, by its pid file; None when that names no process, or another one."""
        try:
            pid = int(self._pidfile.read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _search(self) -> list[int]:
        """All processes of our dnsmasq, oldest first.

        It forks for each TCP connection, and a child that outlives a killed parent keeps the port.
        """
        ours = filter(self._is_ours, processes.everyone())
        return sorted(ours, key=lambda pid: processes.started_at(pid) or 0.0)

    def _is_ours(self, pid: int) -> bool:
        argv, command = processes.arguments(pid), Path(self._service.command).name
        if f"--hostsdir={self._directory}" not in argv or Path(argv[0]).name != command:
            return False
        program = processes.program(pid)  # the kernel's word: what is ours may be killed
        return program.startswith("dnsmasq") or program in {command, command[:_COMM]}


def _is_name(text: str) -> bool:
    """An app's, or one of its slots'."""
    return bool(NAME.fullmatch(text)) or is_slot(text)


def _content(name: str, addresses: Sequence[str]) -> bytes:
    return "".join(f"{address} {name}\n" for address in addresses).encode()


def _addresses(name: str, content: bytes) -> tuple[str, ...]:
    """Addresses in a file of ours; none where somebody edited it, so that it is written again."""
    addresses = [line.partition(b" ")[0].decode("ascii", "replace") for line in content.splitlines()]
    return tuple(addresses) if content == _content(name, addresses) else ()


def _within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (fine := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return fine


def _is_closed(path: Path) -> bool:
    try:
        return not path.stat().st_mode & 0o001
    except OSError:
        return False
