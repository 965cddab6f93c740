from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.types import Mount
from harness.disks import SmallDisk, small_disk
from harness.engine import PrivateEngine

from reconciler.core.model import Secret
from reconciler.core.paths import stored_name
from reconciler.core.target import FileContent
from reconciler.errors import Unavailable
from reconciler.world.files import HostFiles

HUSH = b"correct-horse-battery-staple"
OWNER = (1000, 1001)
CONTENT = (FileContent("/etc/shop/a.toml", b"a", 0o444), FileContent("/etc/other/a.toml", b"b", 0o640))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "run") as disk:
        yield disk


class Host:
    """A host's two roots, with names for versions in them."""

    def __init__(self, state: Path, runtime: Path) -> None:
        self.files = state / "files"
        self.secrets = runtime / "secrets"
        self.room = HostFiles(self.files, self.secrets)

    def version(self, digest: str = "d1", app: str = "shop") -> str:
        return str(self.files / app / digest)

    def secret(self, digest: str = "s1", app: str = "shop") -> str:
        return str(self.secrets / app / digest)


@pytest.fixture
def host(tmp_path: Path, memory: SmallDisk) -> Host:
    return Host(tmp_path / "state", memory.path)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# --- writing ----------------------------------------------------------------------------------------------------------


def test_files_are_found_under_their_stored_names(host: Host) -> None:
    assert host.room.present() == frozenset()
    host.room.write(host.version(), CONTENT)
    assert host.room.present() == {host.version()}
    for file in CONTENT:
        path = Path(host.version()) / stored_name(file.target)
        assert path.read_bytes() == file.content
        assert mode(path) == file.mode
    assert mode(host.version()) == 0o555
    assert mode(host.files) == mode(host.files / "shop") == 0o700


def test_secrets_are_their_users_alone(host: Host) -> None:
    host.room.write_secrets(host.secret(), {"PASSWORD": Secret(HUSH), "tls.key": Secret(b"\x00\xff")}, OWNER)
    assert host.room.present() == {host.secret()}
    directory = Path(host.secret())
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"PASSWORD": HUSH, "tls.key": b"\x00\xff"}
    for path in (directory, *directory.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == OWNER
    assert {mode(path) for path in directory.iterdir()} == {0o400}
    assert mode(directory) == 0o500
    assert mode(host.secrets) == mode(host.secrets / "shop") == 0o700


def test_other_users_of_the_host_cannot_read(host: Host, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):  # let only our own modes stand in the way
        if mode(parent) & 0o005 != 0o005 and parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    host.room.write(host.version(), CONTENT)
    host.room.write_secrets(host.secret(), {"PASSWORD": Secret(HUSH)}, OWNER)
    paths = [str(Path(host.version()) / stored_name(CONTENT[0].target)), f"{host.secret()}/PASSWORD"]
    for path in paths:
        for user in (OWNER[0], 4711):  # the container's own number may be somebody else's on the host
            done = subprocess.run(
                ["cat", path], user=user, group=user, extra_groups=[], capture_output=True, check=False, timeout=10
            )
            assert done.returncode != 0
            assert b"Permission denied" in done.stderr


def test_roots_that_somebody_opened_are_closed(host: Host) -> None:
    host.secrets.mkdir()
    host.secrets.chmod(0o777)
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH)}, OWNER)
    assert mode(host.secrets) == 0o700


def test_a_version_is_written_once(host: Host) -> None:
    host.room.write(host.version(), CONTENT)
    before = Path(host.version()).stat()
    host.room.write(host.version(), ())
    after = Path(host.version()).stat()
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


def test_special_bits_do_not_get_onto_the_host(host: Host) -> None:
    host.room.write(host.version(), [FileContent("/bin/x", b"", 0o4755)])
    assert mode(Path(host.version()) / stored_name("/bin/x")) == 0o755


@pytest.mark.parametrize("directory", ["{files}/shop", "{files}/shop/a/b", "/etc/shop/d1", "{secrets}/shop/d1"])
def test_nothing_is_written_elsewhere(host: Host, directory: str) -> None:
    with pytest.raises(ValueError, match="is not a version"):
        host.room.write(directory.format(files=host.files, secrets=host.secrets), CONTENT)


def test_a_secret_cannot_climb(host: Host) -> None:
    with pytest.raises(ValueError, match="is no file name"):
        host.room.write_secrets(host.secret(), {"../evil": Secret(HUSH)}, OWNER)
    assert everything(host.secrets) == ["shop"]


def test_secrets_go_to_memory_only(tmp_path: Path, memory: SmallDisk) -> None:
    on_disk = Path(tmp_path / "on-disk")
    room = HostFiles(memory.path / "files", on_disk / "secrets")
    with pytest.raises(Unavailable, match="not on tmpfs") as caught:
        room.write_secrets(f"{on_disk}/secrets/shop/s1", {"A": Secret(HUSH)}, OWNER)
    assert caught.value.reason == "NotTmpfs"
    assert "runtime" in caught.value.remedy
    assert everything(on_disk) == ["secrets"]


