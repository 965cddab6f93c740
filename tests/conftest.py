"""Fixtures that every test may ask for. The test process lives in a network namespace of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from harness.engine import PrivateEngine
from harness.isolation import isolate

isolate()


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
