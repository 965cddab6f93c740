from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from harness.walk import Walk

from reconciler.core.observed import Container
from reconciler.errors import Failed, Refused, Unavailable


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path)
    try:
        yield walk
    finally:
        walk.close()


def tasks(walk: Walk, role: str) -> list[Container]:
    """Containers of this role, in whatever state."""
    return [c for c in walk.engine.observe().containers if c.claim and c.claim.role == role]


def test_nothing_can_be_said_before_the_repository_was_read(walk: Walk) -> None:
    walk.cycle.run()
    assert walk.cycle.status is not None
    assert walk.cycle.status.result == "failed"
    assert walk.cycle.status.faults[0][0] == "NotFetched"


def test_a_life_deploy_upgrade_back_and_remove(walk: Walk) -> None:
    walk.write("other")
    walk.write("third")
    walk.write(replicas=2)
    walk.converge()
    first = walk.running()
    assert len(first) == 2
    walk.write(replicas=2, image="shop:2")
    walk.converge()
    assert set(walk.running()).isdisjoint(first)
    walk.write(replicas=2, image="shop:1")
    walk.converge()
    assert walk.running() == first
    walk.remove("shop")
    walk.converge()
    assert walk.running() == []
    events = [entry.event for entry in walk.store.history("shop", 10)]
    assert events == ["pruned", "rolled back", "deployed", "deployed"]


def test_drift_is_repaired_counted_and_written_down(walk: Walk) -> None:
    walk.write()
    walk.converge()
    walk.engine.vanish(walk.engine.named(walk.running()[0]).id)
    walk.until(lambda: len(walk.running()) == 1)
    walk.converge()
    assert walk.store.history("shop", 1)[0].event == "repaired"
    assert b'reconciler_drift_repairs_total{app="shop"} 1.0' in walk.metrics.exposition()[1]


def test_a_broken_manifest_keeps_its_app_and_holds_up_no_other(walk: Walk) -> None:
    walk.write()
    walk.write("other")
    walk.converge()
    before = walk.running()
    (walk.repository / "apps/shop/app.yaml").write_text("kind: App\nimage: shop:1\nreplicass: 2\n")
    walk.write("other", image="other:2")
    walk.until(lambda: walk.app("other").sync == "Synced" and walk.app("other").image == "other:2")
    assert walk.running() == before
    status = walk.app()
    assert (status.sync, status.reason, status.health) == ("OutOfSync", "InvalidManifest", "Healthy")
    assert "apps/shop/app.yaml:3:1" in status.message
    # Drift of an app whose manifest is broken is repaired from its last good version.
    walk.engine.vanish(walk.engine.named(before[0]).id)
    walk.until(lambda: walk.running() == before)


def test_a_version_that_crashes_is_given_up_and_tried_again_only_on_request(walk: Walk) -> None:
    walk.write()
    walk.converge()
    old = walk.running()
    walk.write(image="shop:2")
    walk.until(lambda: len(walk.running()) == 2)
    new = next(name for name in walk.running() if name not in old)
    container = walk.engine.named(new).id
    walk.engine.set_logs(container, "no database\n")
    walk.engine.crash(container, times=3)
    walk.engine.stay_restarting(container)
    walk.until(lambda: "reconciler retry shop" in walk.app().message and walk.running() == old)
    assert walk.app().reason == "CrashLoop"
    quarantined = walk.store.memory().quarantined["shop"]
    assert "no database" in quarantined.logs
    walk.store.retry("shop")
    walk.until(lambda: len(walk.running()) == 2)


