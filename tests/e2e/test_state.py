"""What is remembered may be lost, and what is new may be bad: what runs goes on, and nothing is half-done."""

from __future__ import annotations

import os
import re
import shutil
import signal
from typing import Any

import pytest
from harness.host import Host

CRASHES = ["sh", "-c", "echo the database is not there; exit 3"]


@pytest.fixture
def shop(host: Host) -> Host:
    """A host with two healthy apps, ``shop`` and ``other``, at version 1."""
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    return host


def given_up(host: Host, name: str, reason: str) -> str:
    """What is said about a version once it is in quarantine."""
    known = ("not tried again", reason)
    host.wait(lambda: all(word in str(host.app(name)) for word in known), what=f"{name} is given up: {reason}")
    return str(host.app(name))


def identities(host: Host, *names: str) -> list[str]:
    return [container.id for name in names for container in host.containers(name)]


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_without_its_store_the_containers_say_what_a_broken_manifest_does_not(shop: Host) -> None:
    host = shop
    running = identities(host, "shop", "other")
    with host.visitors() as failures:
        # Under the running agent,
        for file in host.state.glob("store.db*"):
            file.unlink()
        assert host.process is not None
        host.process.send_signal(signal.SIGHUP)
        host.wait((host.state / "store.db").exists, what="a fresh store")
        host.wait(lambda: (host.status() or {})["result"] == "converged", what="it is well again")
        assert identities(host, "shop", "other") == running
        # and while it is down.
        host.stop_agent()
        for file in host.state.glob("store.db*"):
            file.unlink()
        host.deploy(replica=2)
        host.start_agent()
        host.wait_reason("InvalidManifest")
        host.containers("other")[0].remove(force=True)
        host.wait(lambda: host.containers("other"), what="other is repaired")
        assert host.serves() == "1"
        assert identities(host, "shop") == running[:1]
        host.deploy(image="shop:2")
        host.wait_synced(host.repository.head, "shop", "other")
        assert host.serves() == "2"
    assert failures == []


def test_a_damaged_key_is_never_replaced_and_a_lost_one_has_a_way_out(shop: Host) -> None:
    host = shop
    running = identities(host, "shop", "other")
    key = host.state / "host.key"
    with host.visitors() as failures:
        host.stop_agent()
        right = key.read_bytes()
        key.write_bytes(right[:7])
        told = host.reconciler("run", expect=1)
        assert "Restore the file from a backup" in told
        assert key.read_bytes() == right[:7]
        key.unlink()
        host.start_agent()
        app = host.wait_reason("ForeignContainer")
        assert f"docker rm -f {host.containers()[0].name}" in app["message"]
        assert "Put the key file back" in app["message"]
        host.commit(
            {"apps/shop/app.yaml": host.manifest(image="shop:2"), "apps/third/app.yaml": host.manifest("third")}
        )
        host.wait_synced(host.repository.head, "third")
        assert host.serves("third") == "1"
        assert (host.serves(), host.serves("other")) == ("1", "1")
        assert identities(host, "shop", "other") == running
    assert failures == []
    for container in (*host.containers(), *host.containers("other")):
        container.remove(force=True)  # as the message says
    host.wait_synced(host.repository.head, "shop", "other", "third")
    assert host.serves() == "2"


def test_after_a_reboot_secrets_are_written_before_anything_starts(own_host: Host) -> None:
    host = own_host
    secrets = {"file": "secrets.sops.yaml", "environment": ["API_TOKEN"]}
    host.commit(
        {
            "apps/shop/app.yaml": host.manifest(secrets=secrets, replicas=2),
            "apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "t0ken", "password": "s3cret"}),
            "apps/other/app.yaml": host.manifest("other"),
        }
    )
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    applied = host.repository.head
    host.stop_agent()
    # The power goes, and comes back; what was on tmpfs is gone, and meanwhile a bad commit was pushed.
    os.kill(int((host.runtime / "names.pid").read_text()), signal.SIGKILL)
    host.nginx.stop()
    host.engine.stop()
    for entry in host.runtime.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    host.commit({"apps/shop/app.yaml": host.manifest(secrets=secrets, replica=2)})
    host.engine.start()
    host.nginx.start()
    host.start_agent()

    def back() -> bool:
        code, body = host.get("/cgi-bin/show")
        return (code, body) == (200, "version=1 greeting= env_secret=t0ken file_secret=s3cret\n")

    host.wait(back, what="shop serves with its secrets")
    host.wait(lambda: host.app()["replicas_healthy"] == 2, what="both replicas are healthy")
    host.wait(lambda: host.serves("other") == "1", what="other serves")
    app = host.wait_reason("InvalidManifest")
    assert app["revisions"]["applied"] == applied
    listing = host.containers()[0].exec_run(["stat", "-c", "%a", "/run/secrets/password"]).output
    assert listing == b"400\n"


