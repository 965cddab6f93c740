"""An app that keeps rows in SQLite, alone in a container: ``python3 ledger.py PORT FILE``.

``POST /rows/ID`` answers 200 once the row is on the disk, ``GET /rows`` tells all of them, a line each. Standard
library only, and nothing of ours: the image has no more. SIGTERM ends it at once, whatever it is writing.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: Ledger

    def do_POST(self) -> None:
        row = self.path.rpartition("/")[2]
        with closing(self.server.database()) as database:
            database.execute("INSERT INTO rows VALUES (?)", (row,))
        self._answer(200, f"kept {row}")

    def do_GET(self) -> None:
        if self.path == "/version":
            self._answer(200, os.environ.get("VERSION", "none"))
            return
        with closing(self.server.database()) as database:
            (sound,) = database.execute("PRAGMA integrity_check").fetchone()
            rows = [row for (row,) in database.execute("SELECT id FROM rows")]
        self._answer(200 if sound == "ok" else 500, "\n".join(rows) if sound == "ok" else sound)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        pass


class Ledger(ThreadingHTTPServer):
    """Serves one file."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], file: str) -> None:
        super().__init__(address, _Handler)
        self._file = file
        with closing(self.database()) as database:
            database.execute("CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY)")

    def database(self) -> sqlite3.Connection:
        """One for each request; each statement is on the disk when it returns."""
        database = sqlite3.connect(self._file, timeout=20, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        return database


if __name__ == "__main__":
    Ledger(("", int(sys.argv[1])), sys.argv[2]).serve_forever()
