"""Whatever fails beside the agent: apps that serve go on serving, the status says why, and what is mended converges."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from harness.disks import small_disk
from harness.git import StallServer, run_git
from harness.host import Host
from harness.nginx import certify


def upgrade(host: Host, **versions: int) -> None:
    """Commit these versions of apps."""
    host.commit({f"apps/{name}/app.yaml": host.manifest(name, image=f"shop:{n}") for name, n in versions.items()})


def wait_served(host: Host, **versions: int) -> None:
    """Wait until apps serve these versions as committed, and nothing is wrong any more."""
    host.wait_synced(host.repository.head, *versions, within=60)
    assert {name: host.serves(name) for name in versions} == {name: str(n) for name, n in versions.items()}
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="nothing is left to do")
    assert (host.status() or {})["faults"] == []


def wait_repaired(host: Host, name: str) -> None:
    """Remove an app's container and wait for another one."""
    host.containers(name)[0].remove(force=True)
    host.wait(lambda: host.metric(f'drift_repairs_total{{app="{name}"}}') == 1, what="drift is repaired nevertheless")


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
            assert host.serves(name) == "1"
        history = json.loads(host.reconciler("history", "--output", "json", "--limit", "50"))
        assert {entry["app"] for entry in history if entry["event"] == "repaired"} == {*breaks}
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


def test_docker_dies_stops_or_hangs(own_host: Host) -> None:
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
        # An agent that starts now has seen nothing yet, and says so.
        host.stop_agent()
        host.start_agent()
        host.wait(lambda: host.fault("DockerUnavailable"), what="the fault is named again")
        assert host.serves() == "1"
    assert failures == []
    host.engine.start()
    wait_served(host, shop=2)
    # Stopped, it takes all containers along; they come back with it, without a commit.
    host.engine.stop()
    host.wait(lambda: host.fault("DockerUnavailable"), what="the fault is named once more")
    assert host.app()["sync"] == "Unknown"
    host.engine.start()
    wait_served(host, shop=2)
    # One that hangs holds up neither the traffic nor the end.
    host.engine.freeze()
    try:
        assert host.serves() == "2"
        host.reconciler("suspend", "shop")  # walks now
        assert host.stop_agent() < 5
    finally:
        host.engine.thaw()


# --- Git --------------------------------------------------------------------------------------------------------------


def test_a_repository_that_is_gone_or_silent_stops_nothing(shop: Host) -> None:
    host = shop
    with host.visitors("other") as failures:
        away = host.repository.bare.rename(host.repository.bare.with_name("away.git"))
        host.wait(lambda: host.fault("GitRepositoryMissing"), what="the fault is named")
        assert "repository.url" in host.fault("GitRepositoryMissing")
        assert (host.status() or {})["result"] != "converged"
        assert host.metric('fetches_total{result="failure"}')
        wait_repaired(host, "shop")
        run_git(away, "branch", "--move", "main", "kept")
        away.rename(host.repository.bare)
        host.wait(lambda: host.fault("GitBranchMissing"), what="now it is the branch")
        assert "main" in host.fault("GitBranchMissing")
        host.wait(lambda: host.app()["sync"] == "Synced", what="shop is back")
        run_git(host.repository.bare, "branch", "--move", "kept", "main")
        host.commit()
        wait_served(host, shop=1, other=1)

        server = StallServer()
        url = host.settings["repository"]["url"]
        host.stop_agent()
        host.settings["repository"] |= {"url": f"http://127.0.0.1:{server.port}/config.git", "timeout": "1s"}
        host.start_agent()
        host.wait(lambda: host.fault("GitTimeout"), what="the silence is named")
        assert "within 1 s" in host.fault("GitTimeout")
        host.wait(lambda: host.app()["sync"] == "Synced", what="shop is known to be as it should")
        wait_repaired(host, "shop")
        server.stop()
        host.wait(lambda: host.fault("GitUnreachable"), what="nobody listens")
        host.stop_agent()
        host.settings["repository"] |= {"url": url, "timeout": "30s"}
        upgrade(host, shop=2, other=2)
        host.start_agent()
        wait_served(host, shop=2, other=2)
    assert failures == []


