from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable

import pytest

from reconciler.core.status import HostStatus
from reconciler.world.asking import ask_status
from reconciler.world.listener import Listener


class NoMetrics:
    def exposition(self) -> tuple[str, bytes]:
        return "text/plain", b""


def test_a_running_agent_answers_its_status() -> None:
    status = HostStatus("web-1", "1", 1.0, "converged", "converged")
    listener = Listener("127.0.0.1:0", NoMetrics(), lambda: status, lambda: 0.0)
    listener.start()
    try:
        answer = ask_status(f"127.0.0.1:{listener.port}")
    finally:
        listener.stop()
    assert answer is not None
    assert json.loads(answer)["host"] == "web-1"


def test_nobody_a_stranger_and_an_agent_without_a_status_answer_nothing(free_port: Callable[[], int]) -> None:
    assert ask_status(f"127.0.0.1:{free_port()}") is None
    listener = Listener("127.0.0.1:0", NoMetrics(), lambda: None, lambda: 0.0)
    listener.start()
    try:
        assert ask_status(f"127.0.0.1:{listener.port}") is None
    finally:
        listener.stop()
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def greet() -> None:
            client, _ = stranger.accept()
            with client:
                client.recv(1000)
                client.sendall(b"SSH-2.0-other\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert ask_status(f"127.0.0.1:{stranger.getsockname()[1]}") is None
        thread.join()


@pytest.mark.parametrize(
    ("body", "status", "usable"),
    [
        (b'{"host": "x"}', 200, True),
        (b'{"host": "x"}', 404, False),
        (b"<html>", 200, False),
        (b"[]", 200, False),
        (b"\xff", 200, False),
        (b"[" * 200_000, 200, False),
        (b'{"a": "' + b"x" * 5 * 1024 * 1024 + b'"}', 200, False),
    ],
    ids=["json", "not-found", "html", "list", "bytes", "deep", "long"],
)
def test_only_json_of_a_bearable_length_is_an_answer(body: bytes, status: int, *, usable: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def answer() -> None:
            client, _ = stranger.accept()
            with client, contextlib.suppress(OSError):
                client.recv(1000)
                client.sendall(b"HTTP/1.0 %d Fine\r\n\r\n" % status + body)

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask_status(f"127.0.0.1:{stranger.getsockname()[1]}") == (body if usable else None)
        thread.join()
