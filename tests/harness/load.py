"""Clients that are hard on an app and write down whatever was not the right answer. They try nothing twice.

Standard library only, and nothing of ours: this file also runs in a container, where one app calls another by its name
until it gets SIGTERM, and prints a ``Report``:

    python3 load.py HOST PORT
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Self

_TIMEOUT = 40.0  # seconds; nginx holds a request for 30 while no name is answered
_PIECE = 16_384
_BEAT = 0.25
"""Seconds between two words on a websocket."""
_KEPT = 4
"""So many beats between two requests on a connection that is kept alive: nginx ends it after 1,000."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Ask:
    """One request, and what is right for an answer."""

    kind: str
    path: str = "/load"
    body: int | None = None
    """Bytes to send with POST; None: GET."""
    seconds: float = 0.0
    """The body is spread over so many."""
    size: int | None = None
    """Bytes that must come back; None: any number but none."""


GET = Ask("GET")
POST = Ask("POST", body=2_000)
SLOW = Ask("slow GET", "/slow/2")
DOWNLOAD = Ask("large answer", "/large/3000000/1.5", size=3_000_000)
UPLOAD = Ask("large body", body=3_000_000, seconds=1.0)

MIXED = tuple(SLOW if turn % 33 == 32 else POST if turn % 4 == 1 else GET for turn in range(99))
"""As it comes: 3 % take two seconds."""


