from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.disks import small_disk

from reconciler.core.memory import Applied, Brought, Due, Memory, Quarantined, Ran, Rehearsed, Suspended, Version, Way
from reconciler.database import Database
from reconciler.errors import Unavailable
from reconciler.protocols import HistoryEntry
from reconciler.world.store import _APPLICATION, _MIGRATIONS, SqliteStore

NO_WAY_BACK = Rehearsed("f2", "f1", False, "RehearsalFailed", "no such column", "r1", 30.0, "last words", "q1")
BAD = Quarantined("f2", "CrashLoop", "exited with 1", "r2", 20.0, "last words")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


@pytest.fixture
def command_line(path: Path) -> Iterator[SqliteStore]:
    """Another process, as far as the store can tell."""
    store = SqliteStore(path)
    yield store
    store.close()


def decisions(store: SqliteStore) -> Memory:
    """What was decided, whenever the store was made."""
    memory = store.memory()
    assert 0 <= time.time() - memory.since < 60
    return replace(memory, since=0.0)


def test_nothing_is_known_at_first(store: SqliteStore, path: Path) -> None:
    assert decisions(store) == Memory()
    assert store.history(None, 10) == ()
    assert store.status() is None
    assert store.faults() == ()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_decisions_are_remembered_by_the_next_process(store: SqliteStore, command_line: SqliteStore) -> None:
    store.record_applied("shop", "r0", "f0", 5.0)
    store.record_applied("shop", "r1", "f1", 10.0)
    store.quarantine("shop", BAD)
    store.record_rehearsal("shop", replace(NO_WAY_BACK, ready=True))
    store.record_rehearsal("shop", NO_WAY_BACK)
    store.suspend("db", "migration", 30.0)
    store.accept("r3")
    store.accept("r3")
    expected = Memory(
        applied={"shop": Applied("r1", "f1", 10.0)},
        quarantined={"shop": BAD},
        rehearsed={"shop": NO_WAY_BACK},
        suspended={"db": Suspended(30.0, "migration")},
        accepted=frozenset({"r3"}),
    )
    assert decisions(store) == expected
    store.close()
    assert decisions(command_line) == expected
    assert decisions(store) == expected


def test_decisions_are_taken_back(store: SqliteStore) -> None:
    store.quarantine("shop", BAD)
    store.record_rehearsal("shop", NO_WAY_BACK)
    store.suspend("shop", "", 1.0)
    store.retry("shop")
    store.resume("shop")
    assert decisions(store) == Memory()
    fine = replace(NO_WAY_BACK, ready=True)
    store.record_rehearsal("shop", fine)
    store.retry("shop")
    assert store.memory().rehearsed == {"shop": fine}
    for nothing in (store.retry, store.resume, store.forget):
        nothing("unknown")


def test_whether_one_could_go_back_is_asked_again_when_a_version_returns(store: SqliteStore) -> None:
    store.record_applied("shop", "r2", "f2", 20.0)
    store.record_rehearsal("shop", NO_WAY_BACK)
    store.record_applied("shop", "r3", "f2", 40.0)
    assert store.memory().rehearsed == {"shop": NO_WAY_BACK}, "it still serves"
    store.record_applied("shop", "r4", "f1", 50.0)
    store.record_applied("shop", "r5", "f2", 60.0)
    assert store.memory().rehearsed == {}


def test_forgetting_an_app_keeps_its_history_and_what_a_person_said(store: SqliteStore) -> None:
    store.record_applied("shop", "r1", "f1", 1.0)
    store.quarantine("shop", BAD)
    store.record_rehearsal("shop", NO_WAY_BACK)
    store.suspend("shop", "holiday", 2.0)
    store.add(HistoryEntry(3.0, "shop", "deployed"))
    store.forget("shop")
    assert decisions(store) == Memory(suspended={"shop": Suspended(2.0, "holiday")})
    assert len(store.history("shop", 10)) == 1


def test_versions_are_told_the_last_one_first_and_bounded(store: SqliteStore, command_line: SqliteStore) -> None:
    for number in range(25):
        store.record_applied("shop", "r", f"f{number}", float(number), f"sha256:{number}")
    store.record_applied("shop", "r", "f10", 1.0, "sha256:10")  # back again, by a clock that was put back
    store.record_applied("db", "r", "f", 2.0)
    versions = command_line.memory().versions
    assert versions.keys() == {"shop"}
    assert [version.fingerprint for version in versions["shop"][:3]] == ["f10", "f24", "f23"]
    assert versions["shop"][0] == Version("f10", "sha256:10", 1.0, "r", 11)
    assert versions["shop"][1].place == 25, "f10 served before it did, for the first time"
    assert len(versions["shop"]) == 20


