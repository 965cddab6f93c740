from __future__ import annotations

import contextlib
import http.client
import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from harness.waiting import eventually

from reconciler.core.model import Commit
from reconciler.core.serialise import host_status
from reconciler.core.status import AppStatus, HostStatus
from reconciler.errors import InvalidSettings, Unavailable
from reconciler.world.listener import Listener

HOST = HostStatus(
    host="web-1",
    version="1",
    at=1_790_000_000.0,
    verdict="1 app in sync at cccccccc",
    result="converged",
    apps={"shop": AppStatus("shop", "Synced", "Healthy", "Applied", "fine")},
    commit=Commit("c" * 40, "Zoë", "Übernimm 2.3.1", 1_789_999_000.0),
)


class Agent:
    """What the listener sees of an agent."""

    def __init__(self) -> None:
        self.status: HostStatus | None = None
        self.idle = 0.0
        self.text = b"reconciler_build_info 1\n"
        self.broken = False

    def exposition(self) -> tuple[str, bytes]:
        if self.broken:
            message = "password=hunter2"
            raise RuntimeError(message)
        return "text/plain; version=0.0.4", self.text


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def listener(agent: Agent) -> Iterator[Listener]:
    listener = Listener("127.0.0.1:0", agent, lambda: agent.status, lambda: agent.idle, limit=60.0)
    listener.start()
    yield listener
    before = time.monotonic()
    listener.stop()
    assert time.monotonic() - before < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "listener"]


