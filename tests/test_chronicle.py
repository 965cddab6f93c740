from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.builders import app, desired
from harness.walk import Walk

from reconciler.chronicle import Chronicle
from reconciler.core import actions as act
from reconciler.core.memory import Rehearsed, Way
from reconciler.core.model import Task
from reconciler.core.status import AppStatus
from reconciler.core.target import Target
from reconciler.errors import Unavailable


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    walk.write()
    walk.cycle.fetch()
    try:
        yield walk
    finally:
        walk.close()


def status(health: str) -> dict[str, AppStatus]:
    return {"shop": AppStatus("shop", "Synced", health, "", "")}  # type: ignore[arg-type]  # one of the words


def test_a_deployment_is_written_once_with_who_what_and_how_long(walk: Walk) -> None:
    now = [100.0]
    chronicle = Chronicle(walk.store, walk.metrics, walk.source, lambda: now[0])
    tip = walk.cycle.tip()
    made = desired(app(), revision=tip.sha)
    chronicle.saw({"shop": Target("shop", made)})
    chronicle.began("shop", made.fingerprint, "image shop:0 -> shop:1")
    now[0] = 107.0
    chronicle.applied(act.RecordApplied("shop", "replicas: 1", made))
    chronicle.applied(act.RecordApplied("shop", "replicas: 1", made))
    (entry,) = walk.store.history("shop", 10)
    assert (entry.event, entry.reason, entry.duration, entry.revision) == (
        "deployed",
        "image shop:0 -> shop:1",
        7.0,
        tip.sha,
    )
    assert walk.store.memory().applied["shop"].fingerprint == made.fingerprint


def test_an_earlier_fingerprint_is_a_rollback(walk: Walk) -> None:
    revision = walk.cycle.tip().sha
    one, two = desired(app(), revision=revision), desired(app(), revision=revision, image="sha256:2")
    for made in (one, two, one):
        walk.chronicle.applied(act.RecordApplied("shop", "why", made))
    assert [entry.event for entry in walk.store.history("shop", 9)] == ["rolled back", "deployed", "deployed"]


def test_a_version_that_failed_before_is_no_rollback_when_it_succeeds(walk: Walk) -> None:
    made = desired(app(), revision=walk.cycle.tip().sha)
    walk.chronicle.failed(act.Quarantine("shop", "", made, "CrashLoop", "x", None), "")
    walk.chronicle.applied(act.RecordApplied("shop", "why", made))
    assert [entry.event for entry in walk.store.history("shop", 9)] == ["deployed", "failed"]


def test_recovery_is_measured_from_the_first_unwell_look(walk: Walk) -> None:
    now = [100.0]
    chronicle = Chronicle(walk.store, walk.metrics, walk.source, lambda: now[0])
    chronicle.watched(status("Degraded"))
    now[0] = 110.0
    chronicle.watched(status("Degraded"))
    now[0] = 130.0
    walk.metrics.update(walk.cycle.status) if walk.cycle.status else walk.cycle.run()
    chronicle.watched(status("Healthy"))
    assert b'reconciler_recovery_seconds_sum{app="shop"} 30.0' in walk.metrics.exposition()[1]


def test_a_revision_that_cannot_be_read_costs_its_author_not_the_entry(walk: Walk) -> None:
    walk.chronicle.applied(act.RecordApplied("shop", "why", desired(app(), revision="0" * 40)))
    (entry,) = walk.store.history("shop", 9)
    assert (entry.event, entry.author) == ("deployed", "")


def test_only_an_image_that_was_not_here_before_becomes_ours(walk: Walk) -> None:
    def pulled(reference: str, image: str, *, fresh: bool) -> None:
        walk.chronicle.pulled(act.PullImage("shop", "why", reference, None, "r"), image, fresh=fresh)

    pulled("docker.io/library/shop", "sha256:theirs", fresh=False)
    assert walk.store.memory().brought == {}
    pulled("docker.io/library/shop", "sha256:ours", fresh=True)
    pulled("shop:stable", "sha256:ours", fresh=False)
    assert walk.store.memory().brought["sha256:ours"].names == {"shop:latest", "shop:stable"}
    walk.chronicle.collected(act.CollectImage("", "why", "sha256:ours", frozenset()))
    assert walk.store.memory().brought == {}


def test_a_pull_that_cannot_be_written_down_has_gone_well_all_the_same(
    walk: Walk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("no room", reason="DiskFull")

    monkeypatch.setattr(walk.store, "record_image", full)
    walk.chronicle.pulled(act.PullImage("shop", "why", "shop:1", None, "r"), "sha256:1", fresh=True)
    assert "shop:1 will stay on this host: no room" in caplog.text


def test_an_applied_version_is_known_with_its_image(walk: Walk) -> None:
    made = desired(app(), revision=walk.cycle.tip().sha)
    walk.chronicle.applied(act.RecordApplied("shop", "why", made))
    (version,) = walk.store.memory().versions["shop"]
    assert (version.fingerprint, version.image) == (made.fingerprint, "sha256:1")


def test_a_rehearsal_is_written_once_and_one_that_failed_is_a_warning(
    walk: Walk, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Rehearsed("f2", "f1", True, "RehearsalPassed", "it became healthy", walk.cycle.tip().sha, 0.0)
    walk.chronicle.rehearsed(act.RecordRehearsal("shop", "", answer, None, None), "")
    no = replace(answer, ready=False, message="it ended", revision="")
    walk.chronicle.rehearsed(act.RecordRehearsal("shop", "", no, None, None), "x\n" + "y" * 999)
    entries = walk.store.history("shop", 9)
    assert [(e.event, e.fingerprint) for e in entries] == [("rehearsed", "f1")] * 2
    assert entries[1].reason == "could go back: it became healthy"
    assert entries[0].reason == f"could not go back: it ended; it said last: {'y' * 300}"
    assert [record.levelname for record in caplog.records if "could not go back" in record.message] == ["WARNING"]
    assert walk.store.memory().rehearsed["shop"].at > 0


def test_a_version_is_remembered_with_what_ran_before_it_and_owes_what_runs_after(walk: Walk) -> None:
    revision = walk.cycle.tip().sha
    both = app(before_deploy=Task(("./manage.py", "migrate")), after_deploy=Task(("warm",)))
    made = desired(both, revision=revision)
    walk.chronicle.applied(act.RecordApplied("shop", "why", made, way=Way("back", "r0", "shop:0")))
    (version,) = walk.store.memory().versions["shop"]
    assert (version.reference, version.before) == ("shop:1", "./manage.py migrate")
    assert walk.store.memory().due["shop"].way == Way("back", "r0", "shop:0")
    walk.chronicle.after_failed(act.AfterDeployFailed("shop", "", made, "AfterDeployFailed", "x", None), "words")
    assert walk.store.history("shop", 1)[0].reason == "AfterDeployFailed: x"
    assert walk.store.memory().due["shop"].task == "warm within 300 s"
    walk.chronicle.applied(act.RecordApplied("shop", "why", made))  # another commit, which changes nothing of it
    assert walk.store.memory().due["shop"].cause == "AfterDeployFailed"
    walk.chronicle.after_done(act.AfterDeployDone("shop", "", made))
    assert walk.store.memory().due == {}


def test_an_adopted_version_owes_nothing(walk: Walk) -> None:
    made = desired(app(after_deploy=Task(("warm",))), revision=walk.cycle.tip().sha)
    walk.chronicle.applied(act.RecordApplied("shop", "why", made, adopted=True))
    assert walk.store.memory().due == {}