# --- what somebody changed --------------------------------------------------------------------------------------------


def test_a_version_that_somebody_changed_is_not_present_and_is_mended_in_place(host: Host) -> None:
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH), "B": Secret(b"b")}, OWNER)
    directory = Path(host.secret())
    inode = directory.stat().st_ino
    (directory / "A").unlink()
    (directory / "new").mkdir()
    (directory / "new" / "file").touch()
    assert host.room.present() == frozenset()
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH), "B": Secret(b"b")}, OWNER)
    assert host.room.present() == {host.secret()}
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"A": HUSH, "B": b"b"}
    assert directory.stat().st_ino == inode, "a running container has this very directory mounted"
    assert everything(host.secrets / "shop") == ["s1", "s1/A", "s1/B"]


def test_something_else_in_the_place_of_a_version_gives_way(host: Host, tmp_path: Path) -> None:
    (host.files / "shop").mkdir(parents=True)
    Path(host.version("d1")).write_text("a file")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path(host.version("d2")).symlink_to(elsewhere)
    assert host.room.present() == frozenset()
    host.room.write(host.version("d1"), CONTENT)
    host.room.write(host.version("d2"), CONTENT)
    assert host.room.present() == {host.version("d1"), host.version("d2")}
    assert list(elsewhere.iterdir()) == []


def test_after_a_reboot_tmpfs_is_empty_and_files_are_there(host: Host, memory: SmallDisk) -> None:
    host.room.write(host.version(), CONTENT)
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH)}, OWNER)
    memory.unmount()
    SmallDisk(memory.path, "1m")
    assert host.room.present() == {host.version()}
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH)}, OWNER)
    assert host.room.present() == {host.version(), host.secret()}


# --- removing ---------------------------------------------------------------------------------------------------------


def test_all_others_are_removed_with_empty_apps_and_leftovers(host: Host) -> None:
    for digest in ("d1", "d2"):
        host.room.write(host.version(digest), CONTENT)
    host.room.write(host.version("d1", app="gone"), CONTENT)
    host.room.write_secrets(host.secret("s1"), {"A": Secret(HUSH)}, OWNER)
    host.room.write_secrets(host.secret("s2"), {"A": Secret(HUSH)}, OWNER)
    (host.secrets / "shop" / ".new-killed").mkdir()
    (host.secrets / "shop" / ".new-killed" / "A").write_bytes(HUSH)
    (host.secrets / "shop" / ".old-s2").mkdir()
    (host.secrets / "shop" / ".old-s2" / "A").write_bytes(HUSH)
    keep = frozenset({host.version("d2"), host.secret("s1"), "/somewhere/else"})
    host.room.remove_except(keep)
    assert host.room.present() == {host.version("d2"), host.secret("s1")}
    assert everything(host.secrets) == ["shop", "shop/s1", "shop/s1/A"]
    assert [path.name for path in host.files.iterdir()] == ["shop"]
    host.room.remove_except(frozenset())
    assert everything(host.files) == everything(host.secrets) == []


def test_removing_where_nothing_is(host: Host) -> None:
    host.room.remove_except(frozenset())
    assert host.room.present() == frozenset()


# --- full and broken disks --------------------------------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path, memory: SmallDisk) -> None:
    with small_disk(tmp_path / "state") as disk:
        host = Host(disk.path, memory.path)
        host.room.write(host.version("d1"), CONTENT)
        disk.fill()
        with pytest.raises(Unavailable, match="no space is left") as caught:
            host.room.write(host.version("d2"), CONTENT)
        assert caught.value.reason == "DiskFull"
        assert str(host.files) in str(caught.value)
        assert host.room.present() == {host.version("d1")}
        assert everything(host.files / "shop") == ["d1", *(f"d1/{name}" for name in names(host.version()))]
        disk.free()
        host.room.write(host.version("d2"), CONTENT)
        disk.fill()
        host.room.remove_except(frozenset({host.version("d2")}))
        assert host.room.present() == {host.version("d2")}


def test_a_full_tmpfs_keeps_no_half_of_a_secret(host: Host, memory: SmallDisk) -> None:
    memory.fill()
    with pytest.raises(Unavailable) as caught:
        host.room.write_secrets(host.secret(), {"A": Secret(HUSH)}, OWNER)
    assert caught.value.reason == "DiskFull"
    assert HUSH.decode() not in str(caught.value)
    memory.free()
    host.room.write_secrets(host.secret(), {"A": Secret(HUSH), "B": Secret(b"x" * 100_000)}, OWNER)
    memory.fill()
    with pytest.raises(Unavailable):
        host.room.write_secrets(host.secret("s2"), {"A": Secret(HUSH), "B": Secret(b"x" * 100_000)}, OWNER)
    assert host.room.present() == {host.secret()}
    assert [path.name for path in (host.secrets / "shop").iterdir()] == ["s1"]


