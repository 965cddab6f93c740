"""Whatever fails beside the agent: apps that serve go on serving, the status says why, and what is mended converges."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.disks import SmallDisk, small_disk
from harness.git import StallServer
from harness.host import Host


@pytest.fixture
def shop(host: Host) -> Host:
    """A host with one healthy app, ``shop`` at version 1, beside ``other``."""
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    return host


def upgraded(host: Host, version: int, *, shop: str | None = None, **fields: Any) -> str:
    """Commit the next version of both apps; ``fields`` change shop."""
    return host.commit(
        {
            "apps/shop/app.yaml": host.manifest(image=shop or f"shop:{version}", **fields),
            "apps/other/app.yaml": host.manifest("other", image=f"shop:{version}"),
        }
    )


# --- drift ------------------------------------------------------------------------------------------------------------


def test_what_an_operator_breaks_by_hand_is_put_back(host: Host) -> None:
    def disconnect(host: Host, name: str) -> None:
        host.client.networks.get(host.network).disconnect(host.containers(name)[0])

    breaks: dict[str, Callable[[Host, str], object]] = {
        "disconnect": disconnect,
        "update": lambda host, name: host.containers(name)[0].update(mem_limit="64m", memswap_limit="64m"),
        "pause": lambda host, name: host.containers(name)[0].pause(),
        "stop": lambda host, name: host.containers(name)[0].stop(timeout=1),
        "remove": lambda host, name: host.containers(name)[0].remove(force=True),
        "kill": lambda host, name: host.containers(name)[0].kill(),
    }
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in (*breaks, "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, *breaks, "other")
    memory = host.containers("update")[0].attrs["HostConfig"]["Memory"]
    with host.visitors("other") as failures:
        for name, damage in breaks.items():
            damage(host, name)
        for name in breaks:

            def repaired(name: str = name) -> bool:
                return bool(host.metric(f'drift_repairs_total{{app="{name}"}}')) and host.app(name)["sync"] == "Synced"

            host.wait(repaired, what=f"{name} is repaired")
            host.wait(lambda name=name: host.serves(name) == "1", what=f"{name} serves")
            assert "repaired" in host.reconciler("history", name)
        assert host.containers("update")[0].attrs["HostConfig"]["Memory"] == memory
    assert failures == []
    # Renamed, it is not ours any more: it is named, not touched, and nothing is started beside it.
    container = host.containers("stop")[0]
    container.rename("handmade")
    app = host.wait_reason("ForeignContainer", "stop")
    assert "docker rm -f handmade" in app["message"]
    assert host.serves("stop") == "1"
    container.rename("stop.1." + container.labels["reconciler.fingerprint"][:8])
    host.wait(lambda: host.app("stop")["sync"] == "Synced", what="the name is back")


# --- Docker -----------------------------------------------------------------------------------------------------------


def test_docker_dies_and_comes_back(own_host: Host) -> None:
    host = own_host
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    with host.visitors() as failures:
        host.engine.kill()
        host.wait(lambda: host.fault("DockerUnavailable"), what="the fault is named")
        assert "systemctl status docker" in host.fault("DockerUnavailable")
        assert str(host.engine.socket) in host.fault("DockerUnavailable")
        assert (host.status() or {})["result"] == "failed"
        assert host.app()["sync"] == "Unknown"
        assert host.app()["revisions"]["applied"] == host.repository.head
        host.deploy(image="shop:2")
        host.wait(lambda: (host.status() or {})["commit"]["sha"] == host.repository.head, what="the commit is seen")
        assert "DockerUnavailable" in host.reconciler("status", expect=2)
        assert host.serves() == "1"
        # An agent that starts now has seen nothing yet, and says so.
        host.stop_agent()
        host.start_agent()
        host.wait(lambda: host.fault("DockerUnavailable"), what="the fault is named again")
        assert host.serves() == "1"
    assert failures == []
    host.engine.start()
    host.wait_synced(host.repository.head, "shop", within=60)
    assert host.serves() == "2"
    # One that hangs holds up neither the traffic nor the end.
    host.engine.freeze()
    try:
        assert host.serves() == "2"
        host.reconciler("suspend", "shop")  # walks now
        assert host.stop_agent() < 5
    finally:
        host.engine.thaw()


# --- Git --------------------------------------------------------------------------------------------------------------


def test_a_git_server_that_is_gone_or_silent_stops_nothing(shop: Host) -> None:
    host = shop
    with host.visitors("other") as failures:
        away = host.repository.bare.rename(host.repository.bare.with_name("away.git"))
        host.wait(lambda: host.fault("GitRepositoryMissing"), what="the fault is named")
        assert "repository.url" in host.fault("GitRepositoryMissing")
        assert (host.status() or {})["result"] != "converged"
        assert host.metric('fetches_total{result="failure"}')
        host.containers()[0].remove(force=True)
        host.wait(lambda: host.metric('drift_repairs_total{app="shop"}') == 1, what="drift is repaired nevertheless")
        host.wait(lambda: host.app()["sync"] == "Synced", what="shop is back")
        away.rename(host.repository.bare)
        upgraded(host, 2)
        host.wait_synced(host.repository.head, "shop", "other")
        assert host.fault("GitRepositoryMissing") == ""

        server = StallServer()
        url = host.settings["repository"]["url"]
        host.stop_agent()
        host.settings["repository"] |= {"url": f"http://127.0.0.1:{server.port}/config.git", "timeout": "1s"}
        host.start_agent()
        host.wait(lambda: host.fault("GitTimeout"), what="the silence is named")
        assert "within 1 s" in host.fault("GitTimeout")
        assert host.app()["sync"] == "Synced"
        host.containers()[0].remove(force=True)
        host.wait(lambda: host.metric('drift_repairs_total{app="shop"}') == 1, what="drift is repaired nevertheless")
        server.stop()
        host.wait(lambda: host.fault("GitUnreachable"), what="nobody listens")
        host.stop_agent()
        host.settings["repository"] |= {"url": url, "timeout": "30s"}
        upgraded(host, 3)
        host.start_agent()
        host.wait_synced(host.repository.head, "shop", "other")
    assert failures == []


def test_a_rewritten_history_waits_for_a_person(shop: Host) -> None:
    host = shop
    upgraded(host, 2)
    host.wait_synced(host.repository.head, "shop", "other")
    trusted = host.repository.head
    with host.visitors() as failures:
        new = host.repository.rewrite({"apps/shop/app.yaml": host.manifest(image="shop:3")})
        host.wait(lambda: host.fault("HistoryRewritten"), what="it is refused")
        message = host.fault("HistoryRewritten")
        assert f"reconciler accept {new[:12]}" in message
        assert "would vanish" in message
        assert (host.status() or {})["commit"]["sha"] == trusted
        host.containers("other")[0].remove(force=True)
        host.wait(lambda: host.metric('drift_repairs_total{app="other"}') == 1, what="drift is repaired nevertheless")
        host.wait(lambda: host.serves("other") == "2", what="other is as the trusted revision wants it")
        assert host.serves() == "2"
        host.reconciler("accept", new[:12])
        host.wait_synced(new, "shop", "other")
        assert (host.serves(), host.serves("other")) == ("3", "1")
    assert failures == []


# --- nginx ------------------------------------------------------------------------------------------------------------


def test_nginx_that_rejects_refuses_or_dies(shop: Host) -> None:
    host = shop
    with host.visitors() as failures, host.visitors("other") as others:
        # Somebody else's configuration collides with ours: new routes wait, all else goes on.
        host.nginx.configure(f"server {{ listen {host.http} default_server; return 403; }}")
        host.commit(
            {
                "apps/new/app.yaml": host.manifest("new"),
                "apps/other/app.yaml": host.manifest("other", image="shop:2"),
            }
        )
        host.wait(lambda: host.fault("NginxRejected"), what="the rejection is told")
        assert "duplicate default server" in host.fault("NginxRejected")
        assert "nginx.default_server" in host.fault("NginxRejected")
        host.wait_synced(host.repository.head, "other")
        assert (host.serves(), host.serves("other")) == ("1", "2")
        assert (host.status() or {})["result"] != "converged"
        host.nginx.configure()
        host.wait(lambda: host.serves("new") == "1", what="the route comes by itself")

        # A reload that nginx refuses without a word: a port that it should listen on is taken.
        certificates = Path(host.settings["nginx"]["certificates"])
        with socket.create_server(("0.0.0.0", host.https)):  # noqa: S104  (all addresses: nginx wants them all)
            certify(certificates, "other.example.com")
            ingress = [{"host": "other.example.com", "port": 8080, "tls": "auto"}]
            host.deploy("other", image="shop:2", ingress=ingress)
            host.wait(lambda: host.fault("NginxDidNotLoad"), what="the silent refusal is told")
            assert f":{host.https}" in host.fault("NginxDidNotLoad")
            assert "in use" in host.fault("NginxDidNotLoad")
            assert (host.metric('nginx_reloads_total{result="failure"}') or 0) >= 1
            host.deploy(image="shop:2")
            host.wait_synced(host.repository.head, "shop")
            assert host.serves() == "2"
        host.wait(lambda: host.get("/", host="other.example.com")[0] == 308, what="https works, http leads there")
    assert failures == []
    assert all(" 308 " in each for each in others)

    host.nginx.kill()
    host.deploy("extra")
    host.wait(lambda: host.fault("NginxDown"), what="nginx is missed")
    assert "systemctl start nginx" in host.fault("NginxDown")
    host.nginx.start()
    host.wait(lambda: host.serves("extra") == "1", what="the new route")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="all is well again")
    assert host.serves() == "2"


def certify(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.crt"), "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )


# --- containers, ports, names -----------------------------------------------------------------------------------------


def test_foreign_containers_are_reported_and_never_touched(shop: Host) -> None:
    host = shop
    upgraded(host, 2)
    host.wait_synced(host.repository.head, "shop", "other")
    name = host.containers()[0].name
    upgraded(host, 1)
    host.wait_synced(host.repository.head, "shop", "other")
    foreign = host.client.containers.create("shop:3", name=name)
    with host.visitors() as failures:
        upgraded(host, 2)
        app = host.wait_reason("NameTaken")
        assert name in app["message"]
        assert "rename or remove it" in app["message"]
        host.wait_synced(host.repository.head, "other")
        assert (host.serves(), host.serves("other")) == ("1", "2")
        foreign.reload()
        assert foreign.status == "created"
        foreign.remove()
        host.wait_synced(host.repository.head, "shop")
        assert host.serves() == "2"

        # Our labels on somebody else's container prove nothing.
        copied = host.client.containers.create("shop:3", name="copied", labels=host.containers()[0].labels)
        app = host.wait_reason("ForeignContainer")
        assert "docker rm -f copied" in app["message"]
        upgraded(host, 3)
        host.wait_synced(host.repository.head, "other")
        assert host.serves() == "2"
        copied.remove()
        host.wait_synced(host.repository.head, "shop")
        assert host.serves() == "3"
    assert failures == []


def test_a_taken_port_brings_the_old_version_back(shop: Host) -> None:
    host = shop
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host.deploy("db", ports=[f"{port}:8080"], ingress=None)
    host.wait_synced(host.repository.head, "db")
    assert host.get("/version", port=port)[1] == "1"
    with socket.create_server(("0.0.0.0", 0)) as taken, host.visitors() as failures:  # noqa: S104  (as Docker wants it)
        number = taken.getsockname()[1]
        host.deploy("db", image="shop:2", ports=[f"{port}:8080", f"{number}:8080"], ingress=None)
        app = host.wait_reason("PortTaken", "db")
        assert f"port {number}/tcp is taken by a process outside Docker" in app["message"]
        host.wait(lambda: host.get("/version", port=port)[1] == "1", what="the old version is back")
        host.wait(lambda: host.app("db")["health"] == "Healthy", what="and healthy")
        assert "reconciler retry db" in host.app("db")["message"]
        upgraded(host, 2)
        host.wait_synced(host.repository.head, "shop", "other")
    assert failures == []
    host.reconciler("retry", "db")
    host.wait_synced(host.repository.head, "db")
    assert host.get("/version", port=number)[1] == host.get("/version", port=port)[1] == "2"


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state_disk(host: Host) -> Iterator[SmallDisk]:
    """The state directory on a disk of its own."""
    with small_disk(host.state, "16m") as disk:
        yield disk
        host.stop_agent()


def test_a_state_disk_that_is_full(host: Host, state_disk: SmallDisk) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    with host.visitors() as failures:
        state_disk.fill()
        upgraded(host, 2)
        host.wait(lambda: host.fault("DiskFull"), what="the disk is named")
        assert f"df -h {host.state}" in host.fault("DiskFull")
        host.containers("other")[0].remove(force=True)
        host.wait(lambda: host.containers("other"), what="drift is repaired nevertheless")
        # An agent that starts now finds what it needs.
        host.stop_agent()
        host.start_agent()
        host.wait(lambda: host.fault("DiskFull"), what="the disk is named again")
        assert host.serves() == "1"
        state_disk.free()
        host.wait_synced(host.repository.head, "shop", "other", within=60)
        assert (host.serves(), host.serves("other")) == ("2", "2")
        host.wait(lambda: (host.status() or {})["result"] == "converged", what="nothing is left to do")
    assert failures == []


def test_a_state_disk_that_is_read_only(host: Host, state_disk: SmallDisk) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    with host.visitors() as failures:
        host.stop_agent()  # a file that is open for writing would keep the disk writable
        state_disk.read_only()
        upgraded(host, 2)
        host.start_agent()
        host.wait(lambda: host.fault("DiskReadOnly"), what="the disk is named")
        assert "dmesg" in host.fault("DiskReadOnly")
        assert host.serves() == "1"
        state_disk.writable()
        host.wait_synced(host.repository.head, "shop", "other", within=60)
        assert (host.serves(), host.serves("other")) == ("2", "2")
    assert failures == []