def test_versions_of_a_quiet_app_outlive_any_number_of_commits(store: SqliteStore, path: Path) -> None:
    for fingerprint in ("f1", "f2"):
        store.record_applied("quiet", "r", fingerprint, 1.0, f"sha256:{fingerprint}")
    store.record_applied("busy", "r", "f", 2.0, "sha256:f")
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE versions SET id = 1000000 WHERE app = 'busy'")  # so often was something applied
    store.record_applied("busy", "r", "f", 3.0, "sha256:f")
    assert [version.fingerprint for version in store.memory().versions["quiet"]] == ["f2", "f1"]


def test_versions_of_an_app_that_is_gone_stay_and_tell_since_when(store: SqliteStore) -> None:
    store.record_applied("shop", "r", "f", 1.0, "sha256:1")
    store.forget("shop")
    (version,) = store.memory().versions["shop"]
    assert abs(version.at - time.time()) < 60


def test_images_that_we_brought_are_known_by_all_their_names(store: SqliteStore, command_line: SqliteStore) -> None:
    store.record_image("sha256:1", "shop:1", 1.0)
    store.record_image("sha256:1", "shop:stable", 2.0)
    store.record_image("sha256:1", "shop:1", 3.0)
    store.record_image("sha256:2", "db:1", 4.0)
    assert command_line.memory().brought == {
        "sha256:1": Brought(frozenset({"shop:1", "shop:stable"}), 1.0),
        "sha256:2": Brought(frozenset({"db:1"}), 4.0),
    }
    command_line.forget_image("sha256:1")
    command_line.forget_image("unknown")
    assert store.memory().brought.keys() == {"sha256:2"}


def test_a_store_of_the_first_version_is_taken_over(path: Path) -> None:
    first = Database(path, what="the store", application=_APPLICATION, migrations=_MIGRATIONS[:1])
    first.write(("INSERT INTO applied VALUES (?, ?, ?, ?)", ("shop", "r1", "f1", 1.0)))
    first.close()
    store = SqliteStore(path)
    try:
        assert decisions(store) == Memory(applied={"shop": Applied("r1", "f1", 1.0)})
        store.record_applied("shop", "r1", "f1", 2.0, "sha256:1")
        assert store.memory().versions == {"shop": (Version("f1", "sha256:1", 2.0, "r1", 1),)}
    finally:
        store.close()


def test_a_new_version_makes_its_after_deploy_due_and_nothing_else_does(
    store: SqliteStore, command_line: SqliteStore
) -> None:
    way = Way("back", "r0", "shop:0")
    ran = Ran("shop:1", "migrate", way)
    store.record_applied("shop", "r1", "f1", 10.0, "sha256:1", ran)
    assert command_line.memory().due == {"shop": Due("f1", way, 10.0)}
    assert store.memory().due["shop"].run == "10.000"
    store.record_applied("shop", "r2", "f1", 20.0, "sha256:1", ran)  # only the revision moves
    assert store.memory().due == {"shop": Due("f1", way, 10.0)}
    store.after_done("shop", "another")
    store.after_done("shop", "f1")
    store.record_applied("shop", "r3", "f1", 30.0, "sha256:1", ran)
    assert command_line.memory().due == {}
    store.record_applied("shop", "r4", "f2", 40.0, "sha256:2", Ran("shop:2", "", Way("forward", "r3", "shop:1")))
    store.record_applied("shop", "r5", "f1", 50.0, "sha256:1")  # overtaken by one that has none
    assert store.memory().due == {}
    store.record_applied("shop", "r6", "f2", 60.0, "sha256:2", Ran("shop:2", "", way))
    assert store.memory().due == {"shop": Due("f2", way, 60.0)}
    store.forget("shop")
    assert store.memory().due == {}


