from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from harness.whys import BAD, DEPLOYED, FAILED, GOOD, NOW, QUARANTINED, because, cases, host, moving, shop, stalled

from reconciler.cli.why import Recollection, explain, recollect
from reconciler.cli.wiring import Host
from reconciler.core.memory import Rehearsed
from reconciler.core.status import Condition
from reconciler.errors import InvalidInput
from reconciler.settings import Repository, Settings

CASES = cases()


def test_one_that_is_fine_names_the_commit_that_made_it_so_and_no_later_one() -> None:
    told = CASES["fine"]
    assert told.fine
    assert told.commit is not None
    assert (told.commit.author, told.commit.revision, told.since) == ("Ada", GOOD, DEPLOYED.at)
    assert (told.advice, told.blocked_by, told.checked) == ((), "", {})


def test_without_a_store_the_tip_is_known_where_it_is_what_runs() -> None:
    told = because(shop(), Recollection())
    assert told.commit is not None
    assert (told.commit.revision, told.commit.author) == (GOOD, "")
    tip = host().commit
    assert tip is not None
    told = because(shop(), Recollection(), commit=replace(tip, sha=GOOD))
    assert told.commit is not None
    assert told.commit.author == "Bob"


def test_one_that_was_given_up_names_the_commit_the_proof_and_the_ways_out() -> None:
    told = CASES["given-up"]
    assert told.stand == "held up"
    assert told.commit is not None
    assert (told.commit.author, told.commit.revision) == ("Bob", BAD)
    assert told.checked == {
        "manifest": "fine",
        "host policy": "fine",
        "secrets": "fine",
        "image": "fine",
        "start": "failed",
    }
    assert "last exit code 1" in told.blocked_by
    assert len(told.last_words) == 50
    assert told.serves is not None
    assert told.serves.author == "Ada"
    assert any("reconciler rollback shop" in each for each in told.advice)
    assert any("reconciler retry shop" in each for each in told.advice)


def test_one_that_failed_again_at_a_later_commit_is_still_the_version_of_the_first() -> None:
    again = replace(FAILED, revision="9c0d1e2f" * 5, author="Cy", at=NOW - 90)
    known = Recollection((again, FAILED, DEPLOYED), replace(QUARANTINED, revision=again.revision))
    told = because(stalled("CrashLoop", "words"), known)
    assert told.commit is not None
    assert (told.commit.author, told.commit.revision) == ("Bob", BAD)


def test_one_that_was_refused_names_the_commit_that_was() -> None:
    refused = replace(FAILED, event="refused", author="Cy", reason="InvalidManifest: wrong")
    told = because(stalled("InvalidManifest", "wrong"), Recollection((refused, DEPLOYED)))
    assert told.commit is not None
    assert told.commit.author == "Cy"


def test_what_was_given_up_once_is_no_reason_now() -> None:
    told = because(shop(), Recollection((FAILED, DEPLOYED), QUARANTINED))
    assert told.quarantine is None
    told = because(stalled("InvalidManifest", "apps/shop/app.yaml:1:1: wrong"), Recollection((FAILED,), QUARANTINED))
    assert told.quarantine is None
    assert told.last_words == ()


@pytest.mark.parametrize(
    ("reason", "stage", "fine"),
    [
        ("InvalidManifest", "manifest", 0),
        ("PolicyViolation", "host policy", 1),
        ("DecryptNoKey", "secrets", 2),
        ("SecretsUnreadable", "secrets", 2),
        ("RegistryDenied", "image", 3),
        ("BeforeDeployFailed", "before_deploy", 4),
        ("MigrationBrokeRunning", "before_deploy", 4),
        ("DeadlineExceeded", "health", 4),
    ],
)
def test_nothing_is_said_to_be_fine_that_comes_after_what_failed(reason: str, stage: str, fine: int) -> None:
    checked = because(stalled(reason, "words")).checked
    assert checked[stage] == "failed"
    assert list(checked.values()).count("fine") == fine == len(checked) - 1


def test_of_a_reason_that_is_new_nothing_is_claimed() -> None:
    told = because(stalled("SomethingNew", "words"))
    assert (told.checked, told.blocked_by) == ({}, "words")
    assert told.advice


def test_each_way_to_stand() -> None:
    stands = {name: told.stand for name, told in CASES.items()}
    assert stands == {
        "fine": "fine",
        "no-way-back": "fine",
        "given-up": "held up",
        "first-ever": "held up",
        "manifest": "held up",
        "image": "held up",
        "migration-broke": "held up",
        "after-deploy": "held up",
        "dependency": "on its way",
        "on-its-way": "on its way",
        "suspended": "suspended",
        "sick": "not well",
        "stale": "held up",
        "gone": "gone",
    }
    assert CASES["first-ever"].serves is None
    assert CASES["image"].next_retry == NOW + 34
    assert "reconciler why db" in CASES["dependency"].advice[0]
    assert because(moving("Pulling", "pulling shop:2")).checked["image"] == "under way"


def test_a_stranger_is_told_whom_there_is() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'shop'") as error:
        explain("shopp", host(shop()), "", Recollection())
    assert error.value.reason == "UnknownApp"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    settings = Settings("web-1", Repository(str(tmp_path)), state=tmp_path / "state")
    assert "cannot be read" in recollect(Host(settings), "shop").trouble
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "state/store.db")) as newer:
        newer.executescript("PRAGMA application_id = 0x7265636F; PRAGMA user_version = 99; CREATE TABLE t (a)")
    assert "without history" in recollect(Host(settings), "shop").trouble


def test_the_last_words_of_a_rehearsal_belong_to_an_answer_that_is_no() -> None:
    no = Rehearsed("f2", "f1", False, "RehearsalFailed", "no", BAD, 1.0, "one\ntwo\n")
    known = Recollection((DEPLOYED,), rehearsed=no)
    said = Condition("RollbackReady", False, "RehearsalFailed", "no", 1.0)
    assert because(shop(conditions=(said,)), known).rehearsal_words == ("one", "two")
    assert because(shop(conditions=(replace(said, status=True),)), known).rehearsal_words == ()
    assert because(shop(), known).rehearsal_words == ()
