"""A unix socket that answers like a Docker Engine would, with what a test wrote down.

For answers that the real engine of this machine cannot be brought to: other versions' wording, silence, half a stream.
"""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Answer = Callable[[], tuple[int, Any]]


class ScriptedEngine:
    """Use it as a context manager; ``answers`` maps ``GET /containers/json`` (without version) to status and body.

    A body that is an iterator of values is sent as a stream, one line each.
    """

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self._directory = tempfile.TemporaryDirectory(prefix="rec-scripted-")
        self.socket = Path(self._directory.name) / "docker.sock"
        self._server = _Server(str(self.socket), _Handler)
        self._server.engine = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._directory.cleanup()


class _Server(socketserver.ThreadingUnixStreamServer):
    engine: ScriptedEngine
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        path = self.path.partition("?")[0]
        if path == "/version":
            self._send(200, {"ApiVersion": "1.51"})
            return
        key = f"{self.command} /{path.split('/', 2)[2]}" if path.startswith("/v1.") else f"{self.command} {path}"
        self.server.engine.requests.append(key)
        status, body = self.server.engine.answers[key]()
        if isinstance(body, Iterator):
            self._stream(body)
        else:
            self._send(status, body)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  (the names that the base class looks for)

    def _send(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, lines: Iterator[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in lines:
                content = json.dumps(line).encode() + b"\n"
                self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def error(status: int, text: str) -> Answer:
    """An engine's error."""
    return lambda: (status, {"message": text})


def silence(seconds: float) -> Iterator[dict[str, str]]:
    """One line, and then nothing for so long."""
    yield {"status": "Pulling from shop"}
    time.sleep(seconds)
    yield {"status": "too late"}


def trickle(every: float) -> Iterator[dict[str, str]]:
    """A stream that never ends and never stalls."""
    while True:
        yield {"status": "Downloading", "id": "0123456789ab", "progress": "[>  ]"}
        time.sleep(every)
