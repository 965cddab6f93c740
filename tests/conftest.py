"""Fixtures that every test may ask for. The test process lives in a network namespace of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from harness.engine import PrivateEngine
from harness.host import Host, make_app_images
from harness.isolation import isolate

isolate()
hypothesis.settings.register_profile("shared machine", deadline=None)  # a busy neighbour is no bug of ours
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def engine() -> Iterator[PrivateEngine]:
    """A real Docker Engine of this test process. Tests clean up what they make in it."""
    engine = PrivateEngine()
    engine.start()
    try:
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Ports on loopback that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def images(engine: PrivateEngine) -> PrivateEngine:
    """The engine, with images of a small web app."""
    make_app_images(engine)
    return engine


@pytest.fixture
def own_host(tmp_path: Path) -> Iterator[Host]:
    """A host with an engine of its own, which may die."""
    engine = PrivateEngine(beside=True)
    try:
        engine.start()
        make_app_images(engine)
        host = Host(engine, tmp_path / "host")
        try:
            host.nginx.start()
            yield host
        finally:
            host.destroy()
    finally:
        engine.destroy()


@pytest.fixture
def host(images: PrivateEngine, tmp_path: Path) -> Iterator[Host]:
    """A fresh host with nginx running; no agent yet."""
    host = Host(images, tmp_path / "host")
    try:
        host.nginx.start()
        yield host
    finally:
        host.destroy()


@pytest.fixture
def shop(host: Host) -> Host:
    """A host with two healthy apps at version 1, ``shop`` and ``other``; the first commit has neither."""
    host.commit(message="Begin")
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    return host