def test_an_after_deploy_that_fails_is_told_and_runs_once_more_on_request(walk: Walk) -> None:
    walk.write(after_deploy={"command": ["warm"]})
    walk.until(lambda: tasks(walk, "after"))
    assert (walk.app().sync, walk.app().reason) == ("OutOfSync", "AfterDeploy")
    (task,) = tasks(walk, "after")
    walk.engine.set_logs(task.id, "no such cache\n")
    walk.engine.crash(task.id, 3)
    walk.until(lambda: walk.app().reason == "AfterDeployFailed" and not tasks(walk, "after"))
    assert (walk.app().health, walk.app().last_words, len(walk.running())) == ("Healthy", "no such cache", 1)
    assert walk.cycle.status is not None
    assert walk.cycle.status.result == "blocked"
    assert [entry.event for entry in walk.store.history("shop", 9)] == ["after_deploy failed", "deployed"]
    walk.store.retry("shop", time.time())
    walk.until(lambda: tasks(walk, "after"))
    walk.engine.crash(tasks(walk, "after")[0].id, 0)
    walk.converge()
    assert walk.store.memory().due == {}
    assert tasks(walk, "after") == []


def test_an_after_deploy_that_the_engine_will_not_run_has_failed(walk: Walk) -> None:
    walk.write()
    walk.converge()
    walk.write(image="shop:2", after_deploy={"command": ["warm"]})
    walk.until(lambda: len(walk.running()) == 2)
    walk.engine.fail["create"] = Failed("no such user", reason="ContainerRejected")
    walk.until(lambda: walk.app().reason == "AfterDeployFailed")
    assert "no such user" in walk.app().message
    assert "shop" not in walk.store.memory().quarantined
    del walk.engine.fail["create"]
    walk.store.retry("shop", time.time())
    walk.until(lambda: tasks(walk, "after"))


def test_a_migration_that_makes_the_old_version_sick_stops_the_rollout_till_that_is_well(walk: Walk) -> None:
    walk.write(health={"command": ["check"]})
    walk.converge()
    (old,) = walk.running()
    walk.write(health={"command": ["check"]}, image="shop:2", before_deploy={"command": ["migrate"]})
    walk.until(lambda: tasks(walk, "task"))
    walk.engine.set_health(walk.engine.named(old).id, "unhealthy")
    walk.until(lambda: walk.app().reason == "MigrationBrokeRunning")
    walk.engine.crash(tasks(walk, "task")[0].id, 0)
    for _ in range(3):
        walk.until(lambda: True)
    assert walk.app().reason == "MigrationBrokeRunning"
    assert walk.running() == [old]
    assert "shop" not in walk.store.memory().quarantined
    walk.engine.set_health(walk.engine.named(old).id, "healthy")
    walk.converge()
    assert old not in walk.running()


def test_an_image_that_cannot_be_had_waits_and_leaves_the_old_version(walk: Walk) -> None:
    walk.write()
    walk.converge()
    old = walk.running()
    walk.write(image="missing.example.com/shop:9")
    walk.until(lambda: walk.app().next_retry is not None)
    assert walk.running() == old
    assert walk.app().sync == "OutOfSync"
    assert "missing.example.com/shop:9" in walk.app().message


def test_an_engine_that_is_away_is_said_and_nothing_is_forgotten(walk: Walk) -> None:
    walk.write()
    walk.converge()
    walk.engine.down = True
    walk.cycle.run()
    status = walk.cycle.status
    assert status is not None
    assert (status.result, status.faults[0][0]) == ("failed", "DockerUnavailable")
    assert status.apps["shop"].sync == "Unknown"
    walk.engine.down = False
    walk.converge()


def test_a_remote_that_is_away_is_said_and_the_last_revision_goes_on(walk: Walk) -> None:
    walk.write()
    walk.converge()
    moved = walk.repository.rename(walk.repository.with_name("away"))
    assert not walk.cycle.fetch()
    walk.engine.vanish(walk.engine.named(walk.running()[0]).id)
    walk.cycle.run()
    assert walk.cycle.status is not None
    assert walk.cycle.status.faults[0][0] == "WorktreeMissing"
    moved.rename(walk.repository)
    walk.converge()


def test_a_host_that_fleet_yaml_does_not_know_changes_nothing(walk: Walk) -> None:
    walk.write()
    walk.converge()
    (walk.repository / "fleet.yaml").write_text("kind: Fleet\nhosts:\n  db-1: {}\n")
    walk.cycle.fetch()
    walk.cycle.run()
    assert walk.cycle.status is not None
    assert walk.cycle.status.faults[0][0] == "HostUnknown"
    assert len(walk.running()) == 1


