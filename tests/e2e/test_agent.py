"""The agent as a process: it starts once, stops at any moment, survives SIGKILL, and tells what it does."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness.git import StallServer
from harness.host import Host
from harness.prometheus import Prometheus
from harness.waiting import eventually

STOP_WITHIN = 5.0  # seconds: what is promised


def deployed(host: Host, *names: str) -> Host:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in names})
    host.start_agent()
    host.wait_synced(host.repository.head, *names)
    return host


def processes_of(words: bytes) -> list[str]:
    """Ids of processes with these words in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found += [file.parent.name] if words in file.read_bytes() else []
    return found


# --- it stops ---------------------------------------------------------------------------------------------------------


def test_it_stops_at_once_whatever_it_is_doing(host: Host) -> None:
    deployed(host, "shop", "other")
    stubborn = ["sh", "-c", "trap '' TERM; exec httpd -f -p 8080 -h /www"]
    host.deploy("other", command=stubborn, stop_grace_period="2m")
    host.wait_synced(host.repository.head, "other")
    with host.visitors() as failures:
        assert host.stop_agent() < STOP_WITHIN  # with nothing to do
        for delay in (0.1, 0.4, 0.7, 1.0):
            host.launch_agent()
            time.sleep(delay)  # somewhere in its start
            assert host.stop_agent() < STOP_WITHIN

        registry = StallServer()
        host.deploy(image=f"127.0.0.1:{registry.port}/slow:1")
        host.start_agent()
        host.wait_reason("Pulling")
        assert host.stop_agent() < STOP_WITHIN
        registry.stop()
        host.deploy(image="shop:2")

        host.deploy("other", image="shop:2")
        host.start_agent()
        host.wait(lambda: " is stopped and removed: " in host.app("other")["message"], what="the stop has begun")
        host.wait_synced(host.repository.head, "shop")  # which does not wait for it
        assert host.stop_agent() < STOP_WITHIN

        server = StallServer()
        url = host.settings["repository"]["url"]
        host.settings["repository"]["url"] = f"http://127.0.0.1:{server.port}/config.git"
        host.start_agent()
        asking = f":{server.port}/".encode()
        eventually(lambda: processes_of(asking), what="git asks")
        assert host.stop_agent() < STOP_WITHIN
        assert processes_of(asking) == []
        server.stop()
        host.settings["repository"]["url"] = url
    assert failures == []
    assert "Traceback" not in host.log.read_text()
    # Whoever comes next takes up what was left: the end of the stubborn one is the engine's business by now.
    host.containers("other")[0].kill()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")
    assert (host.serves(), host.serves("other")) == ("2", "2")
    assert len(host.containers("other", everything=True)) == 1


def test_killed_in_the_middle_of_a_rollout_it_goes_on_from_there(host: Host) -> None:
    deployed(host, "shop")
    names = host.state / "names" / "shop"

    def one_more(before: str) -> bool:
        return names.read_text() == before and len(host.containers(everything=True)) > 1

    def switched(before: str) -> bool:
        return names.read_text() != before

    with host.visitors() as failures:
        for version, moment in ((2, one_more), (3, switched), (1, one_more), (2, switched)):
            come = partial(moment, names.read_text())
            host.deploy(image=f"shop:{version}")
            host.wait(come, what="the moment has come")
            host.stop_agent(signal.SIGKILL)
            host.start_agent()
            host.wait_synced(host.repository.head, "shop")
            assert host.serves() == str(version)
            assert len(host.containers(everything=True)) == 1
    assert failures == []


