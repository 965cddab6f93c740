"""What the agent tells over HTTP: ``/metrics``, ``/healthz``, ``/readyz`` and ``/status``.

One thread serves everybody. It never waits for a client: who is slow, silent or endless is dropped after a few seconds
and delays nobody. It reads, and changes nothing: there is no request that does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from reconciler.core.serialise import text
from reconciler.core.status import HostStatus
from reconciler.errors import InvalidSettings, Unavailable

log = logging.getLogger(__name__)

_REQUEST_MOST = 8 * 1024  # bytes of request line and headers; browsers send one or two thousand
_REQUEST_WITHIN = 3.0  # seconds from the first byte to the last
_ANSWER_WITHIN = 10.0  # seconds for a client to take the answer
_LINGER = 1.0  # seconds for a client to read to the end before the connection is closed under it
_AT_ONCE = 32  # connections; a scraper, a probe and a person need three
_LAST_PORT = 65535
_PLAIN = "text/plain; charset=utf-8"
_HEADERS = (
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n"
)


class Exposition(Protocol):
    """The metrics."""

    def exposition(self) -> tuple[str, bytes]:
        """Content type and text."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = _PLAIN
    more: str = ""
    """Further header lines."""

    def wire(self, *, head: bool) -> bytes:
        lines = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.kind}\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.more}{_HEADERS}\r\n"
        )
        return lines.encode() + (b"" if head else self.body)


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    deadline: float
    received: bytes = b""
    unsent: bytes = b""
    answered: bool = False