def test_an_after_deploy_that_failed_is_due_again_when_a_person_says_so(store: SqliteStore) -> None:
    store.record_applied("shop", "r1", "f1", 10.0, "sha256:1", Ran(due=Way()))
    store.after_failed("shop", "another", "AfterDeployFailed", "x", "")
    assert store.memory().due["shop"].cause == ""
    store.retry("shop", 15.0)  # it has not failed: it is the same run
    assert store.memory().due["shop"].at == 10.0
    store.after_failed("shop", "f1", "AfterDeployFailed", "ended with 3", "last \udcff words")
    failed = store.memory().due["shop"]
    assert (failed.cause, failed.message, failed.logs) == ("AfterDeployFailed", "ended with 3", "last ? words")
    store.retry("shop", 20.0)
    assert store.memory().due == {"shop": Due("f1", Way(), 20.0)}


def test_an_after_deploy_that_failed_is_due_again_when_a_commit_changes_it(store: SqliteStore) -> None:
    store.record_applied("shop", "r1", "f1", 10.0, "sha256:1", Ran(due=Way(), after="warm"))
    store.record_applied("shop", "r1", "f1", 15.0, "sha256:1", Ran(due=Way(), after="warm"))
    assert store.memory().due["shop"].run == "10.000"
    store.after_failed("shop", "f1", "AfterDeployFailed", "x", "words")
    store.record_applied("shop", "r2", "f1", 20.0, "sha256:1", Ran(due=Way(), after="warm"))
    assert store.memory().due["shop"].cause == "AfterDeployFailed"
    store.record_applied("shop", "r3", "f1", 30.0, "sha256:1", Ran(due=Way("back"), after="warm --all"))
    again = store.memory().due["shop"]
    assert (again.cause, again.logs, again.run, again.way) == ("", "", "30.000", Way())


def test_that_a_person_said_to_go_on_counts_until_a_version_is_applied(store: SqliteStore) -> None:
    store.retry("shop", 5.0)
    assert store.memory().urged == {"shop": 5.0}
    store.record_applied("shop", "r1", "f1", 10.0)
    assert store.memory().urged == {}
    store.retry("shop", 15.0)
    store.record_applied("shop", "r2", "f1", 20.0)  # only the revision moves: a rollout may still be stopped
    assert store.memory().urged == {"shop": 15.0}
    store.forget("shop")
    assert store.memory().urged == {}


def test_what_ran_before_a_version_is_remembered_as_it_was(store: SqliteStore) -> None:
    store.record_applied("shop", "r1", "f1", 1.0, "sha256:1", Ran("shop:1", ""))
    store.record_applied(
        "shop", "r2", "f1", 2.0, "sha256:1", Ran("shop:one", "migrate")
    )  # a commit gave it one: none ran
    (version,) = store.memory().versions["shop"]
    assert (version.reference, version.before) == ("shop:one", "")
    store.record_applied("shop", "r3", "f2", 3.0, "sha256:2", Ran("shop:2", "migrate"))
    store.record_applied("shop", "r4", "f1", 4.0, "sha256:1", Ran("shop:1", "migrate --back"))
    assert [v.before for v in store.memory().versions["shop"]] == ["migrate --back", "migrate"]


def test_what_an_older_agent_did_not_write_down_is_taken_from_the_manifest(store: SqliteStore) -> None:
    store.record_applied("shop", "r1", "f1", 1.0, "sha256:1")  # as it did: without the reference
    store.record_applied("shop", "r2", "f1", 2.0, "sha256:1", Ran("shop:1", "migrate"))  # another app's commit
    assert [(v.reference, v.before) for v in store.memory().versions["shop"]] == [("shop:1", "migrate")]


def test_memory_is_the_same_object_until_somebody_writes(store: SqliteStore, command_line: SqliteStore) -> None:
    store.suspend("a", "", 1.0)
    first = store.memory()
    assert store.memory() is first
    store.retry("other")
    assert store.memory() == first

    command_line.suspend("b", "", 2.0)
    assert set(store.memory().suspended) == {"a", "b"}
    store.resume("a")
    assert set(command_line.memory().suspended) == {"b"}


def test_asking_again_is_cheap(store: SqliteStore) -> None:
    store.memory()
    begin = time.process_time()
    for _ in range(1000):
        store.memory()
    assert time.process_time() - begin < 0.5, "some 10 us each"