def test_a_broken_fleet_file_changes_nothing_either(walk: Walk) -> None:
    walk.write()
    walk.write("other")
    walk.converge()
    (walk.repository / "fleet.yaml").write_text("kind: Fleet\nhosts: 3\n")
    walk.write(image="shop:2")
    walk.remove("other")
    walk.until(lambda: walk.app().reason == "InvalidFleet")
    assert "fleet.yaml:2:" in walk.app().message
    assert len(walk.running("other")) == 1


def test_policy_of_the_host_wins_over_the_repository(tmp_path: Path) -> None:
    from reconciler.core.policy import Policy  # noqa: PLC0415

    walk = Walk(tmp_path, policy=Policy(registries=("registry.example.com",)))
    try:
        walk.write()
        walk.until(lambda: walk.app().reason == "PolicyViolation")
        assert "policy.registries" in walk.app().message
        assert walk.running() == []
    finally:
        walk.close()


def test_an_action_that_fails_is_tried_again_later_and_later(walk: Walk) -> None:
    walk.engine.fail["create"] = Unavailable("the daemon is tired", reason="DockerUnavailable")
    walk.write()
    walk.until(lambda: walk.app().next_retry is not None)
    assert "the daemon is tired" in walk.app().message
    del walk.engine.fail["create"]
    walk.converge()


def test_conditions_remember_when_they_changed(walk: Walk) -> None:
    walk.write()
    walk.converge()
    since = {condition.type: condition.since for condition in walk.app().conditions}
    walk.cycle.run()
    assert {condition.type: condition.since for condition in walk.app().conditions} == since
    kept = walk.store.status()
    assert kept is not None
    assert '"converged"' in kept[0]


def test_a_chain_of_a_thousand_dependencies_stops_nobody(walk: Walk) -> None:
    for number in range(1200):
        folder = walk.repository / "apps" / f"a{number}"
        folder.mkdir(parents=True)
        needs = f"depends_on: [a{number - 1}]\n" if number else ""
        (folder / "app.yaml").write_text(f"kind: App\nimage: missing/x:1\n{needs}")
    walk.cycle.fetch()
    walk.cycle.run()
    assert walk.cycle.status is not None
    assert walk.cycle.status.result == "progressing"
    assert len(walk.cycle.status.apps) == 1200


def test_an_error_that_nobody_foresaw_is_told_and_does_not_end_the_walk(walk: Walk) -> None:
    walk.write()
    walk.converge()
    healthy = walk.engine.observe

    def burst() -> NoReturn:
        raise ZeroDivisionError("secret detail")

    walk.engine.observe = burst  # type: ignore[method-assign]
    walk.cycle.run()
    assert walk.cycle.status is not None
    assert walk.cycle.status.faults[0][0] == "InternalError"
    assert "secret detail" not in walk.cycle.status.faults[0][1]
    walk.engine.observe = healthy  # type: ignore[method-assign]
    walk.converge()


def test_a_lost_store_is_told_by_the_history_and_changes_nothing(walk: Walk, tmp_path: Path) -> None:
    walk.write()
    walk.converge()
    running = walk.running()
    walk.store.close()
    for file in (tmp_path / "state").glob("store.db*"):
        file.unlink()
    time.sleep(0.01)
    walk.converge()
    (entry,) = walk.store.history("shop", 10)
    assert entry.event == "adopted"
    assert "ran before this store was made" in entry.reason
    assert walk.running() == running


def test_a_damaged_store_is_told_but_holds_up_nothing(walk: Walk, tmp_path: Path) -> None:
    walk.write()
    walk.converge()
    walk.store.close()
    (tmp_path / "state" / "store.db").write_bytes(b"no database" * 1000)
    walk.converge()
    assert walk.cycle.status is not None
    assert [reason for reason, _ in walk.cycle.status.faults] == ["StoreDamaged"]