def test_a_read_only_disk(tmp_path: Path, memory: SmallDisk) -> None:
    with small_disk(tmp_path / "state") as disk:
        host = Host(disk.path, memory.path)
        host.room.write(host.version("d1"), CONTENT)
        disk.read_only()
        with pytest.raises(Unavailable, match="read-only") as caught:
            host.room.write(host.version("d2"), CONTENT)
        assert caught.value.reason == "DiskReadOnly"
        with pytest.raises(Unavailable) as caught:
            host.room.remove_except(frozenset())
        assert caught.value.reason == "DiskReadOnly"
        assert host.room.present() == {host.version("d1")}


def test_a_file_in_the_place_of_the_root(host: Host) -> None:
    host.files.parent.mkdir()
    host.files.write_text("")
    assert host.room.present() == frozenset()
    with pytest.raises(Unavailable) as caught:
        host.room.write(host.version(), CONTENT)
    assert caught.value.reason == "DiskError"
    assert str(host.files) in caught.value.message


# --- killed at any point, and several at once -------------------------------------------------------------------------

WRITER = """
import sys, itertools
from pathlib import Path
from reconciler.core.model import Secret
from reconciler.world.files import HostFiles
root = Path(sys.argv[1])
room = HostFiles(root.parent / "files", root)
print("ready", flush=True)
for number in itertools.count():
    directory = f"{root}/shop/s{number % 3}"
    room.write_secrets(directory, {f"K{i}": Secret(b"v" * 2000) for i in range(20)}, (1000, 1000))
    room.remove_except(frozenset({directory}))
"""


def test_sigkill_leaves_whole_versions_only(host: Host) -> None:
    for round_ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(host.secrets)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout
            writer.stdout.readline()
            time.sleep(0.02 + 0.007 * round_)  # a different point each time
            writer.send_signal(signal.SIGKILL)
        for directory in host.room.present():
            assert names(directory) == sorted(f"K{i}" for i in range(20))
            assert {path.stat().st_size for path in Path(directory).iterdir()} == {2000}
    host.room.remove_except(frozenset())
    assert everything(host.secrets) == []


def test_threads_write_and_remove_at_once(host: Host) -> None:
    keep = frozenset(host.version(f"d{number}") for number in range(5))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(5):
                host.room.write(host.version(f"d{number}"), CONTENT)
                host.room.remove_except(keep)
        except BaseException as error:  # noqa: BLE001  (shown below; a thread's error is else only printed)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert host.room.present() == keep


def test_looking_is_cheap(host: Host) -> None:
    for number in range(100):
        host.room.write(host.version(app=f"app{number}"), CONTENT[:1])
    begin = time.process_time()
    for _ in range(10):
        assert len(host.room.present()) == 100
    assert (time.process_time() - begin) / 10 < 0.02, "100 apps cost some two milliseconds"


# --- in a container ---------------------------------------------------------------------------------------------------


def in_container(engine: PrivateEngine, image: str, host: Host, user: str, command: str) -> tuple[int, str]:
    """Run a shell command with both directories mounted, as our containers are: no capabilities."""
    client = engine.client()
    try:
        container = client.api.create_container(
            image,
            ["sh", "-c", command],
            user=user,
            host_config=client.api.create_host_config(
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                network_mode="none",
                mounts=[
                    Mount("/run/secrets", host.secret(), type="bind", read_only=True),
                    Mount(
                        "/etc/shop/a.toml",
                        f"{host.version()}/{stored_name('/etc/shop/a.toml')}",
                        type="bind",
                        read_only=True,
                    ),
                ],
            ),
        )["Id"]
        client.api.start(container)
        code = client.api.wait(container, timeout=60)["StatusCode"]
        output = client.api.logs(container).decode()
        client.api.remove_container(container, force=True)
        return int(code), output
    finally:
        client.close()


def test_a_containers_user_reads_and_others_do_not(engine: PrivateEngine, host: Host) -> None:
    image = engine.import_image("files-test:1")
    host.room.write(host.version(), CONTENT)
    for digest, owner in (("s1", OWNER), ("s0", (0, 0))):
        host.room.write_secrets(host.secret(digest), {"PASSWORD": Secret(HUSH)}, owner)
    read = "cat /run/secrets/PASSWORD /etc/shop/a.toml && ls /run/secrets"
    assert in_container(engine, image, host, "1000:1001", read) == (0, HUSH.decode() + "aPASSWORD\n")
    code, output = in_container(engine, image, host, "2000", "cat /run/secrets/PASSWORD; ls /run/secrets/")
    assert code != 0
    assert HUSH.decode() not in output
    assert "Permission denied" in output
    code, output = in_container(engine, image, host, "1000:1001", "touch /run/secrets/new; chmod 777 /run/secrets")
    assert code != 0
    assert output.count("Read-only file system") == 2


def test_root_without_capabilities_reads_its_secrets(engine: PrivateEngine, host: Host) -> None:
    image = engine.import_image("files-test:1")
    host.room.write(host.version(), CONTENT)
    host.room.write_secrets(host.secret(), {"PASSWORD": Secret(HUSH)}, (0, 0))
    assert in_container(engine, image, host, "0:0", "cat /run/secrets/PASSWORD") == (0, HUSH.decode())
