"""A web app that clients can be hard on: in a test's own process, or alone in a container (``python3 webapp.py PORT``).

Standard library only, and nothing of ours: the image has no more. It does not know how to end gracefully: SIGTERM cuts
whatever is under way, as with many an app.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

PIECE = 16_384
"""Bytes at a time of a body that is streamed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: WebApp

    def do_GET(self) -> None:
        self.server.last_request = time.time()
        kind, _, value = self.path.partition("?")[0].strip("/").partition("/")
        if self.headers.get("Upgrade") == "websocket":
            self._echo_frames()
        elif kind == "version":
            self._answer(200, self.server.label)
        elif kind == "status":
            self._answer(int(value), f"the app's own {value}")
        elif kind == "slow":
            time.sleep(float(value))
            self._answer(200, self.server.label)
        elif kind == "large":
            size, _, seconds = value.partition("/")
            self._answer_slowly(int(size), float(seconds))
        elif kind == "break":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif kind == "stream":
            self._stream()
        elif kind == "headers":
            self._answer(200, "".join(f"{name}: {text}\n" for name, text in self.headers.items()))
        else:
            self._answer(200, f"{self.server.label} {self.path}")

    def do_POST(self) -> None:
        self.server.last_request = time.time()
        length = int(self.headers.get("Content-Length", 0))
        self._answer(200, f"{self.server.label} took {len(self.rfile.read(length))}")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _answer_slowly(self, size: int, seconds: float) -> None:
        """So many bytes, spread evenly over the time."""
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        pieces = range(0, size, PIECE)
        for start in pieces:
            self.wfile.write(b"x" * min(PIECE, size - start))
            time.sleep(seconds / len(pieces))

    def _echo_frames(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while data := self.connection.recv(1024):
            self.connection.sendall(data.upper())
        self.close_connection = True

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Accel-Buffering", "no")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        self.server.released.wait(30)
        self.wfile.write(b"data: last\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        pass


class WebApp(ThreadingHTTPServer):
    """Serves at an address; ``label`` is its version."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], label: str) -> None:
        super().__init__(address, _Handler)
        self.label = label
        self.released = threading.Event()
        self.last_request = 0.0
        """Unix time."""

    def server_bind(self) -> None:
        """Without asking for the name of the address, which can take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nobody's error."""


if __name__ == "__main__":
    WebApp(("", int(sys.argv[1])), os.environ.get("VERSION", "none")).serve_forever()
