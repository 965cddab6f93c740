"""The wording of engines from 20.10 to 29, on an engine that says what the test wrote down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.labs import KEY, NETWORK, SUBNET, claim
from harness.scripted_engine import ScriptedEngine, error

from reconciler.core.model import Secret
from reconciler.core.target import ContainerSpec
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable
from reconciler.world.containers import DockerEngine
from reconciler.world.containers.explain import cause

CONTAINER = "0123456789abcdef" * 4
INSPECTED: dict[str, Any] = {
    "Id": CONTAINER,
    "Name": "/shop.1.3fa9c2d1",
    "Config": {"Labels": {}, "Image": "x:1"},
    "NetworkSettings": {"Networks": {NETWORK: {"IPAMConfig": {"IPv4Address": "10.211.0.10"}}}},
}


@pytest.fixture
def scripted() -> Iterator[ScriptedEngine]:
    with ScriptedEngine({}) as made:
        yield made


@pytest.fixture
def ours(scripted: ScriptedEngine) -> Iterator[DockerEngine]:
    made = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "kind", "reason", "words"),
    [
        (  # 20.10 to 27, another container
            (
                "driver failed programming external connectivity on endpoint shop: Bind for 0.0.0.0:80 failed: port is"
                " already allocated"
            ),
            Refused,
            "PortTaken",
            "port 80/tcp is taken by a process outside Docker",
        ),
        (  # 20.10 to 27, a process
            (
                "driver failed programming external connectivity on endpoint shop: Error starting userland proxy:"
                " listen tcp4 0.0.0.0:443: bind: address already in use"
            ),
            Refused,
            "PortTaken",
            "port 443/tcp",
        ),
        (
            (
                "driver failed programming external connectivity on endpoint shop: Error starting userland proxy:"
                " listen udp6 [::]:53: bind: address already in use"
            ),
            Refused,
            "PortTaken",
            "port 53/udp",
        ),
        (  # 28 and later
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint"
                " shop (a1): failed to bind host port 0.0.0.0:8080/tcp: address already in use"
            ),
            Refused,
            "PortTaken",
            "port 8080/tcp",
        ),
        (
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint"
                " shop (a1): failed to bind host port for 127.0.0.1:8080:172.18.0.2:80/tcp: address already in use"
            ),
            Refused,
            "PortTaken",
            "port 8080/tcp",
        ),
        ("Address already in use", Refused, "AddressTaken", "address 10.211.0.10 in our network is taken"),
        (
            "failed to set up container networking: Address already in use",
            Refused,
            "AddressTaken",
            "address 10.211.0.10",
        ),
        (
            (
                "failed to create task for container: failed to create shim task: OCI runtime create failed:"
                " runc create failed: unable to start container process:"
                ' exec: "serve": executable file not found in $PATH: unknown'
            ),
            Failed,
            "ContainerRejected",
            'rejects container shop.1.3fa9c2d1: exec: "serve": executable file not found',
        ),
        (
            (
                "failed to create shim: OCI runtime create failed: container_linux.go:380: starting container process"
                ' caused: exec: "docker-init": executable file not found in $PATH: unknown'
            ),
            Unavailable,
            "InitMissing",
            "misses its docker-init",
        ),
        (
            "error creating overlay mount to /var/lib/docker/overlay2/x/merged: no space left on device",
            Unavailable,
            "DiskFull",
            "no space left on device",
        ),
        ("network 0123abcd not found", Unavailable, "DockerError", "network 0123abcd not found"),
        (
            'invalid mount config for type "bind": bind source path does not exist: /run/reconciler/secrets/shop',
            Unavailable,
            "MountMissing",
            "the directory /run/reconciler/secrets/shop that is to be mounted does not exist",
        ),
    ],
)
def test_why_a_container_does_not_start(
    scripted: ScriptedEngine, ours: DockerEngine, text: str, kind: type[ReconcilerError], reason: str, words: str
) -> None:
    scripted.answers = {
        f"POST /containers/{CONTAINER}/start": error(500, text),
        f"GET /containers/{CONTAINER}/json": lambda: (200, INSPECTED),
        "GET /containers/json": lambda: (200, []),
    }
    with pytest.raises(kind) as caught:
        ours.start(CONTAINER)
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert words in caught.value.message
    if kind is Refused or reason == "DiskFull":
        assert caught.value.remedy


def test_no_message_repeats_a_secret(scripted: ScriptedEngine, ours: DockerEngine) -> None:
    scripted.answers["POST /containers/create"] = error(400, "invalid environment variable: TOKEN=hunter2-and-more")
    spec = ContainerSpec("sha256:1", environment={"TOKEN": Secret(b"hunter2-and-more"), "EMPTY": Secret(b"")})
    with pytest.raises(Failed) as caught:
        ours.create("shop.1.3fa9c2d1", "10.211.0.10", claim(), spec)
    assert "hunter2" not in str(caught.value)
    assert "TOKEN=***" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_name_that_was_taken_and_is_free_again_is_tried_again(scripted: ScriptedEngine, ours: DockerEngine) -> None:
    scripted.answers = {
        "POST /containers/create": error(
            409, 'Conflict. The container name "/shop" is already in use by container "x".'
        ),
        "GET /containers/shop/json": error(404, "No such container: shop"),
    }
    with pytest.raises(Unavailable) as caught:
        ours.create("shop", "10.211.0.10", claim(), ContainerSpec("sha256:1"))
    assert caught.value.reason == "NameTaken"


def test_a_full_disk_at_the_creation_is_tried_again(scripted: ScriptedEngine, ours: DockerEngine) -> None:
    scripted.answers["POST /containers/create"] = error(500, "mkdir /var/lib/docker/x: no space left on device")
    with pytest.raises(Unavailable) as caught:
        ours.create("shop", "10.211.0.10", claim(), ContainerSpec("sha256:1"))
    assert caught.value.reason == "DiskFull"
    assert "docker image prune" in caught.value.remedy


def test_an_engine_that_was_upgraded_is_spoken_to_anew(scripted: ScriptedEngine, ours: DockerEngine) -> None:
    scripted.answers["GET /containers/json"] = error(
        400, "client version 1.41 is too old. Minimum supported API version is 1.44"
    )
    with pytest.raises(Unavailable):
        ours.observe()
    negotiations = ours.calls["GET /version"]
    with pytest.raises(Unavailable):
        ours.observe()
    assert ours.calls["GET /version"] == negotiations + 1


def test_the_wrapping_of_an_error_is_taken_off() -> None:
    text = "failed to create shim task: OCI runtime create failed: unable to start container process: no: unknown"
    assert cause(text) == "no: unknown"
    assert cause("plain") == "plain"
