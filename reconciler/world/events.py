"""Docker's event stream: drift is seen at once, not at the next poll.

Not through the SDK: its stream cannot be closed while it connects, and a request on a socket of our own can be ended
from another thread at any moment. Events only wake and invalidate; what is true is asked afterwards. So one that was
missed costs time, never correctness.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import socket as Socket  # noqa: N812  (an argument is called socket)
from typing import Any

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 10.0  # seconds until the engine has accepted and answered
_PAUSES = (0.2, 5.0)  # seconds between attempts, doubling from the first to the second
_SECOND = 1_000_000_000  # the engine counts nanoseconds

# No exec_*: each HEALTHCHECK is an exec, and hundreds of them a minute say nothing. No kill, stop, restart: die and
# start come with them. No connect: each start begins with one, and whoever looks then waits till the start has ended;
# what somebody connects by hand, the next look sees in the list. The engine applies these: nothing else reaches us.
_FILTERS = {
    "type": ["container", "network", "image"],
    "event": [
        *("start", "die", "destroy", "oom", "pause", "unpause", "rename", "update", "health_status"),
        "disconnect",
        *("pull", "load", "import", "tag", "untag", "delete"),
    ],
}


class EngineEvents:
    """Listens in a thread of its own until it is stopped; comes back by itself when Docker does.

    Args:
        socket: The engine's unix socket.
        wake: Called with a reason whenever something happened; must be quick and must not raise.
        invalidate: Called before that with the id of the container that it happened to, and with the empty string
            after a gap in which anything may have happened.
    """

    def __init__(self, socket: Path, wake: Callable[[str], None], invalidate: Callable[[str], None]) -> None:
        self._path = socket
        self._wake = wake
        self._invalidate = invalidate
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: Socket | None = None
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)
        self._since = 0  # nanoseconds; the last event that was seen, or the start

    def start(self) -> None:
        """Begin to listen."""
        self._since = int(time.time() * _SECOND)
        self._thread.start()

    def stop(self) -> None:
        """End within a second, whatever the stream is doing. From any thread; twice is fine."""
        self._stopping.set()
        with self._lock:
            if self._open is not None:
                with suppress(OSError):  # it is not connected yet, or not any more
                    self._open.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        pause, lost = _PAUSES[0], False
        while not self._stopping.is_set():
            try:
                for number, event in enumerate(self._listen()):
                    if number == 0:
                        pause = _PAUSES[0]
                        if lost:
                            log.info("Docker's event stream is back")
                            self._invalidate("")
                            self._wake("Docker is back")
                        lost = False
                    else:
                        self._tell(event)
                why = "the engine closed it"
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            if self._stopping.is_set():
                return
            if not lost:
                log.warning("Docker's event stream is lost (%s); until it is back, only the poll sees drift", why)
            lost = True
            self._stopping.wait(pause)
            pause = min(pause * 2, _PAUSES[1])

    def _listen(self) -> Iterator[dict[str, Any]]:
        """First an empty event that says that the stream is open, then what happens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(_CONNECT_TIMEOUT)
            with self._lock:
                self._open = stream
            try:
                stream.connect(str(self._path))
                if self._stopping.is_set():  # a stop before the connection had nothing to shut down
                    return
                connection = http.client.HTTPConnection("docker")
                connection.sock = stream
                # Engines differ in the versions that they speak, and each says in its ping which is its newest.
                version = _get(connection, "/_ping", read=True).getheader("Api-Version", "1.41")
                query = urllib.parse.urlencode(
                    {
                        "filters": json.dumps(_FILTERS),
                        "since": f"{self._since // _SECOND}.{self._since % _SECOND:09d}",
                    }
                )
                with _get(connection, f"/v{version}/events?{query}", read=False) as answer:
                    stream.settimeout(None)
                    yield {}
                    for line in answer:
                        yield json.loads(line)
            finally:
                with self._lock:
                    self._open = None

    def _tell(self, event: dict[str, Any]) -> None:
        kind, action, actor = event.get("Type"), event.get("Action"), event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        # One more, or a reconnection would bring the last one again.
        self._since = max(self._since, int(event.get("timeNano") or 0) + 1)
        container = actor.get("ID") if kind == "container" else attributes.get("container") if kind == "network" else ""
        if container:
            self._invalidate(container)
        self._wake(f"Docker: {kind} {attributes.get('name') or actor.get('ID', '')[:12]}: {action}")


def _get(connection: http.client.HTTPConnection, path: str, *, read: bool) -> http.client.HTTPResponse:
    connection.request("GET", path)
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        raise http.client.HTTPException(f"{answer.status} {answer.read(500).decode(errors='replace').strip()}")
    if read:
        answer.read()
    return answer
