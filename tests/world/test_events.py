from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from harness.engine import PrivateEngine
from harness.waiting import eventually

from reconciler.world.events import EngineEvents


class Ear:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.invalid: list[str] = []

    def heard(self, *words: str) -> bool:
        return any(all(word in reason for word in words) for reason in self.reasons)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def listening(engine: PrivateEngine, ear: Ear) -> Iterator[EngineEvents]:
    events = EngineEvents(engine.socket, ear.reasons.append, ear.invalid.append)
    events.start()
    yield events
    events.stop()


@pytest.fixture
def api(engine: PrivateEngine) -> Iterator[docker.APIClient]:
    client = engine.client()
    yield client.api
    for container in client.api.containers(all=True, quiet=True):
        client.api.remove_container(container["Id"], force=True)
    client.close()


@pytest.fixture
def image(engine: PrivateEngine, api: docker.APIClient) -> Iterator[str]:
    yield engine.import_image("events:1", changes=('CMD ["sleep", "1000"]',))
    api.remove_image("events:1", force=True)


def run(api: docker.APIClient, image: str, name: str) -> str:
    host = api.create_host_config(init=True)
    container = str(api.create_container(image, name=name, host_config=host)["Id"])
    api.start(container)
    return container


@pytest.mark.usefixtures("listening")
def test_what_happens_to_a_container_wakes_and_invalidates_it(api: docker.APIClient, image: str, ear: Ear) -> None:
    container = run(api, image, "events-shop")
    eventually(lambda: ear.heard("events-shop", "start"))
    assert container in ear.invalid
    for call, word in (
        (lambda: api.pause(container), "pause"),
        (lambda: api.unpause(container), "unpause"),
        (lambda: api.update_container(container, mem_limit="64m", memswap_limit="64m"), "update"),
        (lambda: api.disconnect_container_from_network(container, "bridge"), "disconnect"),
        (lambda: api.rename(container, "events-new"), "rename"),
        (lambda: api.stop(container, timeout=5), "die"),
        (lambda: api.remove_container(container), "destroy"),
    ):
        ear.invalid.clear()
        call()
        eventually(lambda word=word: ear.heard(word) and container in ear.invalid, what=word)  # type: ignore[misc]


@pytest.mark.usefixtures("listening")
def test_images_that_come_and_go_wake(api: docker.APIClient, image: str, ear: Ear) -> None:
    api.tag(image, "events", "2")
    eventually(lambda: ear.heard("image", "tag"))
    api.remove_image("events:2")
    eventually(lambda: ear.heard("image", "untag"))
    assert ear.invalid == []


@pytest.mark.usefixtures("listening")
def test_the_execs_of_healthchecks_do_not_wake(api: docker.APIClient, image: str, ear: Ear) -> None:
    container = run(api, image, "events-shop")
    for _ in range(3):
        api.exec_start(api.exec_create(container, ["true"])["Id"])
    api.pause(container)
    eventually(lambda: ear.heard("pause"))
    assert not ear.heard("exec")


def listens() -> bool:
    return any(thread.name == "docker-events" for thread in threading.enumerate())


@pytest.mark.usefixtures("image")
def test_stopping_takes_no_second_while_it_listens(listening: EngineEvents, api: docker.APIClient, ear: Ear) -> None:
    api.tag("events:1", "events", "2")
    eventually(lambda: ear.heard("tag"))
    api.remove_image("events:2")
    before = time.monotonic()
    listening.stop()
    listening.stop()
    assert time.monotonic() - before < 5
    assert not listens()


def test_stopping_takes_no_second_while_docker_is_away(tmp_path: Path, ear: Ear) -> None:
    events = EngineEvents(tmp_path / "docker.sock", ear.reasons.append, ear.invalid.append)
    events.start()
    time.sleep(0.3)  # it is between two attempts now
    before = time.monotonic()
    events.stop()
    assert time.monotonic() - before < 5
    assert not listens()


def test_stopping_takes_no_second_while_docker_hangs(tmp_path: Path, ear: Ear) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "docker.sock"))
        hanging.listen()
        events = EngineEvents(tmp_path / "docker.sock", ear.reasons.append, ear.invalid.append)
        events.start()
        connection, _ = hanging.accept()
        with connection:
            assert connection.recv(4)  # asked, and never answered
            before = time.monotonic()
            events.stop()
            assert time.monotonic() - before < 5
            assert not listens()


def test_something_that_is_not_docker_is_tried_again(
    tmp_path: Path, ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nbusy", b"garbage\r\n\r\n"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        events = EngineEvents(tmp_path / "docker.sock", ear.reasons.append, ear.invalid.append)
        events.start()
        thread.join(20)
        assert not thread.is_alive()
        events.stop()
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "busy" in line
    assert "only the poll sees drift" in line
    assert ear.reasons == []


def test_a_daemon_that_was_away_comes_back_with_everything_in_doubt(ear: Ear) -> None:
    engine = PrivateEngine(beside=True)
    engine.start()
    events = EngineEvents(engine.socket, ear.reasons.append, ear.invalid.append)
    client = engine.client()
    try:
        events.start()
        image = engine.import_image("events:1", changes=('CMD ["sleep", "1000"]',))
        eventually(lambda: ear.heard("events:1"))
        engine.stop()
        assert "" not in ear.invalid
        engine.start()
        eventually(lambda: ear.heard("Docker is back"), within=20)
        assert ear.invalid[-1] == ""
        container = run(client.api, image, "events-shop")
        eventually(lambda: ear.heard("events-shop", "start") and container in ear.invalid)
    finally:
        events.stop()
        client.close()
        engine.destroy()


def test_what_happened_between_two_connections_is_told(
    api: docker.APIClient, image: str, engine: PrivateEngine
) -> None:
    """A proxy in between cuts the stream; the engine itself goes on."""
    ear = Ear()
    front = engine.root / "front.sock"
    proxy = Proxy(front, engine.socket)
    events = EngineEvents(front, ear.reasons.append, ear.invalid.append)
    proxy.open()
    try:
        events.start()
        run(api, image, "events-before")
        eventually(lambda: ear.heard("events-before", "start"))
        proxy.close()
        missed = run(api, image, "events-missed")
        assert not ear.heard("events-missed")
        proxy.open()
        eventually(lambda: ear.heard("events-missed", "start"))
        assert missed in ear.invalid
        assert sum("events-before: start" in reason for reason in ear.reasons) == 1, "seen once, told once"
    finally:
        events.stop()
        proxy.close()


class Proxy:
    """Forwards a unix socket until it is closed, and then cuts what is open."""

    def __init__(self, front: Path, back: Path) -> None:
        self._front, self._back = front, back
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._front))
        listener.listen()
        self._sockets.append(listener)
        self._spawn(self._accept, listener)

    def _spawn(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._back))
            with self._lock:
                self._sockets += [near, far]
            self._spawn(self._pump, near, far)
            self._spawn(self._pump, far, near)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def close(self) -> None:
        self._front.unlink(missing_ok=True)
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):  # the other end has closed it already
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()
        self._sockets, self._threads = [], []
