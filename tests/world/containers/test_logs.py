from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.engine import PrivateEngine
from harness.labs import KEY, NETWORK, SUBNET, claim
from harness.waiting import eventually

from reconciler.core.target import ContainerSpec
from reconciler.errors import Unavailable
from reconciler.world.containers import DockerEngine
from reconciler.world.containers.logs import tail


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\n\ttext\n", "plain\n\ttext\n"),
        (b"windows\r\nlines\r\n", "windows\nlines\n"),
        (b"\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1Hcleared", "red cleared"),
        (b"\x1b]0;title\x07text \x1b]8;;http://x\x1b\\link", "text link"),
        (b"bell\x07 back\x08 null\x00 escape\x1b", "bell\ufffd back\ufffd null\ufffd escape\ufffd"),
        (b"over\rwrite", "over\ufffdwrite"),
        ("c1\u009b31m bidi\u202e zero\u200b".encode(), "c1\ufffd31m bidi\ufffd zero\ufffd"),
        ("umlaut ü, emoji \U0001f600".encode(), "umlaut ü, emoji \U0001f600"),
        (b"not utf-8: \xff\xfe", "not utf-8: \ufffd\ufffd"),
    ],
)
def test_what_drives_a_terminal_is_made_harmless(raw: bytes, shown: str) -> None:
    assert tail(raw) == shown


def test_only_the_end_is_kept_and_no_character_is_cut() -> None:
    kept = tail("ü".encode() * 100_000 + b"the end")
    assert len(kept.encode()) <= 64 * 1024
    assert kept.endswith("üthe end")
    assert "\ufffd" not in kept[1:]
    assert len(tail(b"\x00" * 100_000).encode()) <= 64 * 1024


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


def finished(ours: DockerEngine, image: str, script: str) -> str:
    spec = ContainerSpec(image, command=("sh", "-c", script), restart=False)
    container = ours.create("shop.1.3fa9c2d1", "10.211.0.10", claim(), spec)
    ours.start(container)
    eventually(lambda: ours.observe().containers[0].state == "exited")
    return container


def test_output_and_errors_are_read(ours: DockerEngine, engine: PrivateEngine) -> None:
    container = finished(ours, engine.import_image("logs:1"), "echo output; echo error >&2")
    # Two pipes: their order is not certain.
    assert sorted(ours.logs(container, 10).splitlines()) == ["error", "output"]
    ours.remove(container)
    with pytest.raises(Unavailable, match="No such container"):
        ours.logs(container, 1)


def test_the_last_lines_are_read_and_capped(ours: DockerEngine, engine: PrivateEngine) -> None:
    script = "for i in $(seq 3000); do printf '%0100d\\n' $i; done"
    container = finished(ours, engine.import_image("logs:1"), script)
    assert ours.logs(container, 2) == f"{2999:0100d}\n{3000:0100d}\n"
    everything = ours.logs(container, 10_000)
    assert everything.endswith(f"{3000:0100d}\n")
    assert len(everything) <= 64 * 1024
