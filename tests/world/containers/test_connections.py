from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.engine import PrivateEngine
from harness.labs import KEY, NETWORK, SUBNET, claim
from harness.waiting import eventually

from reconciler.core.target import ContainerSpec
from reconciler.world.containers import DockerEngine
from reconciler.world.containers.connections import established

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
# 10.201.0.5:8080 listening and with peers; 127.0.0.11:41234 is Docker's embedded resolver.
TCP = HEADER + "".join(
    f"   {number}: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
    for number, (local, remote, state) in enumerate(
        [
            ("00000000:1F90", "00000000:0000", "0A"),
            ("0B00007F:A112", "00000000:0000", "0A"),
            ("0500C90A:1F90", "0100C90A:D431", "01"),
            ("0500C90A:1F90", "0100C90A:D433", "01"),
            ("0500C90A:1F90", "0100C90A:D435", "06"),  # TIME_WAIT
            ("0500C90A:9C40", "0600C90A:1538", "01"),  # its own connection to a database
            ("0100007F:1F90", "0100007F:D437", "01"),  # a HEALTHCHECK inside
            ("0B00007F:A112", "0100007F:D439", "01"),
        ]
    )
)
V4_IN_6 = "0000000000000000FFFF0000"
TCP6 = HEADER + "".join(
    f"   {number}: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
    for number, (local, remote, state) in enumerate(
        [
            ("0" * 32 + ":0050", "0" * 32 + ":0000", "0A"),
            (f"{V4_IN_6}0500C90A:0050", f"{V4_IN_6}0100C90A:D441", "01"),
            (f"{V4_IN_6}0500C90A:1F90", f"{V4_IN_6}0100C90A:D443", "01"),  # that port listens in the other table
            (f"{V4_IN_6}0100007F:0050", f"{V4_IN_6}0100007F:D445", "01"),
            ("0" * 24 + "01000000:0050", "0" * 24 + "01000000:D447", "01"),
        ]
    )
)


def proc(tmp_path: Path, **tables: str) -> Path:
    net = tmp_path / "42" / "net"
    net.mkdir(parents=True)
    for name, text in tables.items():
        (net / name).write_text(text)
    return tmp_path


def test_established_connections_to_listening_ports_are_counted(tmp_path: Path) -> None:
    assert established(42, proc(tmp_path, tcp=TCP, tcp6=TCP6)) == 4


def test_a_kernel_without_ipv6_is_fine(tmp_path: Path) -> None:
    assert established(42, proc(tmp_path, tcp=TCP)) == 2


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    assert established(42, tmp_path) == 0


@pytest.fixture
def ours(engine: PrivateEngine) -> Iterator[DockerEngine]:
    made = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ())
    made.ensure_network()
    yield made
    made.close()
    client = engine.client()
    for container in client.api.containers(all=True, quiet=True):
        client.api.remove_container(container["Id"], force=True)
    client.api.remove_network(NETWORK)
    client.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080"])
def test_a_server_that_is_being_read_from_has_connections(
    ours: DockerEngine, engine: PrivateEngine, listen: str
) -> None:
    # A CGI that does not end keeps its connection.
    image = engine.import_image("connections:1", files={"www/cgi-bin/slow": b"#!/bin/sh\nsleep 1000\n"})
    serve = ("httpd", "-f", "-p", listen, "-h", "/www")
    container = ours.create("shop.1.3fa9c2d1", "10.211.0.10", claim(), ContainerSpec(image, command=serve))
    assert ours.connections(container) == 0, "it does not run"
    ours.start(container)
    clients: list[socket.socket] = []
    try:
        for count in (1, 2):
            clients.append(eventually(lambda: socket.create_connection(("10.211.0.10", 8080), timeout=5)))
            clients[-1].sendall(b"GET /cgi-bin/slow HTTP/1.0\r\n\r\n")
            eventually(lambda count=count: ours.connections(container) == count)  # type: ignore[misc]
        clients.pop().close()
        eventually(lambda: ours.connections(container) == 1)
    finally:
        for each in clients:
            each.close()
    eventually(lambda: ours.connections(container) == 0)
    ours.stop(container, 1)
    assert ours.connections(container) == 0


def test_it_can_be_asked_while_containers_come_and_go(ours: DockerEngine, engine: PrivateEngine) -> None:
    image = engine.import_image("connections:2", changes=('CMD ["sleep", "1000"]',))
    container = ours.create("shop.1.3fa9c2d1", "10.211.0.10", claim(), ContainerSpec(image))
    ours.start(container)
    counts: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            counts.append(ours.connections(container))

    thread = threading.Thread(target=ask)
    thread.start()
    ours.stop(container, 1)
    ours.remove(container)
    over.set()
    thread.join(30)
    assert set(counts) <= {0}