def test_history(store: SqliteStore) -> None:
    full = HistoryEntry(50.0, "shop", "deployed", "r1", "f1", "shop:1", "Ann", "Say hello", "image changed", 1.5)
    back = HistoryEntry(10.0, "shop", "failed")  # the clock was put back
    host = HistoryEntry(60.0, "", "refused", reason="HistoryRewritten")
    for entry in (full, back, host):
        store.add(entry)
    assert store.history("shop", 10) == (back, full)
    assert store.history(None, 10) == (host, back, full)
    assert store.history(None, 1) == (host,)
    assert store.history("", 10) == (host,)
    assert store.history("unknown", 10) == ()


def test_history_is_bounded_for_each_app(store: SqliteStore) -> None:
    store.add(HistoryEntry(0.0, "quiet", "deployed"))
    for number in range(230):
        store.add(HistoryEntry(float(number), "noisy", "repaired"))
    kept = store.history("noisy", 1000)
    assert len(kept) == 200
    assert kept[0].at == 229.0
    assert len(store.history("quiet", 10)) == 1


def test_repairs_push_no_version_out_of_the_history(store: SqliteStore) -> None:
    store.add(HistoryEntry(0.0, "shop", "deployed"))
    for number in range(230):
        store.add(HistoryEntry(float(number), "shop", "restarted"))
    assert [entry.event for entry in store.history("shop", 1000)].count("deployed") == 1


def test_history_is_bounded_in_all(store: SqliteStore) -> None:
    for number in range(10_050):
        store.add(HistoryEntry(float(number), f"app{number % 70}", "repaired"))
    kept = store.history(None, 100_000)
    assert len(kept) == 10_000
    assert kept[0].at == 10_049.0


def test_accepted_revisions_are_bounded(store: SqliteStore) -> None:
    for number in range(130):
        store.accept(f"r{number}")
    assert store.memory().accepted == {f"r{number}" for number in range(30, 130)}


def test_the_last_status(store: SqliteStore, command_line: SqliteStore) -> None:
    store.save_status('{"a": 1}', 1.5)
    store.save_status('{"a": 2}', 2.5)
    assert command_line.status() == ('{"a": 2}', 2.5)


def test_any_text_is_taken(store: SqliteStore) -> None:
    odd = "Ann \udce4 'quoted' \x00 ; DROP TABLE history; --"
    store.add(HistoryEntry(1.0, "shop", "deployed", author=odd, subject=odd))
    assert store.history("shop", 1)[0].author == odd.replace("\udce4", "?")
    store.quarantine("shop", Quarantined("f", "R", odd, "r", 1.0, logs=odd + "x" * 100_000))
    assert len(store.memory().quarantined["shop"].logs) == 64 * 1024
    store.suspend("shop", odd, 1.0)


def test_a_full_disk_takes_writes_and_leaves_reads(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        store = SqliteStore(disk.path / "store.db")
        store.suspend("shop", "why", 1.0)
        disk.fill()

        def fill_the_rest() -> None:  # what SQLite has reserved is used up first
            for number in range(1000):
                store.quarantine(f"app{number}", BAD)

        with pytest.raises(Unavailable) as caught:
            fill_the_rest()
        assert caught.value.reason == "DiskFull"
        assert str(disk.path) in str(caught.value)
        assert store.memory().suspended == {"shop": Suspended(1.0, "why")}
        assert store.history(None, 10) == ()
        assert [reason for reason, _ in store.faults()] == ["DiskFull"]
        command_line = SqliteStore(disk.path / "store.db")
        assert command_line.memory().suspended == {"shop": Suspended(1.0, "why")}
        command_line.close()
        disk.free()
        store.resume("shop")
        assert store.memory().suspended == {}
        assert store.faults() == ()
        store.close()


def test_damage_costs_the_history_and_is_told(store: SqliteStore, command_line: SqliteStore, path: Path) -> None:
    store.suspend("shop", "why", 1.0)
    store.close()
    path.write_bytes(b"garbage" * 1000)
    assert decisions(store) == Memory()
    store.suspend("db", "", 1.0)
    ((reason, message),) = store.faults()
    assert reason == "StoreDamaged"
    (copy,) = path.parent.glob("store.db.damaged-*")
    assert str(copy) in message
    assert copy.read_bytes() == b"garbage" * 1000
    assert command_line.faults() == ((reason, message),), "another process tells it too"
    copy.unlink()
    assert store.faults() == ()