def test_a_rewritten_history_waits_for_a_person(shop: Host) -> None:
    host = shop
    trusted = host.repository.head
    with host.visitors() as failures:
        new = host.repository.rewrite(
            {
                "apps/shop/app.yaml": host.manifest(image="shop:3"),
                "apps/other/app.yaml": host.manifest("other", image="shop:2"),
            }
        )
        host.wait(lambda: host.fault("HistoryRewritten"), what="it is refused")
        message = host.fault("HistoryRewritten")
        assert f"reconciler accept {new[:12]}" in message
        assert "would vanish" in message
        assert (host.status() or {})["commit"]["sha"] == trusted
        wait_repaired(host, "other")
        host.wait(lambda: host.serves("other") == "1", what="other is as the trusted revision wants it")
        assert host.serves() == "1"
        host.reconciler("accept", new[:12])
        wait_served(host, shop=3, other=2)

        # Set back to a time before the apps, they would be removed.
        begin = host.repository.rewind()
        host.wait(lambda: f"reconciler accept {begin[:12]}" in host.fault("HistoryRewritten"), what="it is refused")
        assert (host.status() or {})["commit"]["sha"] == new
        assert (host.serves(), host.serves("other")) == ("3", "2")
        # Whoever set it back by mistake pushes on top of what was there, and nobody has to accept anything.
        host.repository.git("reset", "-q", "--hard", new)
        upgrade(host, shop=1, other=1)
        wait_served(host, shop=1, other=1)
    assert failures == []


# --- nginx ------------------------------------------------------------------------------------------------------------


def test_nginx_that_rejects_refuses_or_dies(shop: Host) -> None:
    host = shop
    with host.visitors() as failures, host.visitors("other") as others:
        # Somebody else's configuration collides with ours: new routes wait, all else goes on.
        host.nginx.configure(f"server {{ listen {host.http} default_server; return 403; }}")
        upgrade(host, new=1, other=2)
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
            host.commit(
                {
                    "apps/shop/app.yaml": host.manifest(image="shop:2"),
                    "apps/other/app.yaml": host.manifest("other", image="shop:2", ingress=ingress),
                }
            )
            host.wait(lambda: host.fault("NginxDidNotLoad"), what="the silent refusal is told")
            assert f":{host.https}" in host.fault("NginxDidNotLoad")
            assert "in use" in host.fault("NginxDidNotLoad")
            assert (host.metric('nginx_reloads_total{result="failure"}') or 0) >= 1
            host.wait_synced(host.repository.head, "shop")
            assert host.serves() == "2"
        host.wait(lambda: host.get("/", host="other.example.com")[0] == 308, what="https works, http leads there")
    assert failures == []
    assert all(" 308 " in each for each in others)

    host.wait(lambda: (host.status() or {})["result"] == "converged", what="it is quiet")
    host.nginx.kill()
    host.wait(lambda: host.fault("NginxDown"), what="nginx is missed though nothing changes")
    assert "systemctl start nginx" in host.fault("NginxDown")
    assert host.app()["sync"] == "Synced"
    host.deploy("extra")
    host.wait(lambda: host.containers("extra"), what="apps are deployed nevertheless")
    host.nginx.start()
    assert host.serves() == "2"  # from its first moment: the containers are as they were
    host.wait(lambda: host.serves("extra") == "1", what="the new route")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="all is well again")


# --- containers, ports, names -----------------------------------------------------------------------------------------


def test_foreign_containers_are_reported_and_never_touched(shop: Host) -> None:
    host = shop
    name = host.containers()[0].name
    upgrade(host, shop=2, other=2)
    wait_served(host, shop=2, other=2)
    foreign = host.client.containers.create("shop:3", name=name)
    # Our labels on somebody else's container prove nothing.
    copied = host.client.containers.create("shop:3", name="copied", labels=host.containers("other")[0].labels)
    with host.visitors() as failures, host.visitors("other") as others:
        assert "docker rm -f copied" in host.wait_reason("ForeignContainer", "other")["message"]
        upgrade(host, shop=1, other=1, third=1)
        app = host.wait_reason("NameTaken")
        assert name in app["message"]
        assert "rename or remove it" in app["message"]
        host.wait_synced(host.repository.head, "third")
        assert (host.serves(), host.serves("other"), host.serves("third")) == ("2", "2", "1")
        for container in (foreign, copied):
            container.reload()
            assert container.status == "created"
            container.remove()
        wait_served(host, shop=1, other=1, third=1)
    assert failures == others == []