class Listener:
    """Answers from ``start`` to ``stop``.

    Args:
        address: ``HOST:PORT``, an IPv6 address in brackets; port 0 takes a free one.
        metrics: Asked once for every scrape.
        status: The newest status; None before the first cycle has ended.
        heartbeat: Seconds since the loop last made progress.
        limit: Seconds without progress after which ``/healthz`` says so.
    """

    def __init__(
        self,
        address: str,
        metrics: Exposition,
        status: Callable[[], HostStatus | None],
        heartbeat: Callable[[], float],
        limit: float = 90.0,
    ) -> None:
        self._address = address
        self._metrics = metrics
        self._status = status
        self._heartbeat = heartbeat
        self._limit = limit
        self._routes: dict[str, Callable[[], _Answer]] = {
            "/metrics": self._on_metrics,
            "/healthz": self._on_health,
            "/readyz": self._on_ready,
            "/status": self._on_status,
        }
        self._server: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._bell = -1
        self._selector: selectors.BaseSelector
        self._clients: dict[_Client, None] = {}

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return int(self._server.getsockname()[1]) if self._server else 0

    def start(self) -> None:
        """Listen, and answer in a thread.

        Raises:
            InvalidSettings: The address has not the form ``HOST:PORT``.
            Unavailable: Reason ``ListenAddress``: somebody else listens there, or this host has no such address.
        """
        host, _, port = self._address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > _LAST_PORT:
            raise InvalidSettings(
                f"listen: {self._address!r} is not HOST:PORT", reason="ListenAddress", remedy="Write 127.0.0.1:9465"
            )
        host = host.removeprefix("[").removesuffix("]")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._server = socket.create_server((host, int(port)), family=family, backlog=_AT_ONCE)
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {self._address} for metrics and health: {error.strerror}",
                reason="ListenAddress",
                remedy="Set listen in the agent's settings to a free address, or stop who has it (ss -ltnp shows it)",
            ) from error
        self._server.setblocking(False)
        self._stopping = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, args=(self._server,), name="listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close everything, at once."""
        if self._thread is None or self._server is None:
            return
        self._stopping = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()  # it never blocks
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        os.close(self._bell)
        self._server.close()
        self._server = self._thread = None

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self, server: socket.socket) -> None:
        while not self._stopping:
            next_deadline = min((client.deadline for client in self._clients), default=None)
            patience = None if next_deadline is None else max(0.0, next_deadline - time.monotonic())
            for key, _ in self._selector.select(patience):
                if key.fileobj is server:
                    self._accept(server)
                elif isinstance(key.data, _Client):
                    self._advance(key.data)
            now = time.monotonic()
            for client in [client for client in self._clients if client.deadline <= now]:
                self._drop(client)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of files: it stays acceptable, and must not be tried a thousand times a second
            log.warning("cannot take a connection for metrics or health now: %s", error)
            time.sleep(0.1)
            return
        connection.setblocking(False)
        if len(self._clients) >= _AT_ONCE:
            self._drop(next(iter(self._clients)))  # the oldest had its chance
        client = _Client(connection, time.monotonic() + _REQUEST_WITHIN)
        self._clients[client] = None
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            del self._clients[client]
            self._selector.unregister(client.socket)
            client.socket.close()

    def _advance(self, client: _Client) -> None:
        try:
            if client.unsent:
                self._send(client)
                return
            data = client.socket.recv(4096)
            if not data:
                self._drop(client)
            elif not client.answered:
                client.received += data
                self._read(client)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("a client of %s went away: %s", self._address, error)
            self._drop(client)

    def _read(self, client: _Client) -> None:
        complete = b"\r\n\r\n" in client.received
        if not complete and len(client.received) < _REQUEST_MOST:
            return
        client.answered = True
        client.unsent = self._answer(client.received) if complete else _TOO_LARGE.wire(head=False)
        client.received = b""
        client.deadline = time.monotonic() + _ANSWER_WITHIN
        self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        self._send(client)

    def _send(self, client: _Client) -> None:
        sent = client.socket.send(client.unsent)
        client.unsent = client.unsent[sent:]
        if not client.unsent:
            # Closing now could reset the connection, if there is a body that nobody read, before the answer is read.
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            client.deadline = time.monotonic() + _LINGER
            self._selector.modify(client.socket, selectors.EVENT_READ, client)

    # -- what is answered -------------------------------------------------------------------------------------------

    def _answer(self, request: bytes) -> bytes:
        parts = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004  (method, target, version)
            return _Answer(HTTPStatus.BAD_REQUEST, b"this is not HTTP/1.1\n").wire(head=False)
        method, target, _ = parts
        head = method == "HEAD"
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            known = ", ".join(self._routes)
            return _Answer(HTTPStatus.NOT_FOUND, f"not found; there are {known}\n".encode()).wire(head=head)
        if method not in ("GET", "HEAD"):
            refusal = "only GET and HEAD: nothing can be changed here\n"
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, refusal.encode(), more="Allow: GET, HEAD\r\n").wire(head=head)
        log.debug("%s %s", method, target)
        try:
            return route().wire(head=head)
        except Exception:  # a mistake in one answer must not end the others
            log.exception("cannot answer %s", target.partition("?")[0])
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the agent's log\n").wire(head=head)

    def _on_metrics(self) -> _Answer:
        kind, body = self._metrics.exposition()
        return _Answer(HTTPStatus.OK, body, kind)

    def _on_health(self) -> _Answer:
        idle = self._heartbeat()
        if idle < self._limit:
            return _said(HTTPStatus.OK, f"ok: the loop made progress {idle:.0f} s ago")
        return _said(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"stuck: the loop has made no progress for {idle:.0f} s, {self._limit:.0f} are allowed; apps go on as they "
            "are; see the agent's log (journalctl -u reconciler) and restart it",
        )

    def _on_ready(self) -> _Answer:
        status = self._status()
        if status is None:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: the first cycle has not ended yet")
        if status.commit is None:
            why = "; ".join(message for _, message in status.faults) or status.verdict
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: no revision is known yet: {why}")
        return _said(HTTPStatus.OK, f"ready: {status.verdict}")

    def _on_status(self) -> _Answer:
        status = self._status()
        if status is None:
            problem = {"reason": "NotReady", "message": "the first cycle has not ended yet"}
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, _json(problem), "application/json")
        return _Answer(HTTPStatus.OK, _json(status), "application/json")


_TOO_LARGE = _Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"the request has more than 8 KiB\n")


def _said(status: HTTPStatus, sentence: str) -> _Answer:
    return _Answer(status, sentence.encode("utf-8", "replace") + b"\n")


def _json(value: object) -> bytes:
    return text(value, indent=2).encode() + b"\n"
