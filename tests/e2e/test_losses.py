"""What a host can lose: its store, its key, all that is in memory, a version that never starts. The old one serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.engine import PrivateEngine
from harness.host import Host

SECRETS = {"file": "secrets.sops.yaml", "environment": ["API_TOKEN"]}


@pytest.fixture
def shop(host: Host) -> Host:
    """A host with two healthy apps at version 1, ``shop`` and ``other``."""
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    return host


@pytest.fixture(scope="module")
def crashing(images: PrivateEngine) -> str:
    """An image that says something and ends."""
    images.import_image("crashing:1", changes=('CMD ["sh", "-c", "echo no database; exit 1"]', "USER app"))
    return "crashing:1"


def identities(host: Host) -> list[tuple[str, str]]:
    """Every container of the host and when it was started."""
    found = host.client.containers.list(all=True)
    return sorted((str(container.id), str(container.attrs["State"]["StartedAt"])) for container in found)


def delete(store: Path) -> None:
    for file in store.parent.glob(f"{store.name}*"):
        file.unlink()


def overwrite(store: Path) -> None:
    store.write_bytes(b"this was a database once\n" * 1000)


# --- the state directory ----------------------------------------------------------------------------------------------


def test_without_its_store_the_agent_knows_its_apps_and_only_history_is_gone(shop: Host) -> None:
    host = shop
    store = host.state / "store.db"
    with host.visitors() as failures, host.visitors("other") as others:
        for lose, image, forgotten in ((delete, "shop:2", "Change"), (overwrite, "shop:1", "Before delete")):
            host.deploy(image=image, message=f"Before {lose.__name__}")
            host.wait_synced(host.repository.head, "shop", "other")
            assert f" {forgotten} (" in host.reconciler("history")
            before = identities(host)
            host.stop_agent()
            lose(store)
            host.start_agent()
            host.wait_synced(host.repository.head, "shop", "other")
            # Whom it finds at work it takes up, which is all the history there is now.
            history = host.reconciler("history")
            assert f" {forgotten} (" not in history
            assert f" Before {lose.__name__} (" in history
            assert history.count(" adopted ") == 2
            assert " deployed " not in history
            assert (host.status() or {})["result"] == "converged"
            assert identities(host) == before
            assert host.get("/version") == (200, image.rpartition(":")[2])
        (copy,) = host.state.glob("store.db.damaged-*")
        assert copy.read_bytes().startswith(b"this was a database once")
        assert str(copy) in host.fault("StoreDamaged")
        assert "what runs goes on" in host.reconciler("status", expect=None)
        copy.unlink()
        host.wait(lambda: not host.fault("StoreDamaged"), what="a person has seen it")
    assert failures == others == []


# --- versions that do not start ---------------------------------------------------------------------------------------


def test_a_version_that_crashes_never_gets_traffic_and_is_tried_again_when_asked(shop: Host, crashing: str) -> None:
    host = shop
    with host.visitors() as failures, host.visitors("other") as others:
        good = host.repository.head
        serving = host.containers()[0].id
        host.deploy(image=crashing)
        for attempt in (1, 2):
            host.wait_reason("CrashLoop")
            host.wait(lambda: "reconciler retry shop" in host.app()["message"], what="the way out is named")
            app = host.app()
            assert app["reason"] == "CrashLoop"
            assert app["revisions"]["applied"] == good
            host.wait(lambda: len(host.containers(everything=True)) == 1, what="the failed one is removed")
            assert host.containers()[0].id == serving
            assert host.get("/version") == (200, "1")
            host.wait(lambda: host.app()["health"] == "Healthy", what="the old one is healthy")
            assert host.metric('drift_repairs_total{app="shop"}') in {None, 0.0}
            if attempt == 1:
                host.reconciler("retry", "shop")
                host.wait(lambda: host.app()["reason"] != "CrashLoop", what="it is tried again")
        assert host.reconciler("history", "shop").count("CrashLoop") == 2
        host.deploy(image="shop:2")
        host.wait_synced(host.repository.head, "shop", "other")
        assert host.get("/version") == (200, "2")
    assert failures == others == []


def test_a_failed_version_on_a_volume_puts_the_old_container_back(shop: Host, crashing: str) -> None:
    host = shop
    host.deploy(volumes=["data:/data"])
    host.wait_synced(host.repository.head, "shop")
    good = host.repository.head
    old = host.containers()[0]
    old.exec_run(["sh", "-c", "echo kept > /data/row"])
    with host.visitors("other") as others:
        host.deploy(image=crashing, volumes=["data:/data"])
        host.wait_reason("CrashLoop")
        host.wait(lambda: host.get("/version") == (200, "1"), what="the old version serves again")
        host.wait(lambda: host.app()["health"] == "Healthy", what="and is healthy")
        with host.visitors() as failures:
            host.wait(lambda: len(host.containers(everything=True)) == 1, what="the failed one is removed")
            assert host.containers()[0].id == old.id
            app = host.app()
            assert (app["reason"], app["revisions"]["applied"]) == ("CrashLoop", good)
        assert failures == []
        host.deploy(image="shop:2", volumes=["data:/data"])
        host.wait_synced(host.repository.head, "shop", "other")
        # A recreate interrupts, and nginx may hold the empty answer of meanwhile for another moment.
        host.wait(lambda: host.get("/version") == (200, "2"), what="the good version serves")
        assert host.containers()[0].exec_run(["cat", "/data/row"]).output == b"kept\n"
    assert others == []
