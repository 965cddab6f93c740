"""A version that never becomes healthy, alone in a container: ``python3 sick.py HOW PORT``.

Standard library only, and nothing of ours: the image has no more.
"""

from __future__ import annotations

import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LATE = 600.0
"""Seconds; whoever waits for it has waited longer than any deadline that a test sets."""
_STEP = 8 * 1024 * 1024
"""Bytes at a time, until there are no more."""


class _Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500, "no database")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        pass


def _main(how: str, port: int) -> None:
    print(f"this version is no good: {how}", flush=True)  # noqa: T201  (its last words)
    if how == "exit":
        sys.exit(3)
    if how == "late":
        time.sleep(_LATE)
    elif how == "port":
        ThreadingHTTPServer(("", port + 1), _Failing).serve_forever()
    elif how == "500":
        ThreadingHTTPServer(("", port), _Failing).serve_forever()
    elif how == "hang":
        with socket.create_server(("", port)):  # the kernel accepts, and nobody answers
            time.sleep(_LATE)
    elif how == "memory":
        taken = []
        while True:
            taken.append(b"x" * _STEP)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
