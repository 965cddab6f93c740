from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import docker
import pytest
import requests
from harness.engine import PrivateEngine

from reconciler.errors import Unavailable
from reconciler.world.containers.clients import Answered
from reconciler.world.containers.wire import Client, translate


def test_calls_are_counted_without_versions_ids_and_queries(engine: PrivateEngine) -> None:
    calls: Counter[str] = Counter()
    client = Client(engine.socket, 10, calls)
    try:
        client.containers(all=True)
        with pytest.raises(docker.errors.NotFound):
            client.inspect_container("0" * 64)
    finally:
        client.close()
    assert calls["GET /containers/json"] == 1
    assert calls["GET /containers/ID/json"] == 1


def test_a_socket_where_nobody_listens_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
    with pytest.raises(docker.errors.DockerException):  # an unclosed socket would fail the test as a warning
        Client(path, 1, Counter())


def test_errors_become_ours_with_what_was_tried() -> None:
    answered = translate(docker.errors.APIError("no", explanation="no such thing"), Path("/s"), "start shop")
    assert isinstance(answered, Answered)
    assert "start shop" in str(answered)
    assert isinstance(translate(requests.ConnectionError("gone"), Path("/s"), "list"), Unavailable)
    other = KeyError("x")
    assert translate(other, Path("/s"), "list") is other
