"""Outages in the shapes that ``test_faults.py`` has not: the old version serves on, and what is mended converges."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness.disks import small_disk
from harness.git import run_git
from harness.host import Host

OLD = (200, "1")
NEW = (200, "2")


def begin(host: Host) -> None:
    """Bring shop up at version 1."""
    host.deploy()
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    assert host.get("/version") == OLD


def wait_converged(host: Host, answer: tuple[int, str], within: float = 60.0) -> None:
    host.wait_synced(host.repository.head, "shop", within=within)
    host.wait(lambda: host.get("/version") == answer, what=f"{answer} is served")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="nothing is left to do")
    assert (host.status() or {})["faults"] == []


def names_pid(host: Host) -> int:
    return int((host.runtime / "names.pid").read_text())


# --- Git --------------------------------------------------------------------------------------------------------------


def test_a_branch_that_is_gone_and_one_that_is_set_back(host: Host) -> None:
    host.commit({"README.md": "hello"}, "before any app")
    begin(host)
    tip = host.repository.head
    with host.visitors() as failures:
        run_git(host.repository.bare, "branch", "--move", "main", "kept")
        host.wait(lambda: host.fault("GitBranchMissing"), what="the fault is named")
        assert "main" in host.fault("GitBranchMissing")
        assert host.app()["sync"] == "Synced"
        assert host.get("/version") == OLD
        run_git(host.repository.bare, "branch", "--move", "kept", "main")
        wait_converged(host, OLD)

        # A forced push back to a time before the app would remove it.
        host.repository.rewind()
        host.wait(lambda: host.fault("HistoryRewritten"), what="it is refused")
        assert f"reconciler accept {host.repository.head[:12]}" in host.fault("HistoryRewritten")
        assert (host.status() or {})["commit"]["sha"] == tip
        assert host.get("/version") == OLD
        # Whoever set it back by mistake pushes on top of what was there, and nobody has to accept anything.
        host.repository.git("reset", "-q", "--hard", tip)
        host.repository.commit({"apps/shop/app.yaml": host.manifest(image="shop:2")})
        wait_converged(host, NEW)
    assert failures == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_names_service_comes_back_with_and_without_a_commit(host: Host) -> None:
    begin(host)
    with host.visitors(threads=2) as failures:
        killed = names_pid(host)
        os.kill(killed, signal.SIGKILL)
        host.wait(lambda: names_pid(host) != killed, what="it is started again though nothing changes")
        assert host.get("/version") == OLD
        # A new address is asked of the new process.
        host.deploy(image="shop:2")
        wait_converged(host, NEW)

        # Killed while nobody looks: whoever starts next mends it.
        host.stop_agent()
        killed = names_pid(host)
        os.kill(killed, signal.SIGKILL)
        host.start_agent()
        host.wait(lambda: names_pid(host) != killed, what="the next agent starts it")
        wait_converged(host, NEW)
    assert failures == []


def test_a_names_service_that_hangs_is_replaced(host: Host) -> None:
    begin(host)
    with host.visitors(threads=2) as failures:
        hung = names_pid(host)
        os.kill(hung, signal.SIGSTOP)
        host.wait(lambda: names_pid(host) != hung, what="it is replaced")
        host.wait(lambda: not Path(f"/proc/{hung}").exists(), what="the hung one is gone")
        assert f"dnsmasq (process {hung}) does not answer what is written: it is restarted" in host.log.read_text()
        wait_converged(host, OLD)
        host.deploy(image="shop:2")
        wait_converged(host, NEW)
    assert failures == []


# --- disks ------------------------------------------------------------------------------------------------------------


def test_a_runtime_disk_that_is_full_keeps_a_new_secret_out(host: Host) -> None:
    secrets = {"file": "secrets.sops.yaml"}

    def deploy(version: int) -> None:
        host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image=f"shop:{version}", secrets=secrets),
                "apps/shop/secrets.sops.yaml": host.smith.yaml({"password": f"s3cret-{version}"}),
            }
        )

    def secret() -> str:
        return host.get("/cgi-bin/show")[1].rpartition("file_secret=")[2].strip()

    with small_disk(host.runtime) as disk:
        deploy(1)
        host.start_agent()
        host.wait_synced(host.repository.head, "shop")
        assert secret() == "s3cret-1"
        with host.visitors() as failures:
            disk.fill()
            deploy(2)
            host.wait(lambda: host.app()["reason"] == "DiskFull" or host.fault("DiskFull"), what="the disk is named")
            told = host.fault("DiskFull") or host.app()["message"]
            assert str(host.runtime) in told
            assert host.get("/version") == OLD
            assert secret() == "s3cret-1"
            disk.free()
            wait_converged(host, NEW)
            assert secret() == "s3cret-2"
        assert failures == []
        host.stop_agent()
        for container in host.containers(everything=True):
            container.remove(force=True)
        os.kill(names_pid(host), signal.SIGKILL)
