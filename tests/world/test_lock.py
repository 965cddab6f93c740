from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.disks import small_disk
from harness.waiting import eventually

from reconciler.errors import Refused, Unavailable
from reconciler.world.lock import HostLock

AGENT = """
import subprocess, sys
from pathlib import Path
from reconciler.world.lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire()
child = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
lock.release()
"""


@contextmanager
def agent(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock and has a child that outlives it."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            yield process
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.lock"


def test_a_second_one_is_refused_and_told_who_runs(path: Path) -> None:
    assert HostLock(path).holder() is None
    with agent(path) as other:
        assert HostLock(path).holder() == other.pid
        with pytest.raises(Refused, match=f"process {other.pid}") as caught:
            HostLock(path).acquire()
        assert caught.value.reason == "AlreadyRunning"
        assert "systemctl stop" in caught.value.remedy
        assert HostLock(path).holder() == other.pid


def test_sigkill_leaves_no_stale_lock_even_with_children_alive(path: Path) -> None:
    with agent(path) as other:
        other.kill()
        other.wait(10)
        assert HostLock(path).holder() is None
        with HostLock(path) as mine:
            assert mine.holder() == os.getpid()
            assert path.read_text() == f"{os.getpid()}\n"


def test_release_keeps_the_file(path: Path) -> None:
    lock = HostLock(path)
    lock.acquire()
    lock.acquire()
    inode = path.stat().st_ino
    lock.release()
    lock.release()
    assert lock.holder() is None
    with HostLock(path):
        assert path.stat().st_ino == inode


def test_a_clean_end_lets_the_next_one_in(path: Path) -> None:
    with agent(path) as other:
        assert other.stdin
        other.stdin.close()
        other.wait(10)
        with HostLock(path):
            pass


def test_a_longer_number_from_before_is_gone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("99999999999\n")
    with HostLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_garbage_in_the_file_does_not_matter(path: Path) -> None:
    with agent(path):
        path.write_bytes(b"\xff garbage")
        holder = HostLock(path).holder()
        assert holder
        with pytest.raises(Refused, match=f"process {holder}"):
            HostLock(path).acquire()


def test_being_asked_all_the_time_does_not_bar_the_agent(path: Path) -> None:
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            HostLock(path).holder()

    asking = threading.Thread(target=ask)
    with HostLock(path):
        pass
    asking.start()
    try:
        for _ in range(50):
            with HostLock(path):
                pass
    finally:
        done.set()
        asking.join(10)


def test_a_full_disk_does_not_bar_the_agent_that_has_a_lock_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "run") as disk:
        path = disk.path / "agent.lock"
        path.touch()
        disk.fill()
        with HostLock(path):
            with pytest.raises(Refused):
                HostLock(path).acquire()
            assert HostLock(path).holder() == os.getpid()
        disk.free()
        path.write_text("1\n")  # whoever had it before
        disk.read_only()
        with HostLock(path):
            with pytest.raises(Refused, match=f"process {os.getpid()}"):
                HostLock(path).acquire()
            assert HostLock(path).holder() == os.getpid()
        disk.writable()
        path.unlink()
        disk.read_only()
        with pytest.raises(Unavailable) as caught:
            HostLock(path).acquire()
        assert caught.value.reason == "DiskReadOnly"


def test_a_directory_in_its_place_is_said(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Unavailable, match=str(path)) as caught:
        HostLock(path).acquire()
    assert caught.value.reason == "DiskError"


def test_descriptors_are_closed(path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with agent(path):
        before = count()
        for _ in range(3):
            with pytest.raises(Refused):
                HostLock(path).acquire()
            HostLock(path).holder()
        assert count() == before
    eventually(lambda: HostLock(path).holder() is None)


def test_nobody_but_root_can_take_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)  # as it was made once
    for lock in (HostLock(path), HostLock(path.with_name("fresh.lock"))):
        with lock:
            pass
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        "agent.lock": 0o600,
        "fresh.lock": 0o600,
    }