def test_a_suspended_app_stays_when_its_manifest_goes(walk: Walk) -> None:
    for name in ("shop", "other"):
        walk.write(name)
    walk.converge()
    running = walk.running()
    walk.store.suspend("shop", "Ada looks at it", 1.0)
    walk.remove("shop")
    walk.until(lambda: walk.app().reason == "Suspended")
    assert "no longer names it" in walk.app().message
    assert "reconciler resume shop" in walk.app().message
    assert walk.running() == running
    walk.store.resume("shop")
    walk.converge()
    assert walk.running() == []


def test_a_refusal_says_whose_commit_it_was(walk: Walk) -> None:
    walk.write()
    walk.converge()
    walk.write(replicas="many")
    walk.until(lambda: walk.app().reason == "InvalidManifest")
    entry = walk.store.history("shop", 1)[0]
    assert entry.event == "refused"
    assert entry.author


def test_a_first_deployment_is_told_as_one(walk: Walk) -> None:
    walk.write()
    walk.converge()
    assert [entry.event for entry in walk.store.history("shop", 10)] == ["deployed"]
    assert b'reconciler_deployments_total{app="shop",result="success"} 1.0' in walk.metrics.exposition()[1]


def test_what_cannot_be_cleared_away_is_tried_again_later_and_later(walk: Walk) -> None:
    walk.write()
    walk.converge()
    walk.engine.fail["remove"] = Unavailable("device or resource busy", reason="DockerError")
    walk.write(image="shop:2")
    walk.until(lambda: walk.app().reason == "DockerError")
    status = walk.app()
    assert "device or resource busy" in status.message
    assert status.next_retry is not None
    assert len(walk.running()) == 1
    walk.engine.fail.clear()
    walk.converge()


def test_a_container_that_is_removed_again_and_again_is_put_back_later_and_later(walk: Walk) -> None:
    walk.write()
    walk.converge()
    for _ in range(5):
        walk.engine.vanish(walk.engine.named(walk.running()[0]).id)
        walk.until(lambda: len(walk.running()) == 1)
        walk.converge()
    walk.engine.vanish(walk.engine.named(walk.running()[0]).id)
    walk.until(lambda: walk.app().reason == "RepeatedDrift")
    assert "was repaired 5 times; the next repair waits" in walk.app().message
    walk.converge()


# --- images -----------------------------------------------------------------------------------------------------------


SOON = {"min_healthy_time": "50ms"}


def image(number: int) -> str:
    return f"missing.example.com/shop:{number}"  # pulled by the agent, which is what this is about


def upgraded(walk: Walk, *numbers: int) -> dict[int, str]:
    """Deploy one version after another; their images' ids."""
    ids = {}
    for number in numbers:
        ids[number] = walk.engine.publish(image(number))
        walk.write(health=SOON, image=image(number))
        walk.converge()
    return ids


def test_the_images_of_the_last_five_versions_stay_so_that_a_revert_needs_no_pull(walk: Walk) -> None:
    theirs = walk.engine.add_image("somebody:1")
    ids = upgraded(walk, *range(1, 8))
    assert walk.engine.images() == {theirs, *(ids[number] for number in range(3, 8))}
    assert walk.store.memory().brought.keys() == {ids[number] for number in range(3, 8)}
    walk.engine.set_registry_down(image(3))
    pulls = walk.engine.calls["pull"]
    walk.write(health=SOON, image=image(3))
    walk.converge()
    assert walk.engine.calls["pull"] == pulls
    assert walk.store.history("shop", 1)[0].event == "rolled back"
    assert [version.image for version in walk.store.memory().versions["shop"][:2]] == [ids[3], ids[7]]


def test_a_quiet_walk_asks_for_no_image_and_an_image_that_somebody_uses_stays_for_good(walk: Walk) -> None:
    refused = Refused("the image stays: a container was made of it", reason="ImageInUse")
    walk.engine.fail["collect_image"] = refused  # somebody was faster than we
    ids = upgraded(walk, *range(1, 7))
    del walk.engine.fail["collect_image"]
    assert ids[1] in walk.engine.images()
    calls = walk.engine.calls.copy()
    for _ in range(3):
        assert walk.cycle.run().converged
    assert (walk.engine.calls - calls) == {"observe": 3}
    assert walk.cycle.status is not None
    assert walk.cycle.status.faults == ()
    upgraded(walk, 7)
    assert ids[2] not in walk.engine.images()
    assert ids[1] in walk.engine.images()


