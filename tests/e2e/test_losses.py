"""What a host can lose: its store, its key, all that is in memory, a version that never starts. The old one serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from harness.host import Host

CRASHES = ["sh", "-c", "echo the database is not there; exit 3"]


def identities(host: Host, *names: str) -> list[tuple[str, str]]:
    """The containers of these apps (default: all), whatever state they are in, and when they were started."""
    found = host.client.containers.list(all=True)
    mine = [each for each in found if not names or each.labels.get("reconciler.app") in names]
    return sorted((str(container.id), str(container.attrs["State"]["StartedAt"])) for container in mine)


def given_up(host: Host, name: str, reason: str) -> str:
    """What is said about a version once it is in quarantine."""
    known = ("not tried again", reason, f"reconciler retry {name}")
    host.wait(lambda: all(word in str(host.app(name)) for word in known), what=f"{name} is given up: {reason}")
    return str(host.app(name))


# --- the state directory ----------------------------------------------------------------------------------------------


def test_without_its_store_the_agent_takes_up_whom_it_finds_at_work(shop: Host) -> None:
    host = shop
    store = host.state / "store.db"

    def delete() -> None:
        for file in host.state.glob("store.db*"):
            file.unlink()

    def adopted() -> list[str]:
        """All the history there is, but for what was refused."""
        entries: list[dict[str, str]] = json.loads(host.reconciler("history", "--output", "json"))
        done = [entry for entry in entries if entry["event"] != "refused"]
        why = "it ran before this store was made: what was known of it, such as a suspension, is lost"
        assert {(entry["event"], entry["reason"]) for entry in done} <= {("adopted", why)}
        return sorted(entry["app"] for entry in done)

    with host.visitors() as failures:
        running = identities(host)
        delete()  # under the running agent
        assert host.process is not None
        host.process.send_signal(signal.SIGHUP)
        host.wait(store.exists, what="a fresh store")
        host.wait(lambda: adopted() == ["other", "shop"], what="both are taken up")
        host.wait(lambda: (host.status() or {})["result"] == "converged", what="it is well again")
        assert identities(host) == running

        # While it is down, when a broken manifest does not say what shop is: its container does.
        host.stop_agent()
        delete()
        host.deploy(replica=2)
        host.start_agent()
        host.wait_reason("InvalidManifest")
        host.wait_synced(host.repository.head, "other")
        assert "other" in adopted()  # shop too, where it looked once more at the commit before that mistake
        assert identities(host) == running
        host.containers("other")[0].remove(force=True)
        host.wait(lambda: host.containers("other"), what="other is repaired")
        assert host.serves() == "1"
        host.deploy(image="shop:2")
        host.wait_synced(host.repository.head, "shop", "other")
        assert (host.serves(), host.serves("other")) == ("2", "1")

        running = identities(host)
        host.stop_agent()
        store.write_bytes(b"this was a database once\n" * 1000)
        host.start_agent()
        host.wait_synced(host.repository.head, "shop", "other")
        assert adopted() == ["other", "shop"]
        assert identities(host) == running
        (copy,) = host.state.glob("store.db.damaged-*")
        assert copy.read_bytes().startswith(b"this was a database once")
        assert str(copy) in host.fault("StoreDamaged")
        host.wait(lambda: (host.status() or {})["result"] == "converged", what="that holds up nothing")
        assert host.fault("StoreDamaged")
        assert "what runs goes on" in host.reconciler("status", expect=None)
        copy.unlink()
        host.wait(lambda: not host.fault("StoreDamaged"), what="a person has seen it")
    assert failures == []


def test_without_its_key_the_agent_touches_nothing_and_says_the_ways_out(shop: Host) -> None:
    host = shop
    key = host.state / "host.key"
    running = identities(host)
    with host.visitors() as failures, host.visitors("other") as others:
        # A damaged key is never replaced.
        host.stop_agent()
        saved = Path(shutil.copy2(key, key.with_name("saved.key")))
        damaged = saved.read_bytes()[:7]
        key.write_bytes(damaged)
        assert "Restore the file from a backup" in host.reconciler("run", expect=1)
        assert key.read_bytes() == damaged
        # A lost one is, but whatever the old one signed is somebody else's.
        key.unlink()
        host.start_agent()
        for name in ("shop", "other"):
            app = host.wait_reason("ForeignContainer", name)
            assert f"docker rm -f {host.containers(name)[0].name}" in app["message"]
            assert "Put the key file back" in app["message"]
        assert host.fault("ForeignContainers")
        third = host.manifest("third")
        host.commit({"apps/shop/app.yaml": host.manifest(image="shop:2"), "apps/third/app.yaml": third})
        host.wait_synced(host.repository.head, "third")
        assert host.serves("third") == "1"
        assert (host.serves(), host.serves("other")) == ("1", "1")
        assert identities(host, "shop", "other") == running

        # The first way out: all is ours again, but for what the other key signed.
        host.stop_agent()
        saved.replace(key)
        host.start_agent()
        host.wait_synced(host.repository.head, "shop", "other")
        assert (host.serves(), host.serves("other")) == ("2", "1")
        assert identities(host, "other")[0] in running
        app = host.wait_reason("ForeignContainer", "third")
        assert f"docker rm -f {host.containers('third')[0].name}" in app["message"]
        assert host.serves("third") == "1"
    assert failures == others == []
    host.containers("third")[0].remove(force=True)  # the second way out, as the message says
    host.wait_synced(host.repository.head, "shop", "other", "third")
    assert host.serves("third") == "1"
    assert host.fault("ForeignContainers") == ""


# --- a reboot ---------------------------------------------------------------------------------------------------------


def test_after_a_reboot_the_same_containers_serve_and_secrets_are_there_before_them(own_host: Host) -> None:
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
    before = {container.id for container in host.client.containers.list(all=True)}
    shown = (200, "version=1 greeting= env_secret=t0ken file_secret=s3cret\n")
    assert host.get("/cgi-bin/show") == shown
    # The power goes, and comes back; what was on tmpfs is gone, and meanwhile a bad commit was pushed.
    host.stop_agent()
    os.kill(int((host.runtime / "names.pid").read_text()), signal.SIGKILL)
    host.nginx.stop()
    host.engine.stop()
    for entry in host.runtime.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    missing = {**secrets, "file": "missing.sops.yaml"}
    host.commit(
        {
            "apps/shop/app.yaml": host.manifest(image="shop:2", secrets=missing, replicas=2),
            "apps/other/app.yaml": host.manifest("other", replica=2),
        }
    )
    host.engine.start()
    host.nginx.start()
    host.start_agent()
    host.wait(lambda: host.get("/cgi-bin/show") == shown, what="shop serves with its secrets")
    host.wait(lambda: host.app()["replicas_healthy"] == 2, what="both replicas are healthy")
    host.wait(lambda: host.serves("other") == "1", what="other serves")
    assert host.wait_reason("InvalidManifest", "other")["revisions"]["applied"] == applied
    assert "missing.sops.yaml" in host.app()["message"]
    assert host.app()["revisions"]["applied"] == applied
    assert host.containers()[0].exec_run(["stat", "-c", "%a", "/run/secrets/password"]).output == b"400\n"
    with host.visitors() as failures, host.visitors("other") as others:
        host.repository.revert()
        host.wait_synced(host.repository.head, "shop", "other")
        assert {container.id for container in host.client.containers.list(all=True)} == before
        assert host.get("/cgi-bin/show") == shown
    assert failures == others == []


# --- versions that do not start ---------------------------------------------------------------------------------------


def broken(version: int) -> dict[str, Any]:
    """Its migration goes well, and makes the version that runs sick: it is not given up, but goes no further."""
    first = "test -e /data/version || touch /data/well-1; printf $VERSION > /data/version"
    step = ["sh", "-c", "test ! -e /data/well-1 || busybox mv /data/well-1 /data/well-2"]
    return {
        "image": f"shop:{version}",
        "volumes": ["broken:/data"],
        "command": ["sh", "-c", f"{first}; exec httpd -f -p 8080 -h /data"],
        "health": {"http": f"/well-{version}", "port": 8080, "interval": "1s", "deadline": "20s"},
        "before_deploy": {"command": step if version > 1 else ["true"]},
    }


def has_stopped(host: Host) -> None:
    known = "(GET /well-1: 404), so the rollout stops here"
    host.wait(lambda: known in host.app("broken")["message"], what="the rollout of broken has stopped")
    old = (200, "1")  # but for moments in which it is restarted
    host.wait(lambda: host.get("/version", host="broken.example.com") == old, what="the old version serves")


def goes_on_all_the_same(host: Host) -> None:
    has_stopped(host)  # the next agent knows too
    host.reconciler("retry", "broken")
    host.wait(lambda: host.app("broken")["sync"] == "Synced", what="broken goes on all the same")
    assert host.serves("broken") == "2"


def test_versions_that_fail_are_given_up_and_the_old_ones_serve(host: Host) -> None:  # noqa: PLR0915  (one life of many)
    late = {"http": "/missing", "port": 8080, "interval": "1s", "deadline": "3s"}
    step = {"command": ["sh", "-c", "echo no migration; exit 4"], "timeout": "20s"}
    bad: dict[str, tuple[dict[str, Any], str, str]] = {
        "shop": ({"command": CRASHES}, "CrashLoop", r"shop\.1\.\w{8} ended \d times before it was healthy"),
        "late": ({"image": "shop:3", "health": late}, "DeadlineExceeded", "404"),
        "program": ({"command": ["/no/such/program"]}, "CrashLoop", "/no/such/program"),  # in its last words
        "user": ({"user": "nosuchuser"}, "ContainerRejected", "nosuchuser"),
        "step": ({"image": "shop:2", "before_deploy": step}, "BeforeDeployFailed", "exit code 4"),
        # On a volume the old container has to stop first.
        "data": ({"command": CRASHES, "volumes": ["data:/data"]}, "CrashLoop", "the database is not there"),
    }

    def commit(*names: str, **fields: Any) -> str:
        apps = {name: {"volumes": ["data:/data"], **fields} if name == "data" else fields for name in names}
        return host.commit({f"apps/{name}/app.yaml": host.manifest(name, **more) for name, more in apps.items()})

    def check_given_up() -> None:
        for name, (_, reason, words) in bad.items():
            assert re.search(words, given_up(host, name, reason))
            host.wait(lambda name=name: host.app(name)["health"] == "Healthy", what=f"the old {name} is healthy")
            assert host.app(name)["sync"] == "OutOfSync"
            assert host.app(name)["revisions"]["applied"] == good
            assert host.metric(f'drift_repairs_total{{app="{name}"}}') in {None, 0.0}
            assert host.serves(name) == "1"
        host.wait(lambda: identities(host, *(bad.keys() - {"data"})) == running, what="only what failed is removed")
        host.wait(lambda: [each.id for each in host.containers("data", everything=True)] == [data.id], what="and here")

    host.deploy("broken", **broken(1))
    good = commit(*bad)
    host.start_agent()
    host.wait_synced(good, *bad, "broken")
    running = identities(host, *(bad.keys() - {"data"}))
    (data,) = host.containers("data")
    data.exec_run(["sh", "-c", "echo kept > /data/row"])
    with host.visitors() as failures, host.visitors("late") as others, host.visitors("step") as more:
        worse = {name: bad[name][0] for name in bad} | {"broken": broken(2)}
        failed = host.commit({f"apps/{name}/app.yaml": host.manifest(name, **worse[name]) for name in worse})
        check_given_up()
        has_stopped(host)
        assert host.app()["last_words"].splitlines()[-1] == "the database is not there"
        assert host.app("step")["last_words"] == "no migration"
        assert "    | the database is not there" in host.reconciler("status", expect=2)
        # Given up is given up, also for the next agent; other commits go on.
        host.stop_agent()
        commit("other")
        host.start_agent()
        with host.visitors("data") as back:
            check_given_up()
            goes_on_all_the_same(host)
            # It is tried again when somebody asks.
            host.reconciler("retry", "shop")
            host.wait(lambda: host.app()["reason"] != "CrashLoop", what="it is tried again")
            check_given_up()
            host.wait_synced(host.repository.head, "other")
        history = host.reconciler("history", "shop")
        assert history.count("CrashLoop") == 2
        assert failed[:8] in history
        told = host.reconciler("why", "shop", expect=2)
        for words in ("shop is held up", failed[:8], "    | the database is not there", "reconciler rollback shop"):
            assert words in told
        # The way back is one command, in a clone with push rights.
        for key in ("name", "email"):
            host.repository.git("config", f"user.{key}", "grace@example.com")
        host.reconciler("rollback", "shop", "--repository", str(host.repository.work))
        host.wait_synced(host.repository.head, "shop")
        assert "shop is fine" in host.reconciler("why", "shop")
        assert "what web-1 runs" in host.repository.git("log", "-1", "--format=%B", "origin/main").replace("\n", " ")
        host.wait_synced(commit(*bad, image="shop:2"), *bad)
        assert {host.serves(name) for name in bad} == {"2"}
        assert host.containers("data")[0].exec_run(["cat", "/data/row"]).output == b"kept\n"
    assert failures == others == more == back == []


# --- a person who wants none of it ------------------------------------------------------------------------------------


def test_a_suspended_app_is_left_alone(shop: Host) -> None:
    host = shop
    with host.visitors() as failures:
        running = identities(host, "shop")
        host.reconciler("suspend", "shop", "--why", "Ada looks at it")
        app = host.wait_reason("Suspended")
        assert "Ada looks at it" in app["message"]
        assert "reconciler resume shop" in app["message"]
        host.deploy(image="shop:2")
        host.wait_synced(host.repository.head, "other")
        assert identities(host, "shop") == running
        # Also when its folder goes, while others and the routes change,
        others = {name: host.manifest(name, image="shop:2") for name in ("other", "third")}
        host.commit({"apps/shop/app.yaml": None, **{f"apps/{name}/app.yaml": text for name, text in others.items()}})
        host.wait_synced(host.repository.head, *others)
        assert (host.serves(), host.serves("other"), host.serves("third")) == ("1", "2", "2")
        assert "the repository no longer names it" in host.wait_reason("Suspended")["message"]
        # and over a restart.
        host.stop_agent()
        host.start_agent()
        assert host.app()["reason"] == "Suspended"
        host.wait(lambda: (host.status() or {})["commit"]["sha"] == host.repository.head, what="it has looked")
        assert identities(host, "shop") == running
    assert failures == []
    host.deploy(image="shop:2")
    # Whatever happens to it:
    host.containers()[0].stop(timeout=1)
    host.containers("other")[0].remove(force=True)
    host.wait(lambda: host.containers("other"), what="other is repaired")
    host.wait_synced(host.repository.head, "other", "third")
    assert not host.containers()
    assert "Suspended" in host.reconciler("status", expect=2)
    host.reconciler("resume", "shop")
    host.wait_synced(host.repository.head, "shop", "other", "third")
    assert host.serves() == "2"
