from __future__ import annotations

from pathlib import Path

from reconciler.world.resolvers import reachable


def test_resolvers_that_a_container_can_reach(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    lines = ["# by hand", "search example.com", "nameserver 127.0.0.53", "nameserver 192.0.2.1", "nameserver ::1"]
    lines += ["nameserver", "nameserver bad", "nameserver 192.0.2.2", "nameserver 192.0.2.3"]
    file.write_text("\n".join(lines))
    assert reachable(file) == ("192.0.2.1", "192.0.2.2")


def test_no_file_means_none(tmp_path: Path) -> None:
    assert reachable(tmp_path / "absent") == ()
