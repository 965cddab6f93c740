from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.disks import small_disk

from reconciler.database import Database
from reconciler.errors import Refused, Unavailable

FIRST = "CREATE TABLE pairs (a INTEGER PRIMARY KEY, b INTEGER NOT NULL); CREATE TABLE words (word TEXT)"
SECOND = "ALTER TABLE words ADD COLUMN language TEXT NOT NULL DEFAULT 'en'; CREATE INDEX w ON words (language)"


def database(path: Path, *migrations: str) -> Database:
    return Database(path, what="the store", application=4711, migrations=migrations or (FIRST,))


def put(store: Database, word: str) -> None:
    store.write(("INSERT INTO words (word) VALUES (?)", (word,)))


def words(store: Database) -> list[str]:
    return store.read(lambda connection: [row[0] for row in connection.execute("SELECT word FROM words")])


def words_for_another(path: Path) -> list[str]:
    """What another process would read."""
    store = database(path)
    try:
        return words(store)
    finally:
        store.close()


def copies(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if "damaged" in file.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_who_locks_the_directory_holds_up_nobody(path: Path) -> None:
    held = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    store = database(path)
    try:
        put(store, "one")
        assert words_for_another(path) == ["one"]
        assert path.with_name("store.db.lock").stat().st_mode & 0o777 == 0o600
    finally:
        store.close()
        os.close(held)


# --- one process ------------------------------------------------------------------------------------------------------


def test_a_transaction_is_whole_or_not_there(path: Path) -> None:
    store = database(path)
    put(store, "one")
    with pytest.raises(Unavailable):
        store.write(("INSERT INTO words VALUES ('two')", ()), ("INSERT INTO nowhere VALUES (1)", ()))
    assert words(store) == ["one"]
    put(store, "three")
    assert words(store) == ["one", "three"]
    assert store.trouble() is None


def test_nothing_but_the_file_is_left_when_it_is_closed(path: Path) -> None:
    store = database(path)
    put(store, "one")
    store.close()
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
    assert words(store) == ["one"]


def test_threads(path: Path) -> None:
    store = database(path)

    def put_many() -> None:
        for _ in range(20):
            put(store, "x")

    threads = [threading.Thread(target=put_many) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(words(store)) == 100


def test_an_older_schema_is_brought_up_to_date_and_keeps_its_rows(path: Path) -> None:
    old = database(path, FIRST)
    put(old, "one")
    new = database(path, FIRST, SECOND)
    assert new.read(lambda connection: connection.execute("SELECT * FROM words").fetchall()) == [("one", "en")]
    with pytest.raises(Refused, match="newer version") as caught:
        database(path, FIRST).read(lambda connection: connection)
    assert caught.value.reason == "StoreNewer"
    assert f"mv {path}" in caught.value.remedy
    assert words(new) == ["one"]
    assert copies(path) == []
    old.close()
    new.close()


# --- damage -----------------------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def half_a_page(path: Path) -> None:
    os.truncate(path, 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def damaged_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def directory(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def something_else(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


DAMAGES = [garbage, truncated, half_a_page, empty, damaged_page, directory, fifo, dangling, something_else]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_moved_aside_and_a_fresh_one_begins(path: Path, damage: Callable[[Path], None]) -> None:
    store = database(path)
    for number in range(500):
        store.write(
            ("INSERT INTO pairs VALUES (?, ?)", (number, number)), ("INSERT INTO words VALUES (?)", ("w" * 90,))
        )
    store.close()
    damage(path)
    again = database(path)
    assert words(again) == []
    put(again, "new")
    assert words(again) == ["new"]
    (copy,) = again.copies()
    assert copies(path) == [copy.name]
    assert copy.name.startswith("store.db.damaged-2")
    again.close()
    assert words_for_another(path) == ["new"]
    assert copies(path) == [copy.name]


def test_damage_that_comes_while_it_is_open(path: Path) -> None:
    store = database(path)
    for _ in range(300):
        store.write(("INSERT INTO words VALUES (?)", ("w" * 900,)))
    store.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    damaged_page(path)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    store.read(lambda connection: connection.execute("PRAGMA shrink_memory").fetchall())
    assert words(store) == []
    put(store, "new")
    assert words(store) == ["new"]
    assert len(copies(path)) == 1


def test_only_the_newest_copies_are_kept(path: Path) -> None:
    for number in range(6):
        path.write_text(f"garbage {number}")
        store = database(path)
        assert words(store) == []
        store.close()
    kept = database(path).copies()
    assert len(kept) == 3
    assert kept[-1].read_text() == "garbage 5"


def test_a_removed_file_comes_back_empty_and_an_old_log_is_not_replayed(path: Path) -> None:
    store = database(path)
    put(store, "one")
    path.unlink()
    assert words(store) == []
    put(store, "two")
    assert words_for_another(path) == ["two"]
    store.close()
    log = path.with_name("store.db-wal")
    other = database(path)
    put(other, "three")
    left_over = log.read_bytes()
    other.close()
    path.unlink()
    log.write_bytes(left_over)
    assert words_for_another(path) == []


# --- other processes --------------------------------------------------------------------------------------------------

WRITER = """
import sys, itertools
from pathlib import Path
from reconciler.database import Database
store = Database(Path(sys.argv[1]), what="the store", application=4711, migrations=(sys.argv[2],))
store.write(("DELETE FROM pairs WHERE ?", (0,)))
print("ready", flush=True)
for number in itertools.count():
    store.write(("INSERT OR REPLACE INTO pairs VALUES (?, 0)", (number % 50,)),
                ("UPDATE pairs SET b = ? WHERE a >= ?", (number, 0)))
    if len(sys.argv) > 3 and number % 5 == 0:
        store.close()
"""


@contextmanager
def writer(path: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), FIRST, *more],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def consistent(store: Database) -> bool:
    """Every transaction gives all rows the same number."""
    return len(store.read(lambda connection: connection.execute("SELECT DISTINCT b FROM pairs").fetchall())) < 2


def test_sigkill_in_the_middle_of_writes(path: Path) -> None:
    for round_ in range(5):
        with writer(path, *(["closing"] if round_ % 2 else [])) as process:
            time.sleep(0.02 + 0.01 * round_)
            process.send_signal(signal.SIGKILL)
        store = database(path)
        assert consistent(store)
        put(store, "x")
        store.close()
    assert copies(path) == []
    assert len(words_for_another(path)) == 5


def test_sigkill_while_it_is_made(tmp_path: Path) -> None:
    maker = (
        "import sys, itertools; from pathlib import Path; from reconciler.database import Database\n"
        "print('ready', flush=True)\n"
        "for n in itertools.count():\n"
        "    s = Database(Path(sys.argv[1]) / f'{n}.db', what='x', application=4711, migrations=(sys.argv[2],))\n"
        "    s.read(lambda c: None); s.close()"
    )
    for round_ in range(4):
        where = tmp_path / str(round_)
        with subprocess.Popen(
            [sys.executable, "-c", maker, str(where), FIRST], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        ) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(0.02 + 0.009 * round_)
            process.send_signal(signal.SIGKILL)
        for path in where.glob("[0-9]*.db"):
            assert words_for_another(path) == []
        assert not list(where.glob("*damaged*"))


def test_two_processes_write_at_the_same_time(path: Path) -> None:
    with writer(path), writer(path):
        store = database(path)
        for _ in range(30):
            put(store, "x")
            assert consistent(store)
        store.close()
    assert len(words_for_another(path)) == 30


def test_a_file_is_not_moved_away_under_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other one would, when it closes, remove the fresh database's write-ahead log by its name.
    monkeypatch.setattr("reconciler.database._PATIENCE", 0.2)
    agent = database(path)
    put(agent, "one")
    path.unlink()
    command_line = database(path)
    with pytest.raises(Unavailable, match="has it open") as caught:
        words(command_line)
    assert caught.value.reason == "StoreBusy"
    assert words(agent) == []
    put(agent, "two")
    assert words(command_line) == ["two"]


def test_a_lock_that_is_held_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.database._PATIENCE", 0.2)
    store = database(path)
    put(store, "one")
    rude = sqlite3.connect(path, isolation_level=None)
    rude.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        put(store, "two")
    assert caught.value.reason == "StoreBusy"
    assert words(store) == ["one"]
    rude.execute("ROLLBACK")
    rude.close()
    put(store, "two")
    assert words(store) == ["one", "two"]


# --- disks ------------------------------------------------------------------------------------------------------------


def test_no_file_and_no_room_for_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        disk.fill()
        store = database(disk.path / "store.db")
        assert words(store) == []
        with pytest.raises(Unavailable) as caught:
            put(store, "one")
        assert caught.value.reason == "DiskFull"
        assert store.trouble() is not None
        assert sorted(file.name for file in disk.path.iterdir()) == ["ballast", "store.db.lock"]
        disk.free()
        put(store, "one")
        assert words(store) == ["one"]
        assert store.trouble() is None
        store.close()


def test_a_start_on_a_full_disk_after_a_clean_stop(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        store = database(disk.path / "store.db")
        put(store, "one")
        store.close()
        disk.fill()
        assert words(store) == ["one"]
        with pytest.raises(Unavailable) as caught:
            put(store, "two")
        assert caught.value.reason == "DiskFull"
        assert words(store) == ["one"]
        disk.free()
        put(store, "two")
        assert words(store) == ["one", "two"]
        store.close()


def test_a_start_on_a_full_disk_after_sigkill(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "32m") as disk:
        path = disk.path / "store.db"
        with writer(path) as process:
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        disk.fill()
        store = database(path)
        assert store.read(lambda connection: connection.execute("SELECT count(*) FROM pairs").fetchone()[0]) > 0
        assert consistent(store)
        store.close()


def test_a_full_disk_while_it_is_open(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        store = database(disk.path / "store.db")
        put(store, "one")
        disk.fill()

        def fill_the_rest() -> None:  # what SQLite has reserved is used up first
            for _ in range(1000):
                put(store, "x" * 4000)

        with pytest.raises(Unavailable) as caught:
            fill_the_rest()
        assert caught.value.reason == "DiskFull"
        assert "df -h" in caught.value.remedy
        assert words(store)[0] == "one"
        disk.free()
        put(store, "last")
        assert words(store)[-1] == "last"
        assert store.copies() == []
        store.close()


@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_disk(tmp_path: Path, *, killed: bool) -> None:
    with small_disk(tmp_path / "state", "32m") as disk:
        path = disk.path / "store.db"
        with writer(path) as process:
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        if not killed:
            store = database(path)
            put(store, "one")
            store.close()
        disk.read_only()
        store = database(path)
        assert consistent(store)
        with pytest.raises(Unavailable) as caught:
            put(store, "two")
        assert caught.value.reason == "DiskReadOnly"
        assert store.copies() == []
        disk.writable()
        put(store, "two")
        assert words(store)[-1] == "two"
        store.close()


def test_a_store_of_an_older_version_is_read_on_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "32m") as disk:
        path = disk.path / "store.db"
        older = database(path)
        put(older, "one")
        older.close()
        disk.read_only()
        newer = database(path, FIRST, "CREATE TABLE more (word TEXT)")
        assert words(newer) == ["one"]
        assert newer.read(lambda connection: connection.execute("SELECT * FROM more").fetchall()) == []
        with pytest.raises(Unavailable):
            put(newer, "two")
        newer.close()
        disk.writable()


def test_a_user_who_may_not_read_is_told_so_and_not_that_nothing_is_there(path: Path) -> None:
    store = database(path)
    put(store, "one")
    store.close()
    code = (
        "import os, sys; from pathlib import Path; from reconciler.database import Database\n"
        "from reconciler.errors import Unavailable\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = Database(Path(sys.argv[1]), what='the store', application=4711, migrations=(sys.argv[2],))\n"
        "try: print(s.read(lambda c: 'read'))\n"
        "except Unavailable as error: print(error.reason)\n"
    )
    for parent in (path.parent, path.parent.parent):
        parent.chmod(0o755)
    for mode in (0o755, 0o700):
        path.parent.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), FIRST],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd=Path(__file__).parents[1],
        )
        assert done.stdout == "DiskError\n"
    assert copies(path) == []
