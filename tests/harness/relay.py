"""A socket before the Docker Engine's, on which events can get lost."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer


class _Relayed(BaseRequestHandler):
    server: EngineRelay

    def handle(self) -> None:
        head = self.request.recv(65_536)
        self.events = b"/events" in head.partition(b"\r\n")[0]
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.server.engine))
            engine.sendall(head)
            answers = threading.Thread(target=self._pass_on, args=(engine, self.request), daemon=True)
            answers.start()
            self._pass_on(self.request, engine)
            answers.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # whoever goes away in the middle
            while data := source.recv(65_536):
                if not (self.events and self.server.deaf and target is self.request):
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class EngineRelay(ThreadingUnixStreamServer):
    """Everything passes; but while it is ``deaf`` events do not, and nobody is told."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, engine: Path) -> None:
        super().__init__(str(path), _Relayed)
        self.engine = engine
        self.deaf = False
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Accept nobody any more."""
        self.shutdown()
        self.server_close()
        self._thread.join()
