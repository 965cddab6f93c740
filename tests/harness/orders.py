"""A web app that keeps orders in SQLite on a volume, and will not start where the columns are not those it reads.

Standard library only, and nothing of ours: it runs alone in a container.

    python3 orders.py serve PORT COLUMNS      answers GET with the number of orders, takes one more by POST
    python3 orders.py migrate STATEMENT ...
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

DATABASE = "/data/orders.db"


def ask(*statements: str) -> list[tuple[object, ...]]:
    """Run statements together; the rows of the last one."""
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(DATABASE, timeout=10)) as database, database:
        for statement in statements:
            rows = database.execute(statement).fetchall()
    return rows


def must_not_write() -> None:
    """End, unless the volume is read-only: another one is at work there."""
    try:
        ask("INSERT INTO orders DEFAULT VALUES")
    except sqlite3.OperationalError:
        return
    sys.exit("a rehearsal can write to the volume of what serves")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("SELECT count(*) || ' orders' FROM orders")

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self._answer("INSERT INTO orders DEFAULT VALUES", f"SELECT 'the order took {size}'")

    def _answer(self, *statements: str) -> None:
        try:
            status, text = 200, str(ask(*statements)[0][0])
        except sqlite3.Error as error:
            status, text = 500, str(error)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        """Without asking for the name of the address, which can take seconds."""
        TCPServer.server_bind(self)


if __name__ == "__main__":
    if sys.argv[1] == "migrate":
        ask(*sys.argv[2:])
    else:
        ask(f"SELECT {sys.argv[3]} FROM orders")  # noqa: S608  (the tests' own columns)
        if os.environ.get("RECONCILER_REHEARSAL"):
            must_not_write()
        _Server(("", int(sys.argv[2])), _Handler).serve_forever()