# --- what is new ------------------------------------------------------------------------------------------------------


def test_a_version_that_crashes_is_given_up_and_old_serves(shop: Host) -> None:
    host = shop
    with host.visitors() as failures:
        bad = host.deploy(command=CRASHES)
        message = given_up(host, "shop", "CrashLoop")
        assert re.search(r"shop\.1\.\w{8} ended \d times before it was healthy", message)
        assert "reconciler retry shop" in message
        host.wait(lambda: len(host.containers(everything=True)) == 1, what="the crashed one is removed")
        app = host.app()
        assert (app["sync"], app["health"], host.serves()) == ("OutOfSync", "Healthy", "1")
        assert app["last_words"].splitlines()[-1] == "the database is not there"
        assert "    | the database is not there" in host.reconciler("status", expect=2)
        # Given up is given up, also for the next agent; other commits go on.
        host.stop_agent()
        host.start_agent()
        host.wait_reason("CrashLoop")
        host.deploy("other", image="shop:2")
        host.wait_synced(host.repository.head, "other")
        assert len(host.containers(everything=True)) == 1
        # One that never becomes healthy, for another reason.
        health = {"http": "/missing", "port": 8080, "interval": "1s", "deadline": "3s"}
        host.deploy(image="shop:3", health=health)
        assert "404" in given_up(host, "shop", "DeadlineExceeded")
        assert host.serves() == "1"
        # One that needs too much, and one that the engine cannot even start.
        host.deploy(command=["/no/such/program"])
        assert "CrashLoop" in given_up(host, "shop", "/no/such/program")  # in its last words
        host.deploy(user="nosuchuser")
        assert "nosuchuser" in given_up(host, "shop", "ContainerRejected")
        assert host.serves() == "1"
        host.deploy(image="shop:2")
        host.wait_synced(host.repository.head, "shop", "other")
        assert host.serves() == "2"
        assert len(host.containers(everything=True)) == 1
        assert bad[:8] in host.reconciler("history", "shop")
    assert failures == []


def test_a_step_before_the_deployment_that_fails_changes_nothing(shop: Host) -> None:
    host = shop
    fields: dict[str, Any] = {"volumes": ["data:/data"]}
    host.deploy(**fields)
    host.wait_synced(host.repository.head, "shop")
    old = identities(host, "shop")
    step = {"command": ["sh", "-c", "echo no migration; exit 4"], "timeout": "20s"}
    with host.visitors() as failures:
        host.deploy(image="shop:2", before_deploy=step, **fields)
        assert "exit code 4" in given_up(host, "shop", "BeforeDeployFailed")
        assert host.app()["last_words"] == "no migration"
        assert identities(host, "shop") == old
        assert host.serves() == "1"
    assert failures == []


def test_a_suspended_app_is_left_alone(shop: Host) -> None:
    host = shop
    host.reconciler("suspend", "shop", "--why", "Ada looks at it")
    app = host.wait_reason("Suspended")
    assert "Ada looks at it" in app["message"]
    assert "reconciler resume shop" in app["message"]
    running = identities(host, "shop")
    host.commit({f"apps/{name}/app.yaml": host.manifest(name, image="shop:2") for name in ("shop", "other")})
    host.wait_synced(host.repository.head, "other")
    assert (host.serves(), host.serves("other")) == ("1", "2")
    assert identities(host, "shop") == running
    # Also over a restart, and whatever happens to it.
    host.stop_agent()
    host.start_agent()
    host.wait_reason("Suspended")
    host.containers()[0].stop(timeout=1)
    host.containers("other")[0].remove(force=True)
    host.wait(lambda: host.containers("other"), what="other is repaired")
    assert not host.containers()
    assert "Suspended" in host.reconciler("status", expect=2)
    host.reconciler("resume", "shop")
    host.wait_synced(host.repository.head, "shop", "other")
    assert host.serves() == "2"
