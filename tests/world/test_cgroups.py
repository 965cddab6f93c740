from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from docker.errors import NotFound
from harness.engine import PrivateEngine
from harness.waiting import eventually

from reconciler.world.cgroups import usage

CONTAINER = "ab" * 32


def test_a_real_containers_cpu_and_memory(engine: PrivateEngine) -> None:
    image = engine.import_image("reconciler-test/busy:1")
    client = engine.client()
    made = [
        client.containers.create(image, ["sh", "-c", command], network_mode="none")
        for command in ("while :; do :; done", "kept=$(seq 1 200000); sleep 600; echo $kept")
    ]
    try:
        for container in made:
            container.start()
            container.reload()
        busy, lazy = (container.attrs["State"]["Pid"] for container in made)

        def used(pid: int) -> tuple[str, float, int]:
            found = usage(pid)
            assert found is not None
            return found

        before = used(busy)
        assert str(made[0].id) in before[0]
        began = time.monotonic()
        eventually(lambda: used(busy)[1] > before[1] + 0.2)
        assert used(busy)[1] - before[1] < (time.monotonic() - began) * 1.5 + 0.5, "one process burns one core at most"
        eventually(lambda: used(lazy)[2] > 1_000_000, what="1.3 MB of digits")
        assert used(lazy)[2] < 100_000_000
        for container in made:
            container.remove(force=True)
        assert usage(busy) is None
    finally:
        for container in made:
            with contextlib.suppress(NotFound):
                container.remove(force=True)
        client.close()


def test_a_process_of_no_container_is_not_counted() -> None:
    assert usage(os.getpid()) is None


def test_a_process_that_never_was() -> None:
    assert usage(2**22 + 1) is None


class Kernel:
    """/proc and /sys/fs/cgroup with one process, as the kernel lays them out."""

    def __init__(self, root: Path, table: str, files: dict[str, str]) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        for path, text in {
            self.proc / "7" / "cgroup": table,
            **{self.cgroups / p: t for p, t in files.items()},
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def usage(self) -> tuple[str, float, int] | None:
        return usage(7, self.proc, self.cgroups)


@pytest.mark.parametrize("path", [f"/system.slice/docker-{CONTAINER}.scope", f"/docker/{CONTAINER}"])
def test_version_2_with_either_driver(tmp_path: Path, path: str) -> None:
    files = {
        f"{path[1:]}/cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
        f"{path[1:]}/memory.current": "10000000\n",
        f"{path[1:]}/memory.stat": "anon 1\nfile 2\ninactive_file 4000000\nactive_file 3\n",
    }
    assert Kernel(tmp_path, f"0::{path}\n", files).usage() == (path, 2.5, 6_000_000)


def test_version_1_with_joined_controllers(tmp_path: Path) -> None:
    path = f"docker/{CONTAINER}"
    table = f"12:memory:/{path}\n4:cpu,cpuacct:/{path}\n1:name=systemd:/{path}\n0::/system.slice/containerd.service\n"
    files = {
        f"cpuacct/{path}/cpuacct.usage": "1500000000\n",
        f"memory/{path}/memory.usage_in_bytes": "5000\n",
        f"memory/{path}/memory.stat": "inactive_file 1\ntotal_inactive_file 8000\n",
    }
    assert Kernel(tmp_path, table, files).usage() == (f"/{path}", 1.5, 0)


@pytest.mark.parametrize(
    "table",
    ["", "nonsense\n", "0::/\n", "0::/user.slice\n", f"0::/../../{CONTAINER}\n", f"0::/docker/{CONTAINER}\n"],
)
def test_what_cannot_be_counted(tmp_path: Path, table: str) -> None:
    assert Kernel(tmp_path, table, {}).usage() is None
