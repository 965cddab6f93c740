from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.disks import small_disk

from reconciler.errors import Refused, Unavailable
from reconciler.world.hostkey import SIZE, HostKey, load_host_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "host.key"


def test_it_is_made_once(path: Path) -> None:
    first = load_host_key(path)
    assert first.created
    assert len(first.value) == SIZE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_host_key(path) == HostKey(first.value, created=False)
    assert [file.name for file in path.parent.iterdir()] == ["host.key"]


def test_two_hosts_differ(tmp_path: Path) -> None:
    assert load_host_key(tmp_path / "a").value != load_host_key(tmp_path / "b").value


def test_it_does_not_print(path: Path) -> None:
    key = load_host_key(path)
    assert repr(key) == "HostKey(created=True)"


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def short(path: Path) -> None:
    path.write_bytes(b"x" * (SIZE - 1))


def long(path: Path) -> None:
    path.write_bytes(b"x" * (SIZE + 1))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("damage", [nothing, short, long, zeros, directory, fifo, dangling])
def test_a_damaged_key_is_never_replaced(path: Path, damage: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    damage(path)
    if path.is_file():
        path.chmod(0o600)
    before = path.lstat()
    for _ in range(2):
        with pytest.raises(Refused, match=str(path)) as caught:
            load_host_key(path)
        assert caught.value.reason == "HostKeyDamaged"
        assert "backup" in caught.value.remedy
    after = path.lstat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_key_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    value = load_host_key(path).value
    path.chmod(mode)
    with pytest.raises(Refused) as caught:
        load_host_key(path)
    assert caught.value.reason == "HostKeyExposed"
    assert f"chmod 600 {path}" in caught.value.remedy
    path.chmod(0o600)
    assert load_host_key(path).value == value
    os.chown(path, 4711, 4711)
    with pytest.raises(Refused, match="owner 4711"):
        load_host_key(path)


def test_a_symbolic_link_to_a_key_is_fine(path: Path, tmp_path: Path) -> None:
    value = load_host_key(path).value
    link = tmp_path / "link"
    link.symlink_to(path)
    assert load_host_key(link) == HostKey(value, created=False)


def test_an_unreadable_key_is_told_from_a_missing_one(path: Path) -> None:
    load_host_key(path)
    code = (
        "import sys; from pathlib import Path; from reconciler.world.hostkey import load_host_key\n"
        "from reconciler.errors import ReconcilerError\n"
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: load_host_key(Path(sys.argv[1]))\n"
        "except ReconcilerError as error: print(error.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "HostKeyUnreadable\n"


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        disk.fill()
        with pytest.raises(Unavailable) as caught:
            load_host_key(disk.path / "host.key")
        assert caught.value.reason == "DiskFull"
        assert [file.name for file in disk.path.iterdir()] == ["ballast"]
        disk.free()
        key = load_host_key(disk.path / "host.key")
        disk.fill()
        assert load_host_key(disk.path / "host.key").value == key.value
        disk.read_only()
        assert load_host_key(disk.path / "host.key").value == key.value
        with pytest.raises(Unavailable) as caught:
            load_host_key(disk.path / "other.key")
        assert caught.value.reason == "DiskReadOnly"


def test_several_at_once_agree(path: Path) -> None:
    keys: list[HostKey] = []
    threads = [threading.Thread(target=lambda: keys.append(load_host_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(keys) == 8
    assert len({key.value for key in keys}) == 1
    assert sum(key.created for key in keys) == 1


MAKER = """
import sys, itertools
from pathlib import Path
from reconciler.world.hostkey import load_host_key
print("ready", flush=True)
for number in itertools.count():
    load_host_key(Path(sys.argv[1]) / f"key{number}")
"""


def test_sigkill_leaves_a_whole_key_or_none(tmp_path: Path) -> None:
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path / str(round_))],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as maker:
            assert maker.stdout
            maker.stdout.readline()
            time.sleep(0.03 + 0.005 * round_)
            maker.send_signal(signal.SIGKILL)
        keys = list((tmp_path / str(round_)).glob("key*"))
        assert all(not load_host_key(key).created for key in keys)