def test_an_image_that_cannot_be_removed_is_told_and_tried_again_and_is_no_fault_of_an_app(walk: Walk) -> None:
    walk.engine.fail["collect_image"] = Unavailable("the disk is tired", reason="DockerError")
    ids = upgraded(walk, *range(1, 7))
    status = walk.cycle.status
    assert status is not None
    assert (status.result, status.faults) == ("converged", (("ImageNotRemoved", "the disk is tired"),))
    assert (walk.app().sync, walk.app().health) == ("Synced", "Healthy")
    del walk.engine.fail["collect_image"]
    walk.until(lambda: ids[1] not in walk.engine.images())
    walk.converge()
    assert walk.cycle.status is not None
    assert walk.cycle.status.faults == ()


def test_a_version_that_failed_keeps_its_image_while_the_repository_asks_for_it(walk: Walk) -> None:
    upgraded(walk, 1)
    failed = walk.engine.publish(image(2))
    walk.write(health=SOON, image=image(2))
    walk.until(lambda: len(walk.running()) == 2)
    new = walk.engine.named(next(c.name for c in walk.engine.observe().containers if c.image == failed)).id
    walk.engine.crash(new, times=3)
    walk.engine.stay_restarting(new)
    walk.until(lambda: "reconciler retry shop" in walk.app().message and len(walk.running()) == 1)
    pulls = walk.engine.calls["pull"]
    for _ in range(3):
        walk.cycle.run()
    assert failed in walk.engine.images()
    assert walk.engine.calls["pull"] == pulls
    walk.write(health=SOON, image=image(1))
    walk.until(lambda: failed not in walk.engine.images())


def test_who_lost_the_store_keeps_old_images(walk: Walk, tmp_path: Path) -> None:
    ids = upgraded(walk, *range(1, 6))
    walk.store.close()
    for file in (tmp_path / "state").glob("store.db*"):
        file.unlink()
    ids |= upgraded(walk, 6, 7)
    assert walk.engine.images() == set(ids.values())


def test_an_image_that_was_here_before_stays_though_we_pulled_it_again(walk: Walk) -> None:
    theirs = walk.engine.publish(image(1))
    walk.engine.tag(theirs, image(1))
    walk.write(health=SOON, image=image(1), pull_policy="always")
    walk.converge()
    assert walk.engine.calls["pull"] == 1
    upgraded(walk, *range(2, 9))
    assert theirs in walk.engine.images()


def test_reverting_the_removal_of_an_app_needs_no_pull(walk: Walk) -> None:
    walk.write("other")
    walk.write("third")
    upgraded(walk, 1)
    walk.remove("shop")
    walk.converge()
    assert walk.running() == []
    walk.engine.set_registry_down(image(1))
    walk.write(health=SOON, image=image(1))
    walk.converge()
    assert len(walk.running()) == 1


def test_a_rehearsal_is_over_when_its_answer_is_known_and_asked_again_when_a_person_says_so(walk: Walk) -> None:
    walk.write(rehearse_rollback=True)
    walk.converge()
    walk.write(rehearse_rollback=True, image="shop:2", health={"min_healthy_time": "0.3s", "deadline": "60s"})
    walk.until(lambda: any(name.startswith("shop.rehearsal.") for name in walk.running()))
    assert walk.cycle.status is not None
    assert walk.cycle.status.result == "converged", "nobody waits for it"
    counted: list[Mapping[str, Sequence[int]]] = []
    walk.metrics.set_containers = counted.append  # type: ignore[method-assign,assignment]
    walk.cycle.run()
    assert [len(each["shop"]) for each in counted] == [1], "its memory is not the app's"
    tried = next(c for c in walk.engine.observe().containers if c.name.startswith("shop.rehearsal."))
    walk.engine.crash(tried.id, 3)
    walk.until(lambda: bool(walk.store.memory().rehearsed) and len(walk.engine.observe().containers) == 1)
    ready = next(c for c in walk.app().conditions if c.type == "RollbackReady")
    assert (ready.status, ready.since) == (False, walk.store.memory().rehearsed["shop"].at)
    assert "ended with exit code 3" in ready.message
    walk.store.retry("shop")
    walk.until(lambda: bool(walk.store.memory().rehearsed))
    assert walk.store.memory().rehearsed["shop"].ready
    assert [entry.event for entry in walk.store.history("shop", 3)] == ["rehearsed", "rehearsed", "deployed"]