@dataclass
class Report:
    """What clients saw."""

    requests: Counter[str] = field(default_factory=Counter)
    """By kind; failed ones too."""
    failures: list[str] = field(default_factory=list)
    """When, which kind and what."""
    slowest: float = 0.0
    """Seconds, of those that are not slow by themselves."""

    @property
    def total(self) -> int:
        """All requests."""
        return self.requests.total()

    def add(self, kind: str, said: str, seconds: float) -> None:
        """One request; ``said`` is what went wrong."""
        self.requests[kind] += 1
        if said:
            self.failures.append(f"{time.time():.3f} {kind}: {said}")
        if kind in {GET.kind, POST.kind}:
            self.slowest = max(self.slowest, seconds)

    def merge(self, other: Report) -> None:
        """Both together."""
        self.requests.update(other.requests)
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)

    def to_json(self) -> str:
        """For whoever reads it outside of the container."""
        return json.dumps({"requests": self.requests, "failures": self.failures, "slowest": self.slowest})

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What ``to_json`` gave."""
        read = json.loads(text)
        return cls(Counter(read["requests"]), read["failures"], read["slowest"])


class Load:
    """Clients of one kind, from entering to leaving.

    Args:
        address: Where to connect. A name is resolved for each connection.
        host: The Host header; empty: the address.
        keep_alive: One connection for each client for as long as the other side likes; else one for each request.
        clients: So many at once.
        asks: What they ask, over and over, each client beginning somewhere else.
        pause: Seconds between an answer and the next request.
    """

    def __init__(
        self,
        address: Address,
        host: str = "",
        *,
        keep_alive: bool,
        clients: int = 2,
        asks: Sequence[Ask] = (GET,),
        pause: float = 0.002,
    ) -> None:
        self._address, self._asks, self._pause = address, asks, pause
        self._headers = {"Host": host or address[0]} | ({} if keep_alive else {"Connection": "close"})
        self._keep_alive = keep_alive
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.report = Report()
        self._threads = [
            threading.Thread(target=self._work, args=(number * len(asks) // clients,)) for number in range(clients)
        ]

    @property
    def failures(self) -> list[str]:
        """What went wrong so far."""
        return self.report.failures

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def end(self) -> None:
        """Begin no further request, and do not wait for those under way."""
        self._end.set()

    def __exit__(self, *_: object) -> None:
        self.end()
        for thread in self._threads:
            thread.join()

    def _work(self, turn: int) -> None:
        connection = HTTPConnection(*self._address, timeout=_TIMEOUT)
        try:
            while not self._end.wait(self._pause):
                ask = self._asks[turn % len(self._asks)]
                turn += 1
                began = time.monotonic()
                said = self._ask(connection, ask)
                with self._lock:
                    self.report.add(ask.kind, said, time.monotonic() - began)
                if said or not self._keep_alive:
                    connection.close()
        finally:
            connection.close()

    def _ask(self, connection: HTTPConnection, ask: Ask) -> str:
        """What went wrong; empty when nothing did."""
        try:
            if ask.body is None:
                connection.request("GET", ask.path, headers=self._headers)
            else:
                headers = {**self._headers, "Content-Length": str(ask.body)}
                connection.request("POST", ask.path, _body(ask.body, ask.seconds), headers)
            answer = connection.getresponse()
            length, beginning = 0, b""
            while piece := answer.read(_PIECE):
                length += len(piece)
                beginning = beginning or piece[:100]
        except (OSError, HTTPException) as error:
            return repr(error)
        text = beginning.decode(errors="replace")
        if answer.status != 200:
            return f"{answer.status} {text}"
        if length == 0 or ask.size not in {None, length}:
            return f"{length} bytes came back"
        if ask.body is not None and not text.endswith(f" took {ask.body}"):
            return f"not the whole body arrived: {text}"
        return ""


def _body(size: int, seconds: float) -> Iterator[bytes]:
    pieces = range(0, size, _PIECE)
    for start in pieces:
        yield b"x" * min(_PIECE, size - start)
        if seconds:
            time.sleep(seconds / len(pieces))


@contextmanager
def traffic(address: Address, host: str, clients: int, pause: float) -> Iterator[dict[str, Load]]:
    """Everything at once: mixed requests, half of the clients with keep-alive, and large bodies."""
    half = max(1, clients // 2)
    loads = {
        "keep-alive": Load(address, host, keep_alive=True, clients=half, asks=MIXED, pause=pause),
        "one-shot": Load(address, host, keep_alive=False, clients=half, asks=MIXED, pause=pause),
        "large bodies": Load(address, host, keep_alive=True, asks=(DOWNLOAD, UPLOAD), pause=pause),
    }
    with ExitStack() as stack:
        for load in loads.values():
            stack.enter_context(load)
        yield loads


class Pinned:
    """Connections that are opened once: websockets and kept-alive HTTP. Whoever cuts one is told of."""

    def __init__(self, address: Address, host: str, *, websockets: int = 4, kept: int = 2) -> None:
        self.cut: list[str] = []
        self.words = 0
        self._end = threading.Event()
        self._sockets = {f"websocket {number}": _websocket(address, host) for number in range(websockets)}
        self._kept = {f"kept-alive {number}": HTTPConnection(*address, timeout=_TIMEOUT) for number in range(kept)}
        for connection in self._kept.values():
            connection.connect()
            connection.auto_open = 0  # else it would open another one without a word
        self._host = host
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        for websocket in self._sockets.values():
            websocket.close()
        for connection in self._kept.values():
            connection.close()

    def _work(self) -> None:
        beat = 0
        while not self._end.wait(_BEAT):
            beat += 1
            for name in [*self._sockets, *(self._kept if beat % _KEPT == 0 else ())]:
                try:
                    self._say(name)
                    self.words += 1
                except (OSError, HTTPException) as error:
                    self.cut.append(f"{time.time():.3f} {name}: {error!r}")
                    if name in self._sockets:
                        self._sockets.pop(name).close()
                    else:
                        self._kept.pop(name).close()

    def _say(self, name: str) -> None:
        if name in self._kept:
            self._kept[name].request("GET", "/load", headers={"Host": self._host})
            answer = self._kept[name].getresponse()
            answer.read()
            if answer.status != 200:
                raise HTTPException(answer.status)
            return
        word = b"hello %d" % self.words
        self._sockets[name].sendall(word)
        heard = b""
        while len(heard) < len(word):
            piece = self._sockets[name].recv(100)
            if not piece:
                raise ConnectionResetError("closed")
            heard += piece
        if heard != word.upper():
            raise HTTPException(heard)


def _websocket(address: Address, host: str) -> socket.socket:
    """One that has been opened."""
    connection = socket.create_connection(address, timeout=_TIMEOUT)
    connection.sendall(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            break
        head += piece
    if not head.startswith(b"HTTP/1.1 101"):
        connection.close()
        raise HTTPException(f"no websocket: {head.decode(errors='replace')}")
    return connection


def _main() -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with Load((sys.argv[1], int(sys.argv[2])), keep_alive=False, clients=3, asks=MIXED, pause=0.02) as load:
        over.wait()
    print(load.report.to_json())  # noqa: T201  (what it is for)


if __name__ == "__main__":
    _main()
