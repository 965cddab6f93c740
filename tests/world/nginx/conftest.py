"""An nginx, a names service and replicas for each test; every test that asks for ``nginx`` runs on two versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from harness.names import NamesLab
from harness.nginx import PrivateNginx, Replica, program
from harness.waiting import eventually


@pytest.fixture(params=["distribution", "newer"], scope="session")
def command(request: pytest.FixtureRequest) -> str:
    return program(request.param)


@pytest.fixture
def stopped(command: str, free_port: Callable[[], int]) -> Iterator[PrivateNginx]:
    nginx = PrivateNginx(command, free_port(), free_port())
    try:
        yield nginx
    finally:
        nginx.destroy()


@pytest.fixture
def nginx(stopped: PrivateNginx) -> PrivateNginx:
    stopped.start()
    return stopped


@pytest.fixture
def names() -> Iterator[NamesLab]:
    lab = NamesLab()
    try:
        lab.names.start()
        yield lab
    finally:
        lab.destroy()


@pytest.fixture
def replica() -> Iterator[Callable[[str, str], Replica]]:
    """Makes replicas: (address, label)."""
    made: list[Replica] = []

    def make(address: str, label: str) -> Replica:
        made.append(eventually(lambda: Replica(address, label)))
        return made[-1]

    yield make
    for one in made:
        if not one.stopped:
            one.stop()
