"""What nginx says about its requests: it sends a line for each to a socket, and here they are counted by address.

The socket is there only while something is to be counted, in a directory of its own that nginx looks for: so nginx
logs nothing, and has nothing to complain of, where nobody listens. It never waits for us: what does not fit into the
socket is lost. Any user of the host may write to the socket, since nobody knows which one nginx is.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from reconciler.core.observed import Traffic

log = logging.getLogger(__name__)

_TAG = b"reconciler: "
_PIECES = re.compile(r", | : ")  # what nginx writes between two attempts
_SAFE = re.compile(r"/[A-Za-z0-9._/-]{1,90}\Z")  # fits into an address, and into nginx's configuration unquoted
_LONGEST = 4096  # bytes of a line; nginx sends no longer ones
_FAILED = 500
_TELL, _TELL_ERRORS = 5.0, 1.0
"""Seconds between two wake-ups, by what has been counted."""


class NginxTraffic:
    """Implements ``protocols.Tally``. Counts nothing before ``start``, so that looking on changes nothing.

    Args:
        directory: Ours, on tmpfs; made while something is counted.
        wake: Called now and then, while something is counted.
    """

    def __init__(self, directory: Path, wake: Callable[[str], None]) -> None:
        self._directory = directory
        self._wake = wake
        self._lock = threading.Lock()
        self._seen: dict[str, Traffic] = {}
        self._started = False
        self._complained = False
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def directory(self) -> str:
        """Where nginx looks; empty where its path is none that nginx can take."""
        return str(self._directory) if _SAFE.match(str(self._directory)) else ""

    def start(self) -> None:
        """Begin. What a killed agent left behind goes: nginx would write to nobody, and log that."""
        self._started = bool(self.directory)
        self._clear()

    def stop(self) -> None:
        """End, within a second."""
        self._started = False
        self._close()

    def watch(self, addresses: Collection[str]) -> None:
        """Count the answers of exactly these from now on; what was counted of others is forgotten."""
        if not self._started:
            return
        now = time.time()
        with self._lock:
            if self._seen.keys() != set(addresses):
                self._seen = {address: self._seen.get(address) or Traffic(0, 0, now) for address in addresses}
        if not addresses:
            self._close()
        elif not self._is_listening():
            self._close()
            self._open()

    def results(self) -> Mapping[str, Traffic]:
        """What was counted so far, by address."""
        with self._lock:
            return dict(self._seen)

    # -- the socket ------------------------------------------------------------------------------------------------

    def _is_listening(self) -> bool:
        """The thread lives, and nobody has removed what nginx looks for."""
        return self._thread is not None and self._thread.is_alive() and (self._directory / "socket").exists()

    def _open(self) -> None:
        """The directory appears with a socket in it that everybody may write to."""
        draft = self._directory.with_name(f".{self._directory.name}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._clear()
            draft.mkdir(mode=0o755, parents=True)
            draft.chmod(0o755)
            listening.bind(str(draft / "socket"))
            (draft / "socket").chmod(0o666)
            draft.rename(self._directory)
        except OSError as error:
            listening.close()
            if not self._complained:
                log.warning(
                    "nginx cannot tell of its requests, so health alone decides: %s: %s", self._directory, error
                )
            self._complained = True
            return
        self._complained = False
        self._socket = listening
        self._thread = threading.Thread(target=self._listen, args=(listening,), name="traffic", daemon=True)
        self._thread.start()

    def _close(self) -> None:
        listening, self._socket = self._socket, None
        if listening is None or self._thread is None:
            return
        self._clear()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(1.0)
        listening.close()

    def _clear(self) -> None:
        """First the directory is called otherwise: nginx must not see it without its socket."""
        draft = self._directory.with_name(f".{self._directory.name}")
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._directory.rename(draft)
        shutil.rmtree(draft, ignore_errors=True)

    def _listen(self, listening: socket.socket) -> None:
        told = 0.0
        while True:
            try:
                line = listening.recv(_LONGEST)
            except OSError:
                return
            if self._socket is not listening:
                return
            failed = self._count(attempts(line))
            now = time.monotonic()
            if failed is not None and now - told >= (_TELL_ERRORS if failed else _TELL):
                told = now
                self._wake("answers that nginx told of")

    def _count(self, seen: Iterable[tuple[str, int]]) -> bool | None:
        """Whether one of them failed; None where none of them is counted."""
        failed: bool | None = None
        with self._lock:
            for address, status in seen:
                known = self._seen.get(address)
                if known is None:
                    continue
                bad = status >= _FAILED
                self._seen[address] = Traffic(known.requests + 1, known.errors + bad, known.since)
                failed = bool(failed) or bad
        return failed


def attempts(line: bytes) -> list[tuple[str, int]]:
    """Address and status of each attempt that nginx made for one request; none for a line that is not nginx's.

    A request that a client gave up before there was an answer has no status, and says nothing.
    """
    addresses, _, statuses = line.partition(_TAG)[2].decode("ascii", "replace").partition("|")
    pairs = zip(_PIECES.split(addresses), _PIECES.split(statuses.strip()), strict=False)
    return [(address.rpartition(":")[0], int(status)) for address, status in pairs if re.fullmatch("[0-9]{3}", status)]