def test_a_rehearsal_whose_image_is_gone_is_tried_three_times(walk: Walk) -> None:
    walk.write(rehearse_rollback=True)
    walk.converge()
    first = walk.store.memory().versions["shop"][0]
    walk.store.record_applied("shop", first.revision, first.fingerprint, first.at, "sha256:gone")
    walk.write(rehearse_rollback=True, image="shop:2")
    walk.until(lambda: bool(walk.store.memory().rehearsed))
    said = walk.store.memory().rehearsed["shop"]
    assert (said.ready, said.reason) == (False, "RehearsalImpossible")
    assert "the image of shop.rehearsal." in said.message
    assert walk.app().sync == "Synced"
    walk.converge()
    walk.engine.tag("sha256:gone", "shop:0")  # a person brings it back
    walk.store.retry("shop")
    walk.until(lambda: bool(walk.store.memory().rehearsed) and len(walk.engine.observe().containers) == 1)
    assert walk.store.memory().rehearsed["shop"].ready


def test_the_replica_of_a_removed_app_that_cannot_go_is_tried_later_and_later(walk: Walk) -> None:
    walk.write("other")
    walk.write(rehearse_rollback=True)
    walk.converge()
    walk.write(rehearse_rollback=True, image="shop:2")
    walk.until(lambda: any(name.startswith("shop.rehearsal.") for name in walk.running()))
    for name in walk.running():
        if not name.startswith("shop.rehearsal."):
            walk.engine.vanish(walk.engine.named(name).id)
    walk.engine.fail["remove"] = Unavailable("device or resource busy", reason="DockerError")
    walk.remove("shop")
    walk.until(lambda: "shop" not in walk.store.memory().applied)
    before, began = walk.engine.calls["remove"], time.monotonic()
    while time.monotonic() < began + 0.8:
        walk.cycle.run()
        time.sleep(0.01)
    assert walk.engine.calls["remove"] - before <= 2, "it is tried at every look"
    assert [entry.event for entry in walk.store.history("shop", 9)].count("pruned") == 1
    del walk.engine.fail["remove"]
    walk.until(lambda: len(walk.engine.observe().containers) == 1)


def test_a_reboot_in_the_middle_of_a_rehearsal_is_no_answer(walk: Walk) -> None:
    walk.write(rehearse_rollback=True)
    walk.converge()
    walk.write(rehearse_rollback=True, image="shop:2", health={"min_healthy_time": "0.3s", "deadline": "60s"})
    walk.until(lambda: any(name.startswith("shop.rehearsal.") for name in walk.running()))
    for container in walk.engine.observe().containers:  # as where its secrets are not there yet
        walk.engine.stop_by_hand(container.id)
    walk.until(lambda: bool(walk.store.memory().rehearsed))
    assert walk.store.memory().rehearsed["shop"].ready


def test_a_rehearsal_that_shows_nothing_is_tried_three_times(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.core.backoff.FIRST", 0.05)
    walk.write(rehearse_rollback=True)
    walk.converge()
    walk.write(rehearse_rollback=True, image="shop:2")
    paused = set()

    def answered() -> bool:
        for container in walk.engine.observe().containers:
            if container.name.startswith("shop.rehearsal.") and container.state == "running":
                walk.engine.pause(container.id)
                paused.add(container.id)
        return bool(walk.store.memory().rehearsed)

    walk.until(answered)
    said = walk.store.memory().rehearsed["shop"]
    assert (len(paused), said.reason) == (3, "RehearsalImpossible")
    assert "somebody has paused it" in said.message
    assert [c.name for c in walk.engine.observe().containers] == walk.running()