def test_killed_in_the_middle_of_tasks_it_runs_each_once_and_tells_them_their_way(host: Host) -> None:
    def task(name: str, wait: str) -> dict[str, Any]:
        told = "$RECONCILER_DIRECTION $RECONCILER_FROM_IMAGE-$RECONCILER_TO_IMAGE"
        return {"command": ["sh", "-c", f"echo {name} {told} >> /data/log; {wait}; echo ended >> /data/log"]}

    def ran(name: str, direction: str, come: str, go: str) -> list[str]:
        return [f"{name} {direction} {come}-{go}", "ended"]

    def tasks(word: str, *states: str) -> bool:
        found = host.containers(everything=True)
        return any(f".{word}." in each.name and each.status in states for each in found)

    def in_shop(*command: str) -> str:
        (shop,) = (each for each in host.containers() if each.name.startswith("shop.1."))
        return str(shop.exec_run(list(command)).output.decode())

    health = {"http": "/healthz", "port": 8080, "interval": "1s", "min_healthy_time": "0.2s", "retries": 1}
    fields: dict[str, Any] = {"volumes": ["data:/data"], "ingress": None, "health": health}
    first_takes_long = task("before", 'test "$RECONCILER_FROM_IMAGE" || sleep 3')
    until_told = task("after", "until test -e /data/go; do sleep 0.1; done")
    fields |= {"before_deploy": first_takes_long, "after_deploy": until_told}
    first = host.deploy(**fields)
    host.start_agent()
    host.wait(lambda: tasks("before", "running"), what="before_deploy runs")
    host.stop_agent(signal.SIGKILL)
    host.start_agent()
    host.wait(lambda: tasks("after", "running"), what="after_deploy runs")
    host.stop_agent(signal.SIGKILL)
    host.start_agent()
    assert host.wait_reason("AfterDeploy")["sync"] == "OutOfSync"
    in_shop("touch", "/data/go")
    host.wait_synced(first, "shop")
    in_shop("busybox", "rm", "/data/go")
    host.deploy(image="shop:2", **fields)
    host.wait(lambda: tasks("after", "running"), what="after_deploy of the second version runs")
    host.stop_agent(signal.SIGKILL)
    in_shop("touch", "/data/go")
    host.wait(lambda: tasks("after", "exited"), what="it ends while nobody looks")
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    host.repository.revert()
    host.wait_synced(host.repository.head, "shop")
    host.containers()[0].remove(force=True)  # that it comes back is no deployment
    host.wait(host.containers, what="it is there again")
    host.wait_synced(host.repository.head, "shop")
    assert in_shop("cat", "/data/log").splitlines() == [
        *(*ran("before", "forward", "", "shop:1"), *ran("after", "forward", "", "shop:1")),
        *(*ran("before", "forward", "shop:1", "shop:2"), *ran("after", "forward", "shop:1", "shop:2")),
        *(*ran("before", "back", "shop:2", "shop:1"), *ran("after", "back", "shop:2", "shop:1")),
    ]
    assert not tasks("after", "created", "running", "exited")


# --- it starts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.stop()


class Systemd:
    """The other end of sd_notify. Reads all the time: the kernel keeps no more than ten messages for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._inlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inlet.bind(str(path))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while message := self._inlet.recv(65_536):
            self.heard += message.decode().splitlines()

    @property
    def status(self) -> str:
        """The newest."""
        return [line for line in self.heard if line.startswith("STATUS=")][-1].removeprefix("STATUS=")

    def stop(self) -> None:
        """An empty message is the last."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._reader.join()
        self._inlet.close()


def test_one_agent_for_each_host_that_tells_systemd_and_probes(host: Host, systemd: Systemd) -> None:
    host.environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "12000000"}
    host.settings["repository"]["interval"] = "10m"
    away = host.repository.bare.rename(host.repository.bare.with_name("away.git"))
    host.start_agent()
    assert host.get("/healthz", port=host.listen)[0] == 200
    code, body = host.get("/readyz", port=host.listen)
    assert code == 503
    host.wait(lambda: "GitRepositoryMissing" in str(host.status()), what="the remote was asked")
    assert "there is no Git repository" in host.get("/readyz", port=host.listen)[1], body
    away.rename(host.repository.bare)
    host.deploy()
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)  # it would ask again in ten minutes
    host.wait_synced(host.repository.head, "shop")
    assert host.get("/readyz", port=host.listen)[0] == 200
    fetches = host.metric('fetches_total{result="success"}') or 0
    host.process.send_signal(signal.SIGHUP)
    host.wait(lambda: (host.metric('fetches_total{result="success"}') or 0) > fetches, what="SIGHUP asks the remote")

    told = host.reconciler("run", expect=1)
    assert f"process {host.process.pid}" in told
    assert "systemctl stop reconciler" in told
    assert host.get("/healthz", port=host.listen)[0] == 200

    eventually(lambda: {"READY=1", "WATCHDOG=1"} <= set(systemd.heard), within=20, what="it said that it is up")
    eventually(lambda: systemd.status.startswith("converged"), within=20, what="it said that it has converged")
    host.stop_agent()
    eventually(lambda: "STOPPING=1" in systemd.heard, what="it said that it stops")
    # The names service heard nothing of systemd's, and lives on.
    pid = int((host.runtime / "names.pid").read_text())
    assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
    os.kill(pid, 0)
    assert host.serves() == "1"
    host.process = None


