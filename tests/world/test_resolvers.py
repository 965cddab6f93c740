from __future__ import annotations

from pathlib import Path

from reconciler.world.resolvers import reachable


def test_resolvers_that_a_container_can_reach(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# made by hand\nsearch example.com\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nnameserver bad\nnameserver\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    )
    assert reachable(file) == ("192.0.2.1", "192.0.2.2")


def test_no_file_means_none(tmp_path: Path) -> None:
    assert reachable(tmp_path / "absent") == ()
