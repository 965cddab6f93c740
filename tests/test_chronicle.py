from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.builders import app, desired
from harness.walk import Walk

from reconciler.chronicle import Chronicle
from reconciler.core import actions as act
from reconciler.core.model import Target
from reconciler.core.status import AppStatus


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
