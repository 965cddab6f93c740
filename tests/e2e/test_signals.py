"""What the agent owes to whoever sends it signals, supervises it, or measures it; every part is the real one."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.git import SshServer, StallServer, processes
from harness.host import Host
from harness.prometheus import Prometheus

STOP_WITHIN = 5.0
"""Seconds that SIGTERM may take: what is promised."""


# --- SIGTERM ----------------------------------------------------------------------------------------------------------


def test_sigterm_while_idle(host: Host) -> None:
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    process = host.process
    assert process is not None
    assert host.stop_agent() < STOP_WITHIN
    assert process.returncode == 0
    assert host.serves() == "1"  # apps do not need it


def test_sigterm_while_an_app_takes_its_time_to_stop(host: Host) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; exec httpd -f -p 8080 -h /www"]
    host.deploy(command=stubborn, stop_grace_period="30s")
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    old = host.containers()[0]
    host.deploy(image="shop:2")
    host.wait(lambda: " is stopped and removed: " in host.app()["message"], what="the stop has begun")
    assert host.stop_agent() < STOP_WITHIN
    old.reload()
    assert old.status == "running", "it had ended already, so nothing was in the agent's way"
    old.kill()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    assert [container.image.tags for container in host.containers(everything=True)] == [["shop:2"]]


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_sigterm_while_git_waits_for_a_server_that_says_nothing(
    host: Host, scheme: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    host.stop_agent()

    server: SshServer | StallServer
    if scheme == "http":
        server = StallServer()
        url = f"http://127.0.0.1:{server.port}/config.git"
        host.settings["repository"]["url"] = url
    else:
        server = SshServer(tmp_path / "ssh", free_port(), stall=True)
        url = server.url(host.repository.bare)
        host.settings["repository"] |= {
            "url": url,
            "ssh_key": str(server.key),
            "known_hosts": str(server.known_hosts),
        }
    try:
        host.start_agent()
        host.wait(lambda: processes(f" {url}"), what="git asks the server")
        assert host.stop_agent() < STOP_WITHIN
        assert host.serves() == "1"
    finally:
        server.stop()


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


def test_sigkill_in_the_middle_of_a_rollout(host: Host) -> None:
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    with host.visitors(threads=2) as failures:
        host.deploy(image="shop:2")
        host.wait(lambda: len(host.containers(everything=True)) == 2, what="the new one beside the old one")
        host.stop_agent(signal.SIGKILL)
        assert len(host.containers(everything=True)) == 2, "the rollout was over: nothing was interrupted"
        host.start_agent()
        host.wait_synced(host.repository.head, "shop")
        host.wait(lambda: host.serves() == "2", what="the new version")
    assert failures == []
    assert [container.image.tags for container in host.containers(everything=True)] == [["shop:2"]]


# --- one agent for each host, and its supervisor ----------------------------------------------------------------------


def test_a_second_agent_is_refused_and_told_which_process_runs(host: Host) -> None:
    host.start_agent()
    assert host.process is not None
    assert f"process {host.process.pid}" in host.reconciler("run", expect=1)
    assert host.process.poll() is None
    assert host.status() is not None
    # A killed one bars nobody.
    host.stop_agent(signal.SIGKILL)
    host.start_agent()


@pytest.fixture
def notify(host: Host, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """A socket as systemd has it, told to the agent; answers every datagram so far."""
    path = tmp_path / "notify"
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inlet:
        inlet.bind(str(path))
        inlet.setblocking(False)
        host.environment["NOTIFY_SOCKET"] = str(path)

        def datagrams() -> list[str]:
            while True:
                try:
                    heard.append(inlet.recv(65_536).decode())
                except BlockingIOError:
                    return heard

        yield datagrams


def test_systemd_hears_the_beginning_and_the_end(host: Host, notify: Callable[[], list[str]]) -> None:
    def told(word: str) -> list[int]:
        return [number for number, datagram in enumerate(notify()) if word in datagram.splitlines()]

    host.deploy()
    host.launch_agent()
    host.wait(lambda: told("READY=1"), what="READY=1")
    assert host.status() is not None  # ready means that it answers
    host.wait_synced(host.repository.head, "shop")
    assert told("STOPPING=1") == []
    host.stop_agent()
    assert len(told("READY=1")) == len(told("STOPPING=1")) == 1
    assert told("READY=1") < told("STOPPING=1")


# --- Prometheus -------------------------------------------------------------------------------------------------------


@pytest.fixture
def prometheus(host: Host, tmp_path: Path) -> Iterator[Prometheus]:
    """A real one that scrapes the host's agent."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    prometheus = Prometheus(directory, [f"127.0.0.1:{host.listen}"])
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.stop()


def test_prometheus_counts_each_thing_once(host: Host, prometheus: Prometheus) -> None:
    def told(series: str) -> float | None:
        return prometheus.value(f"reconciler_{series}")

    def sees(**expected: int) -> None:
        """Wait until these counters have come, then look at all of them: nothing else may have moved."""
        counters = {
            "success": 'deployments_total{app="shop", result="success"}',
            "failure": 'deployments_total{app="shop", result="failure"}',
            "repairs": 'drift_repairs_total{app="shop"}',
            "rollbacks": 'rollbacks_total{app="shop"}',
            "lead_times": 'lead_time_seconds_count{app="shop"}',
        }
        host.wait(
            lambda: {name: told(series) for name, series in counters.items()} == expected,
            what=f"Prometheus finds {expected}",
        )

    def sync_is(status: str) -> None:
        series = 'app_sync_status{app="shop"} == 1'
        host.wait(
            lambda: [each.labels["status"] for each in prometheus.query(f"reconciler_{series}")] == [status],
            what=f"Prometheus finds {status}",
        )

    began = time.time()
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    sees(success=1, failure=0, repairs=0, rollbacks=0, lead_times=1)
    sync_is("Synced")
    assert 0 < (told('lead_time_seconds_sum{app="shop"}') or 0) < time.time() - began + 1  # Git knows whole seconds

    host.deploy(command=["false"])
    host.wait_reason("CrashLoop")
    host.wait(lambda: host.app()["health"] == "Healthy", what="the old version serves on, the new one is gone")
    sees(success=1, failure=1, repairs=0, rollbacks=0, lead_times=1)
    sync_is("OutOfSync")
    for path in ("/healthz", "/readyz"):  # a bad version is the team's trouble, not the agent's
        assert host.get(path, port=host.listen)[0] == 200, path

    host.deploy(image="shop:2")
    host.wait_synced(host.repository.head, "shop")
    sees(success=2, failure=1, repairs=0, rollbacks=0, lead_times=2)
    sync_is("Synced")

    host.containers()[0].remove(force=True)
    sees(success=2, failure=1, repairs=1, rollbacks=0, lead_times=2)
    host.wait(lambda: host.app()["health"] == "Healthy", what="it is mended")

    host.deploy(message="Back")
    host.wait_synced(host.repository.head, "shop")
    assert host.serves() == "1"
    sees(success=3, failure=1, repairs=1, rollbacks=1, lead_times=3)
    sync_is("Synced")
    assert 0 < (told('lead_time_seconds_sum{app="shop"}') or 0) < 3 * (time.time() - began + 1)
    for path in ("/healthz", "/readyz"):
        assert host.get(path, port=host.listen)[0] == 200, path
    assert [target["lastError"] for target in prometheus.targets()] == [""]