# --- it tells ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def prometheus(host: Host, tmp_path: Path) -> Iterator[Prometheus]:
    """One that scrapes the host's agent."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    prometheus = Prometheus(directory, [f"127.0.0.1:{host.listen}"])
    prometheus.start()
    yield prometheus
    prometheus.stop()


def test_prometheus_sees_deploys_failures_drift_and_rollbacks(  # noqa: PLR0915  (one life of one host)
    host: Host, prometheus: Prometheus
) -> None:
    def sees(value: float, series: str, **labels: str) -> None:
        selector = ", ".join(f'{name}="{word}"' for name, word in labels.items())
        expression = f"reconciler_{series}{{{selector}}}"
        host.wait(lambda: prometheus.value(expression) == value, what=f"{expression} is {value:g}")

    def at_least(value: float, expression: str) -> None:
        host.wait(lambda: (prometheus.value(expression) or 0) >= value, what=f"{expression} is at least {value:g}")

    host.commit({f"apps/{name}/app.yaml": host.manifest(name, replicas=2) for name in ("shop", "other")})
    first = host.repository.head
    host.start_agent()
    host.wait_synced(first, "shop", "other")
    sees(1, "app_sync_status", app="shop", status="Synced")
    sees(0, "app_sync_status", app="shop", status="OutOfSync")
    sees(1, "app_health_status", app="shop", status="Healthy")
    sees(1, "app_info", app="shop", revision=first, image="shop:1")
    for state in ("desired", "running", "healthy"):
        sees(2, "app_replicas", app="shop", state=state)
    sees(1, "deployments_total", app="shop", result="success")
    sees(0, "deployments_total", app="shop", result="failure")
    sees(0, "rollbacks_total", app="shop")
    sees(0, "drift_repairs_total", app="shop")
    sees(1, "lead_time_seconds_count", app="shop")
    sees(1, "convergence_seconds_count", app="shop")
    at_least(0.1, 'reconciler_convergence_seconds_sum{app="shop"}')
    at_least(1, "sum(reconciler_build_info)")
    at_least(1, 'reconciler_nginx_reloads_total{result="success"}')
    at_least(1, 'reconciler_cycles_total{result="converged"}')
    at_least(1, 'reconciler_fetches_total{result="success"}')
    at_least(10, 'sum(reconciler_phase_duration_seconds_count{phase="plan"})')
    at_least(100_000, 'reconciler_app_memory_bytes{app="shop"}')
    for stamp in ("heartbeat_timestamp_seconds", "last_fetch_timestamp_seconds"):
        host.wait(lambda stamp=stamp: 0 <= (prometheus.value(f"time() - reconciler_{stamp}") or -1) < 30, what=stamp)
    success = prometheus.value('reconciler_app_last_success_timestamp_seconds{app="shop"}')
    assert abs(time.time() - (success or 0)) < 120

    # A version that does not live.
    host.deploy(replicas=2, command=["false"])
    sees(1, "deployments_total", app="shop", result="failure")
    sees(1, "app_sync_status", app="shop", status="OutOfSync")
    sees(1, "app_health_status", app="shop", status="Healthy")
    sees(1, "app_info", app="shop", revision=first, image="shop:1")
    host.repository.revert()
    sees(1, "app_sync_status", app="shop", status="Synced")

    # An upgrade, and back.
    host.deploy(replicas=2, image="shop:2")
    host.wait_synced(host.repository.head, "shop")
    sees(2, "deployments_total", app="shop", result="success")
    host.repository.revert()
    sees(1, "rollbacks_total", app="shop")
    sees(3, "deployments_total", app="shop", result="success")
    sees(1, "deployments_total", app="other", result="success")

    # Drift.
    host.wait_synced(host.repository.head, "shop")
    for container in host.containers():
        container.remove(force=True)
    host.wait(lambda: (prometheus.value('reconciler_drift_repairs_total{app="shop"}') or 0) >= 1, what="drift")
    sees(2, "app_replicas", app="shop", state="healthy")
    at_least(1, 'reconciler_recovery_seconds_count{app="shop"}')

    # A slip, a person's decision, and an app that goes.
    host.deploy(replicas="many")
    sees(1, "manifest_problems", app="shop")
    host.repository.revert()
    host.reconciler("suspend", "shop")
    sees(1, "app_suspended", app="shop")
    sees(1, "app_health_status", app="shop", status="Suspended")
    host.reconciler("resume", "shop")
    sees(0, "app_suspended", app="shop")
    host.commit({"apps/other/app.yaml": None})
    gone = 'count({__name__=~"reconciler_.*", app="other"})'
    host.wait(lambda: prometheus.value(gone) is None, what="the series of other go with it")
    host.commit({"apps/shop/app.yaml": None})
    sees(1, "prune_blocked")
    assert prometheus.targets()[0]["lastError"] == ""
