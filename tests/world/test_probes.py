from __future__ import annotations

import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from harness.waiting import eventually

from reconciler.core.model import Health
from reconciler.core.observed import ProbeResult
from reconciler.errors import Unavailable
from reconciler.world.probes import Prober

FAST = Health("http", "/healthz", interval=0.1, timeout=1.0, retries=3)
Behaviour = Callable[[socket.socket], None]


def says(text: bytes) -> Behaviour:
    return lambda peer: peer.sendall(text)


def status(code: int) -> Behaviour:
    return says(b"HTTP/1.1 %d Whatever\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" % code)


class App:
    """A replica: answers every connection as ``behave`` says."""

    def __init__(self, address: str, behave: Behaviour) -> None:
        self.address = address
        self.behave = behave
        self.requests: list[bytes] = []
        self._open()

    def _open(self) -> None:
        self._listener = socket.create_server((self.address, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(self._listener,))
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        answering = []
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                break
            answering.append(threading.Thread(target=self._answer, args=(peer,)))
            answering[-1].start()
        for thread in answering:
            thread.join()

    def _answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(5)
            self.requests.append(peer.recv(4096))
            self.behave(peer)
            peer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()
        self._thread.join()

    def reopen(self) -> None:
        port = self.port
        self._listener = socket.create_server((self.address, port))
        self._thread = threading.Thread(target=self._serve, args=(self._listener,))
        self._thread.start()


class Probing:
    """A prober with what it said."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.now = 1_000.0
        self.prober = Prober(self.woken.append, lambda: self.now)

    def result(self, container: str = "c1") -> ProbeResult:
        return self.prober.results()[container]

    def becomes(self, healthy: bool | None, container: str = "c1") -> ProbeResult:  # noqa: FBT001  (the expected value)
        eventually(lambda: self.result(container).healthy is healthy, what=f"{container} becomes {healthy}")
        return self.result(container)

    def says(self, message: str, container: str = "c1") -> None:
        eventually(lambda: message in self.result(container).message, what=f"{container} says {message}")


@pytest.fixture
def probing() -> Iterator[Probing]:
    probing = Probing()
    probing.prober.start()
    yield probing
    before = time.monotonic()
    probing.prober.stop()
    assert time.monotonic() - before < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "prober"]


@pytest.fixture
def app() -> Iterator[App]:
    app = App("127.0.0.1", status(200))
    yield app
    app.close()


@pytest.fixture
def mute() -> Iterator[Callable[[str], int]]:
    """Makes listeners that never accept: the kernel takes the connection, nobody answers."""
    with contextlib.ExitStack() as stack:
        yield lambda address: int(stack.enter_context(socket.create_server((address, 0), backlog=512)).getsockname()[1])


def test_a_replica_that_answers_is_healthy_and_wakes_the_loop_once(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    assert probing.becomes(healthy=True) == ProbeResult(healthy=True, since=1_000.0, message="")
    eventually(lambda: len(app.requests) >= 4)
    assert probing.woken == ["c1"]


def test_what_an_app_is_asked(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, path="/up?a=1 é\r\nX: y", port=app.port))})
    probing.becomes(healthy=True)
    head, *rest = app.requests[0].decode().split("\r\n")
    assert head == "GET /up?a=1%20%C3%A9%0D%0AX:%20y HTTP/1.1"
    assert rest == [
        f"Host: 127.0.0.1:{app.port}",
        "User-Agent: reconciler-probe",
        "Accept: */*",
        "Connection: close",
        "",
        "",
    ]


@pytest.mark.parametrize("code", [200, 204, 301, 399])
def test_success_and_redirect_are_healthy(probing: Probing, app: App, code: int) -> None:
    app.behave = status(code)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    probing.becomes(healthy=True)


@pytest.mark.parametrize("code", [400, 404, 500, 503])
def test_errors_are_not(probing: Probing, app: App, code: int) -> None:
    app.behave = status(code)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    assert probing.becomes(healthy=False).message == f"GET /healthz: {code}"
    assert probing.woken == ["c1"]


def test_a_port_is_enough_for_tcp(probing: Probing, mute: Callable[[str], int]) -> None:
    probing.prober.watch({"c1": ("127.0.0.1", Health("tcp", port=mute("127.0.0.1"), interval=0.1))})
    probing.becomes(healthy=True)


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_nobody_listens(probing: Probing, free_port: Callable[[], int], kind: str) -> None:
    port = free_port()
    health = Health("http" if kind == "http" else "tcp", "/", port, interval=0.1, retries=2)
    probing.prober.watch({"c1": ("127.0.0.1", health)})
    assert probing.becomes(healthy=False).message == f"port {port}: connection refused"


def test_a_name_is_no_address_and_is_not_looked_up(probing: Probing) -> None:
    probing.prober.watch({"c1": ("shop", replace(FAST, port=80))})
    assert probing.becomes(healthy=False).message == "port 80: 'shop' is no address"


def test_other_kinds_are_the_engines_business(probing: Probing) -> None:
    probing.prober.watch({"c1": ("127.0.0.1", Health("command")), "c2": ("127.0.0.1", Health("engine"))})
    assert probing.prober.results() == {}


def test_a_healthy_replica_fails_after_so_many_failures_and_comes_back_at_once(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, retries=4))})
    probing.becomes(healthy=True)
    probing.now = 2_000.0
    answered = len(app.requests)
    app.behave = status(500)
    probing.says("500")
    if len(app.requests) - answered <= 2:  # on a machine that did not stall, it is still healthy here
        assert probing.result().healthy
    assert probing.becomes(healthy=False) == ProbeResult(healthy=False, since=2_000.0, message="GET /healthz: 500")
    assert len(app.requests) - answered >= 4
    probing.now = 3_000.0
    app.behave = status(200)
    assert probing.becomes(healthy=True) == ProbeResult(healthy=True, since=3_000.0, message="")
    assert probing.woken == ["c1"] * 3


def test_a_hiccup_is_reported_and_changes_nothing(probing: Probing, app: App) -> None:
    def hiccup(peer: socket.socket) -> None:
        status(500 if len(app.requests) % 5 == 0 else 200)(peer)

    app.behave = hiccup
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, interval=0.2))})
    probing.becomes(healthy=True)
    probing.says("GET /healthz: 500")
    assert probing.result().healthy
    eventually(lambda: probing.result().message == "")
    eventually(lambda: len(app.requests) >= 12)
    assert probing.result().healthy
    assert probing.woken == ["c1"]


def test_the_engine_restarts_a_replica_in_place(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, retries=2))})
    probing.becomes(healthy=True)
    app.close()
    assert "refused" in probing.becomes(healthy=False).message
    app.reopen()
    probing.becomes(healthy=True)


def test_failures_of_the_start_period_do_not_count(probing: Probing, app: App) -> None:
    app.behave = status(503)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, start_period=60.0))})
    eventually(lambda: len(app.requests) >= 6)
    assert probing.result() == ProbeResult(healthy=None, since=1_000.0, message="GET /healthz: 503")
    app.behave = status(200)
    probing.becomes(healthy=True)


def test_a_start_period_ends(probing: Probing, app: App) -> None:
    app.behave = status(503)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, start_period=0.5))})
    began = time.monotonic()
    probing.becomes(healthy=False)
    assert time.monotonic() - began >= 0.5


def test_a_starting_replica_is_probed_often_but_not_given_up_early(probing: Probing, app: App) -> None:
    app.behave = status(503)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, interval=0.8, retries=3))})
    began = time.monotonic()
    eventually(lambda: len(app.requests) >= 4, every=0.01)
    if time.monotonic() - began < 1.5:
        assert probing.result().healthy is None, "three failures in under two intervals"
    probing.becomes(healthy=False)
    assert time.monotonic() - began >= 1.6


def drip(peer: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n\r\n":
        time.sleep(0.1)
        peer.sendall(bytes([byte]))


def endless(line: bytes) -> Behaviour:
    def pour(peer: socket.socket) -> None:
        while True:
            peer.sendall(line * 100)

    return pour


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (lambda peer: peer.recv(1), "no answer within 0.4 s"),
        (drip, "no answer within 0.4 s"),
        (lambda _: None, "closed without an answer"),
        (says(b"HTTP/1.1 20"), "closed without an answer"),
        (reset, "connection reset by peer"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "not HTTP/1"),
        (says(b"HTTP/2 200 \r\n\r\n"), "not HTTP/1"),
        (says(b"HTTP/1.1 999 Odd\r\n\r\n"), "not HTTP/1"),
        (says(b"\0" * 100_000), "not HTTP/1"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "no status in the first 8 KiB"),
        (endless(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nA: "), "no status in the first 8 KiB"),
    ],
)
def test_hostile_servers_cost_a_timeout_at_most(probing: Probing, app: App, behave: Behaviour, message: str) -> None:
    app.behave = behave
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, timeout=0.4, retries=1))})
    assert message in probing.becomes(healthy=False).message


@pytest.mark.parametrize(
    "behave",
    [
        says(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        says(b"HTTP/1.0 200\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
        endless(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
        lambda peer: (peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"), peer.recv(1)),
    ],
)
def test_odd_servers_are_healthy_all_the_same_and_let_go_of(probing: Probing, app: App, behave: Behaviour) -> None:
    app.behave = behave
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    probing.becomes(healthy=True)
    eventually(lambda: len(app.requests) >= 3)


def test_hanging_replicas_delay_nobody(probing: Probing, app: App, mute: Callable[[str], int]) -> None:
    hangs = replace(FAST, port=mute("127.0.0.1"), timeout=30.0)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        for _ in range(4):  # fills the backlog: further connections are not even taken
            filler = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            filler.connect_ex(full.getsockname())
        targets = {f"mute{n}": ("127.0.0.1", hangs) for n in range(100)}
        targets["full"] = ("127.0.0.2", replace(FAST, port=full.getsockname()[1], timeout=0.3))
        targets["good"] = (app.address, replace(FAST, port=app.port))
        probing.prober.watch(targets)
        probing.becomes(healthy=True, container="good")
        assert "no connection within 0.3 s" in probing.becomes(healthy=False, container="full").message
        eventually(lambda: len(app.requests) >= 5)
    assert {probing.result(f"mute{n}").healthy for n in range(100)} == {None}


def test_more_hanging_replicas_than_sockets_take_turns(probing: Probing, mute: Callable[[str], int]) -> None:
    health = replace(FAST, port=mute("127.0.0.1"), timeout=0.3, retries=1)
    probing.prober.watch({f"c{n}": ("127.0.0.1", health) for n in range(300)})
    eventually(lambda: all(result.healthy is False for result in probing.prober.results().values()))


def test_results_are_those_of_the_watched(probing: Probing, app: App) -> None:
    health = replace(FAST, port=app.port)
    probing.prober.watch({"c1": (app.address, health), "c2": (app.address, health)})
    probing.becomes(healthy=True, container="c2")
    probing.prober.watch({"c2": (app.address, health)})
    assert set(probing.prober.results()) == {"c2"}
    assert probing.result("c2").healthy
    probing.prober.watch({})
    assert probing.prober.results() == {}
    time.sleep(0.3)
    quiet = len(app.requests)
    time.sleep(0.3)
    assert len(app.requests) == quiet, "nobody is probed any more"


def test_new_settings_do_not_take_a_replica_out_of_traffic(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    probing.becomes(healthy=True)
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port, path="/other"))})
    assert probing.result().healthy
    eventually(lambda: any(b"GET /other" in request for request in app.requests))
    assert probing.woken == ["c1"]


def test_who_is_to_be_probed_quickly_is_probed_at_once_and_not_twice(probing: Probing, app: App) -> None:
    slow = replace(FAST, port=app.port, interval=600.0)
    probing.prober.watch({"c1": (app.address, slow)})
    probing.becomes(True)
    app.behave = status(500)
    quick = replace(slow, interval=0.4)
    probing.prober.watch({"c1": (app.address, quick)})
    assert probing.becomes(False).message == "GET /healthz: 500"
    app.behave = status(200)
    probing.becomes(True)
    probing.prober.watch({"c1": (app.address, replace(quick, interval=0.3))})
    before = len(app.requests)
    time.sleep(1.5)
    assert len(app.requests) - before <= 7, "one line of probes, not two"


def test_another_address_is_another_question(probing: Probing, app: App) -> None:
    health = replace(FAST, port=app.port)
    probing.prober.watch({"c1": (app.address, health)})
    probing.becomes(healthy=True)
    probing.now = 5_000.0
    probing.prober.watch({"c1": ("127.0.0.3", health)})
    assert (probing.result().healthy, probing.result().since) == (None, 5_000.0)
    assert "refused" in probing.becomes(healthy=False).message


def test_targets_may_come_before_the_start(app: App) -> None:
    probing = Probing()
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    assert probing.result().healthy is None
    probing.prober.start()
    probing.becomes(healthy=True)
    probing.prober.stop()
    probing.prober.stop()


def test_a_clock_that_jumps_stops_nothing(probing: Probing, app: App) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    probing.becomes(healthy=True)
    probing.now = -1e9
    app.behave = status(500)
    assert probing.becomes(healthy=False).since == -1e9


def test_no_more_files_is_our_trouble_and_not_the_replicas(
    probing: Probing, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    probing.prober.watch({"c1": (app.address, replace(FAST, port=app.port))})
    probing.becomes(healthy=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            eventually(lambda: len([line for line in caplog.messages if "cannot probe c1" in line]) >= 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert probing.result().healthy
    answered = len(app.requests)
    eventually(lambda: len(app.requests) > answered)
    assert probing.woken == ["c1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_prober_is_not_mistaken_for_good_news(app: App) -> None:
    def broken(container: str) -> None:
        raise RuntimeError(container)

    prober = Prober(broken)
    prober.start()
    health = replace(FAST, port=app.port)
    prober.watch({"c1": (app.address, health)})

    def refuses() -> bool:
        try:
            prober.results()
        except Unavailable as error:
            return error.reason == "ProberStopped"
        return False

    eventually(refuses)
    prober.watch({"c2": (app.address, health)})
    prober.stop()
