"""One SDK client per thread, and every error of it as one of ours."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import Unavailable

if TYPE_CHECKING:
    from reconciler.world.containers.wire import Client

TIMEOUT = 30.0  # seconds for an ordinary call; a busy engine takes its time
NOT_FOUND = 404
CONFLICT = 409


class Answered(Unavailable):
    """The engine answered with an error. Where a caller knows no better it is tried again later."""

    def __init__(self, doing: str, status: int, text: str) -> None:
        self.status = status
        self.text = text.strip().rstrip(".")
        full = "no space left on device" in text
        super().__init__(
            f"Docker could not {doing}: {self.text}",
            reason="DiskFull" if full else "DockerError",
            remedy="Make room on the disk that holds Docker's data, e.g. with `docker image prune`" if full else "",
        )


def unavailable(path: Path, error: BaseException) -> Unavailable:
    """The engine did not answer at all."""
    causes: list[BaseException] = []
    walk: BaseException | None = error
    while walk is not None and walk not in causes:
        causes.append(walk)
        # urllib3 hands the operating system's error on as an argument, not as a cause.
        walk = next((each for each in walk.args if isinstance(each, BaseException)), walk.__cause__ or walk.__context__)
    remedy = "Look at `systemctl status docker`"
    if any(isinstance(cause, PermissionError) for cause in causes):
        why, remedy = "permission denied", "Run the agent as root"
    elif any(isinstance(cause, FileNotFoundError) for cause in causes):
        why = "there is no such socket"
    elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        why = "nobody listens"
    elif any("timed out" in str(cause).lower() for cause in causes):
        why = "no answer in time"
    else:
        why = str(causes[-1]) or type(causes[-1]).__name__
    return Unavailable(f"the Docker Engine does not answer at {path}: {why}", reason="DockerUnavailable", remedy=remedy)


class Clients:
    """Clients for one socket. The SDK's are not made for sharing between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: Counter[str] = Counter()
        """HTTP calls made, by method and path without ids."""
        self._local = threading.local()
        self._open: list[Client] = []
        self._lock = threading.Lock()

    @contextmanager
    def speaking(self, doing: str) -> Iterator[Client]:
        """This thread's client; ``doing`` completes the sentence "Docker could not ...".

        Raises:
            Answered: The engine's answer is an error.
            Unavailable: There is no answer.
        """
        # Here, so that commands that never speak to an engine need not pay for the import.
        from reconciler.world.containers.wire import Client, translate  # noqa: PLC0415  (see above)

        try:
            client: Client | None = getattr(self._local, "client", None)
            if client is None:
                client = self._local.client = Client(self.path, TIMEOUT, self.calls)
                with self._lock:
                    self._open.append(client)
            yield client
        except Exception as error:
            ours = translate(error, self.path, doing)
            if ours is error:
                raise
            if not isinstance(ours, Answered) or "client version" in ours.text:
                self._discard()  # the next one negotiates anew: the engine may come back as another version
            raise ours from error

    def _discard(self) -> None:
        client: Client | None = getattr(self._local, "client", None)
        if client is not None:
            del self._local.client
            with self._lock:
                if client in self._open:
                    self._open.remove(client)
            client.close()

    def close(self) -> None:
        """Close the clients of all threads."""
        with self._lock:
            clients, self._open = self._open, []
        for client in clients:
            client.close()
        self._local = threading.local()