class Answer:
    def __init__(self, listener: Listener, path: str, method: str = "GET", body: bytes | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            self.status, self.headers = response.status, dict(response.getheaders())
            self.body = response.read()
        finally:
            connection.close()


def test_metrics(listener: Listener, agent: Agent) -> None:
    answer = Answer(listener, "/metrics")
    assert (answer.status, answer.body) == (200, agent.text)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"


def test_healthz_follows_the_loops_progress(listener: Listener, agent: Agent) -> None:
    agent.idle = 3.2
    answer = Answer(listener, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok: the loop made progress 3 s ago\n")
    agent.idle = 61.0
    answer = Answer(listener, "/healthz")
    assert answer.status == 503
    assert answer.body.startswith(b"stuck: the loop has made no progress for 61 s, 60 are allowed; apps go on as")
    assert b"journalctl" in answer.body
    agent.idle = 0.1
    assert Answer(listener, "/healthz").status == 200


def test_readyz_waits_for_a_cycle_with_a_revision(listener: Listener, agent: Agent) -> None:
    answer = Answer(listener, "/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: the first cycle has not ended yet\n")
    why = "the remote did not answer within 30 s"
    agent.status = HostStatus("web-1", "1", 1.0, f"failed: {why}", "failed", faults=(("GitUnavailable", why),))
    answer = Answer(listener, "/readyz")
    assert (answer.status, answer.body) == (503, f"not ready: no revision is known yet: {why}\n".encode())
    agent.status = HOST
    answer = Answer(listener, "/readyz")
    assert (answer.status, answer.body) == (200, b"ready: 1 app in sync at cccccccc\n")


def test_status_is_the_whole_status(listener: Listener, agent: Agent) -> None:
    answer = Answer(listener, "/status")
    assert answer.status == 503
    assert json.loads(answer.body)["reason"] == "NotReady"
    agent.status = HOST
    answer = Answer(listener, "/status?pretty")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert host_status(json.loads(answer.body)) == HOST
    assert "Übernimm" in answer.body.decode()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico", "/../etc/passwd", "/status%00", "//metrics", "*"])
def test_anything_else_is_not_found(listener: Listener, path: str) -> None:
    answer = Answer(listener, path)
    assert (answer.status, answer.body) == (404, b"not found; there are /metrics, /healthz, /readyz, /status\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_can_be_changed(listener: Listener, method: str) -> None:
    answer = Answer(listener, "/status", method, b"x" * 100_000 if method == "POST" else None)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_the_body(listener: Listener, agent: Agent) -> None:
    answer = Answer(listener, "/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(agent.text))
    assert Answer(listener, "/nowhere", "HEAD").body == b""


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/status", "/nowhere"])
def test_security_headers(listener: Listener, path: str) -> None:
    headers = Answer(listener, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not {"Server", "Access-Control-Allow-Origin"} & set(headers)


def test_a_mistake_in_one_answer_does_not_end_the_others(
    listener: Listener, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.broken = True
    answer = Answer(listener, "/metrics")
    assert (answer.status, answer.body) == (500, b"see the agent's log\n")
    assert "cannot answer /metrics" in caplog.text
    assert Answer(listener, "/healthz").status == 200


def test_requests_are_not_logged(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Answer(listener, "/metrics")
        Answer(listener, "/nowhere")
    assert caplog.text == ""


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=15)


def everything(client: socket.socket) -> bytes:
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            chunks.append(data)
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /healthz HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"200 OK"),
        (b"GET /healthz\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"GET /" + b"a" * 9000, b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000, b"431 Request Header Fields Too Large"),
    ],
)
def test_odd_requests(listener: Listener, request_: bytes, status: bytes) -> None:
    with connect(listener) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        assert everything(client).startswith(b"HTTP/1.1 " + status + b"\r\n")


def test_a_request_in_pieces(listener: Listener) -> None:
    with connect(listener) as client:
        for piece in (b"GET /hea", b"lthz HTTP/1.1\r", b"\nHost: x\r\n", b"\r", b"\n"):
            client.sendall(piece)
            time.sleep(0.05)
        assert everything(client).startswith(b"HTTP/1.1 200 OK")


def test_slow_and_silent_clients_delay_nobody_and_are_dropped(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(listener)) for _ in range(60)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /healthz HT")
        began = time.monotonic()
        assert Answer(listener, "/healthz").status == 200
        assert time.monotonic() - began < 3
        assert everything(clients[0]) == b"", "the oldest make room"
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 10:  # a drip does not prolong it
                clients[-1].sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < 8
        assert everything(clients[-1]) == b""


def test_a_client_that_does_not_read_its_answer_delays_nobody(listener: Listener, agent: Agent) -> None:
    agent.text = b"x" * 20_000_000
    with connect(listener) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        assert Answer(listener, "/healthz").status == 200
        assert len(everything(client)) > 20_000_000, "and it gets all of it when it reads"


def test_no_more_files_is_survived(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(listener) as early, socket.socket() as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            client.settimeout(10)
            client.connect(("127.0.0.1", listener.port))
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            eventually(lambda: "cannot take a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert everything(client).startswith(b"HTTP/1.1 200 OK")
        early.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert everything(early).startswith(b"HTTP/1.1 200 OK")


def test_ipv6(agent: Agent) -> None:
    listener = Listener("[::1]:0", agent, lambda: None, lambda: 0.0)
    listener.start()
    try:
        with socket.create_connection(("::1", listener.port), timeout=10) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert everything(client).startswith(b"HTTP/1.1 200 OK")
    finally:
        listener.stop()


def test_it_starts_again_on_the_same_port_at_once(listener: Listener, agent: Agent) -> None:
    port = listener.port
    Answer(listener, "/healthz")
    listener.stop()
    again = Listener(f"127.0.0.1:{port}", agent, lambda: None, lambda: 0.0)
    again.start()
    try:
        assert Answer(again, "/healthz").status == 200
    finally:
        again.stop()
    listener.start()


def test_a_taken_port_is_said_in_words(listener: Listener, agent: Agent) -> None:
    second = Listener(f"127.0.0.1:{listener.port}", agent, lambda: None, lambda: 0.0)
    with pytest.raises(Unavailable) as caught:
        second.start()
    assert caught.value.message.startswith(f"cannot listen on 127.0.0.1:{listener.port} for metrics and health: ")
    assert "already in use" in caught.value.message
    assert "agent's settings" in caught.value.remedy
    second.stop()


def test_an_address_of_another_host(agent: Agent) -> None:
    with pytest.raises(Unavailable, match=r"cannot listen on 203\.0\.113\.7:80"):
        Listener("203.0.113.7:80", agent, lambda: None, lambda: 0.0).start()


@pytest.mark.parametrize("address", ["", "9465", "localhost:", ":9465", "127.0.0.1:http", "127.0.0.1:70000"])
def test_an_address_without_form(agent: Agent, address: str) -> None:
    with pytest.raises(InvalidSettings, match="is not HOST:PORT"):
        Listener(address, agent, lambda: None, lambda: 0.0).start()