def test_a_taken_port_brings_the_old_version_back(host: Host, free_port: Callable[[], int]) -> None:
    port = free_port()

    def commit(image: str, *ports: int) -> None:
        published = [f"{number}:8080" for number in ports]
        host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image=image),
                "apps/db/app.yaml": host.manifest("db", image=image, ports=published),
            }
        )

    commit("shop:1", port)
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "db")
    assert host.get("/version", port=port)[1] == host.serves("db") == "1"
    with socket.create_server(("0.0.0.0", 0)) as taken, host.visitors() as failures:  # noqa: S104  (as Docker wants it)
        number = taken.getsockname()[1]
        commit("shop:2", port, number)
        app = host.wait_reason("PortTaken", "db")
        assert f"port {number}/tcp is taken by a process outside Docker" in app["message"]
        host.wait(lambda: host.serves("db") == "1", what="the old version is back")
        host.wait(lambda: host.app("db")["health"] == "Healthy", what="and healthy")
        assert host.get("/version", port=port)[1] == "1"
        assert "reconciler retry db" in host.app("db")["message"]
        host.wait_synced(host.repository.head, "shop")
        assert host.serves() == "2"
    assert failures == []
    host.reconciler("retry", "db")
    host.wait_synced(host.repository.head, "db")
    assert host.get("/version", port=number)[1] == host.get("/version", port=port)[1] == host.serves("db") == "2"


def test_a_names_service_that_is_killed_or_hangs_is_replaced(shop: Host) -> None:
    host = shop

    def stop_it(number: int) -> int:
        pid = int((host.runtime / "names.pid").read_text())
        os.kill(pid, number)
        return pid

    def wait_replaced(pid: int) -> None:
        host.wait(lambda: int((host.runtime / "names.pid").read_text()) != pid, what="another one is started")

    with host.visitors() as failures, host.visitors("other") as others:
        killed = stop_it(signal.SIGKILL)
        upgrade(host, shop=2, other=2)
        wait_served(host, shop=2, other=2)
        wait_replaced(killed)
        # Though nothing changes,
        wait_replaced(stop_it(signal.SIGKILL))
        # and while nobody looks: whoever starts next mends it.
        host.stop_agent()
        killed = stop_it(signal.SIGKILL)
        host.start_agent()
        wait_replaced(killed)
        wait_served(host, shop=2, other=2)
        hung = stop_it(signal.SIGSTOP)
        wait_replaced(hung)
        host.wait(lambda: not Path(f"/proc/{hung}").exists(), what="the hung one is gone")
        assert f"dnsmasq (process {hung}) does not answer what is written: it is restarted" in host.log.read_text()
        # New addresses are asked of the new process.
        upgrade(host, shop=3, other=3)
        wait_served(host, shop=3, other=3)
    assert failures == others == []


# --- disks ------------------------------------------------------------------------------------------------------------


def test_disks_that_are_full_or_read_only(host: Host) -> None:
    def commit(version: int) -> None:
        """The next version of both apps, and of a secret."""
        image, secrets = f"shop:{version}", {"file": "secrets.sops.yaml"}
        host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image=image, secrets=secrets),
                "apps/shop/secrets.sops.yaml": host.smith.yaml({"password": f"s3cret-{version}"}),
                "apps/other/app.yaml": host.manifest("other", image=image),
            }
        )

    def assert_shown(version: int) -> None:
        expected = f"version={version} greeting= env_secret= file_secret=s3cret-{version}"
        assert host.get("/cgi-bin/show")[1].strip() == expected

    with small_disk(host.state, "16m") as state, small_disk(host.runtime) as runtime:
        commit(1)
        host.start_agent()
        wait_served(host, shop=1, other=1)
        with host.visitors() as failures:
            state.fill()
            commit(2)
            host.wait(lambda: host.fault("DiskFull"), what="the disk is named")
            assert f"df -h {host.state}" in host.fault("DiskFull")
            host.containers("other")[0].remove(force=True)
            host.wait(lambda: host.containers("other"), what="drift is repaired nevertheless")
            # An agent that starts now finds what it needs.
            host.stop_agent()
            host.start_agent()
            host.wait(lambda: host.fault("DiskFull"), what="the disk is named again")
            assert_shown(1)
            state.free()
            wait_served(host, shop=2, other=2)
            assert_shown(2)

            host.stop_agent()  # a file that is open for writing would keep the disk writable
            state.read_only()
            commit(3)
            host.start_agent()
            host.wait(lambda: host.fault("DiskReadOnly"), what="the disk is named")
            assert "dmesg" in host.fault("DiskReadOnly")
            assert_shown(2)
            state.writable()
            wait_served(host, shop=3, other=3)

            # The new secret cannot be written whole: nobody gets to see half of it.
            runtime.fill()
            commit(1)
            host.wait(lambda: host.app()["reason"] == "DiskFull" or host.fault("DiskFull"), what="the disk is named")
            assert str(host.runtime) in (host.fault("DiskFull") or host.app()["message"])
            assert_shown(3)
            runtime.free()
            wait_served(host, shop=1, other=1)
            assert_shown(1)
        assert failures == []
        host.stop_agent()
        os.kill(int((host.runtime / "names.pid").read_text()), signal.SIGKILL)
