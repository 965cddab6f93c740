"""A real dnsmasq."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.types
import pytest
from harness.disks import SmallDisk
from harness.engine import PrivateEngine
from harness.names import UPSTREAM, NamesLab, bridge
from harness.waiting import eventually

from reconciler.core import dns, slots
from reconciler.core.observed import NameState
from reconciler.errors import InvalidInput, Unavailable
from reconciler.settings import NamesService
from reconciler.world.names import DnsmasqNames


@pytest.fixture
def lab() -> Iterator[NamesLab]:
    lab = NamesLab()
    try:
        yield lab
    finally:
        lab.destroy()


@pytest.fixture
def up(lab: NamesLab) -> NamesLab:
    lab.names.start()
    return lab


@pytest.fixture
def outside() -> Iterator[str]:
    """A resolver of the host that knows one outside name."""
    process = subprocess.Popen(
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--listen-address=127.0.77.1",
            "--bind-interfaces",
            "--pid-file=",
            "--log-facility=-",
            "--address=/outside.example.com/192.0.2.7",
        ],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: ask("outside.example.com", "127.0.77.1", recurse=True) == ("192.0.2.7",))
    try:
        yield "127.0.77.1"
    finally:
        process.kill()
        process.wait()


def ask(name: str, server: str, *, recurse: bool = False) -> tuple[str, ...] | None:
    """The addresses that a server answers; None when it refuses or does not know the name."""
    packet = bytearray(dns.question(1, name))
    packet[2] |= recurse
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(2)
        channel.sendto(packet, (server, 53))
        reply = channel.recv(4096)
    answer = dns.answer(reply)
    assert answer is not None
    return None if reply[3] & 15 else answer.addresses


# --- writing and answering ---


def test_a_name_is_answered_with_its_addresses_in_the_planners_order(up: NamesLab) -> None:
    before = time.time()
    up.switch("shop", "10.0.0.9", "10.0.0.10")
    state = up.names.observe(["shop", "other"])
    assert state.up_since is not None
    assert state.names["shop"].written == state.names["shop"].answered == ("10.0.0.10", "10.0.0.9")
    assert before - 0.1 <= state.names["shop"].written_at <= time.time()
    assert state.names["other"] == NameState((), 0.0, ())


def test_a_name_can_be_switched_emptied_and_forgotten(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    up.switch("shop", "10.0.0.2", "10.0.0.3")
    first = up.names.observe(()).names["shop"].written_at
    up.switch("shop")
    emptied = up.names.observe(()).names["shop"]
    assert emptied.written == emptied.answered == ()
    assert emptied.written_at >= first
    assert ask("shop", up.gateway) is None
    up.names.forget("shop")
    assert up.names.observe(()).names == {}
    up.names.forget("shop")


def test_it_says_since_when_an_answer_is_the_one_that_is_written(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    first = up.names.observe(()).names["shop"]
    assert first.written_at <= first.answered_since <= time.time()
    assert up.names.observe(()).names["shop"].answered_since == first.answered_since
    up.switch("shop", "10.0.0.2")
    assert up.names.observe(()).names["shop"].answered_since > first.answered_since


def test_a_clock_that_goes_back_leaves_no_answer_that_is_of_tomorrow(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    tomorrow = time.time() + 86_400
    os.utime(up.directory / "shop", (tomorrow, tomorrow))
    agent = up.another_agent()
    assert agent.observe(()).names["shop"].answered_since == pytest.approx(tomorrow, abs=1)
    agent.set("shop", ["10.0.0.1"])
    assert agent.observe(()).names["shop"].answered_since <= time.time()


def test_the_same_addresses_again_are_no_change(up: NamesLab) -> None:
    up.names.set("shop", ["10.0.0.1", "10.0.0.2"])
    before = up.names.observe(()).names["shop"].written_at
    up.names.set("shop", ["10.0.0.2", "10.0.0.1"])
    assert up.names.observe(()).names["shop"].written_at == before


def test_as_many_addresses_as_an_app_can_have(up: NamesLab) -> None:
    up.switch("shop", *(f"10.9.0.{number}" for number in range(1, 101)))


def test_hundreds_of_names_are_asked_over_one_socket_in_no_time(up: NamesLab) -> None:
    names = {f"app-{number}": (f"10.1.{number // 250}.{number % 250}",) for number in range(300)}
    for name, addresses in names.items():
        up.names.set(name, addresses)
    eventually(lambda: all(s.answered == names[n] for n, s in up.names.observe(()).names.items()))
    began = time.process_time()
    state = up.names.observe(())
    assert time.process_time() - began < 0.2
    assert {name: state.answered for name, state in state.names.items()} == names


def test_no_half_written_file_is_ever_answered(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    (up.directory / ".shop").write_text("10.9.9.9 shop\n")
    (up.directory / ".evil").write_text("10.9.9.9 evil\n")
    up.switch("other", "10.0.0.2")
    assert ask("shop", up.gateway) == ("10.0.0.1",)
    assert ask("evil", up.gateway) is None
    assert up.names.observe(()).names.keys() == {"shop", "other"}


def test_a_file_that_somebody_edited_counts_as_not_written(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    (up.directory / "shop").write_text("10.0.0.1 shop bank\n")
    assert up.names.observe(()).names["shop"].written == ()
    up.switch("shop", "10.0.0.1")
    assert eventually(lambda: ask("bank", up.gateway) is None)


@pytest.mark.parametrize("name", ["", "..", "../x", ".hidden", "a b", "a\n", "A", "a.b", "x~", "a" * 41])
def test_what_is_no_name_is_refused(lab: NamesLab, name: str) -> None:
    with pytest.raises(InvalidInput):
        lab.names.set(name, ["10.0.0.1"])
    with pytest.raises(InvalidInput):
        lab.names.forget(name)


@pytest.mark.parametrize("address", ["", "10.0.0", "10.0.0.1 bank", "::1", "10.0.0.1\n"])
def test_what_is_no_address_is_refused(lab: NamesLab, address: str) -> None:
    with pytest.raises(InvalidInput):
        lab.names.set("shop", [address])


def test_a_full_disk_leaves_the_name_as_it_is(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", "256k")
    names = DnsmasqNames(disk.path / "names", "127.0.53.1", NamesService(), tmp_path / "pid")
    try:
        names.set("shop", ["10.0.0.1"])
        disk.fill()
        with pytest.raises(Unavailable, match="addresses of shop cannot be written") as caught:
            names.set("shop", ["10.0.0.2"])
        assert caught.value.reason == "DiskFull"
        assert names.observe(()).names["shop"].written == ("10.0.0.1",)
        assert [file.name for file in (disk.path / "names").iterdir()] == ["shop"]
        disk.free()
        names.set("shop", ["10.0.0.2"])
    finally:
        disk.unmount()


# --- what leaves the host ---


def test_outside_names_go_on_to_the_hosts_resolvers_and_plain_names_do_not(outside: str) -> None:
    lab = NamesLab(service=NamesService(upstream=(outside,)))
    try:
        lab.names.start()
        assert ask("outside.example.com", lab.gateway, recurse=True) == ("192.0.2.7",)
        assert ask("nobody", lab.gateway, recurse=True) is None
    finally:
        lab.destroy()


def test_a_host_whose_resolver_is_ourselves_makes_no_loop() -> None:
    lab = NamesLab(service=NamesService(upstream=("127.0.53.1",)))
    try:
        lab.names.start()
        assert ask("outside.example.com", lab.gateway, recurse=True) is None
        log = lab.pidfile.with_suffix(".log").read_text()
        assert "ignoring nameserver" in log or "query loop detected" in log
    finally:
        lab.destroy()


def test_an_upstream_that_is_no_address_is_refused(tmp_path: Path) -> None:
    names = DnsmasqNames(tmp_path, "127.0.53.1", NamesService(upstream=("127.0.0.1 --user=root",)), tmp_path / "pid")
    with pytest.raises(InvalidInput):
        names.argv()


# --- the process ---


def test_nobody_there_is_seen(lab: NamesLab) -> None:
    lab.names.set("shop", ["10.0.0.1"])
    state = lab.names.observe(["shop"])
    assert state.up_since is None
    assert state.names["shop"].written == ("10.0.0.1",)
    assert state.names["shop"].answered is None


def test_a_bridge_that_is_not_there_is_seen_and_may_come_later() -> None:
    lab = NamesLab(gateway="10.213.7.1")
    try:
        lab.names.set("shop", ["10.0.0.1"])
        lab.names.start()
        assert lab.names.observe(()).up_since is None
        with bridge(lab.gateway):
            assert eventually(lambda: lab.names.observe(()).names["shop"].answered) == ("10.0.0.1",)
    finally:
        lab.destroy()


def test_it_says_since_when_it_is_up(up: NamesLab) -> None:
    now = time.time()
    since = up.names.observe(()).up_since
    assert since is not None
    assert now - 5 < since < now + 0.1


def test_it_gives_up_root(up: NamesLab) -> None:
    status = Path(f"/proc/{up.pid()}/status").read_text()
    assert "\nUid:\t0\t" not in status


def test_it_keeps_root_where_its_own_user_could_not_reach_the_names(lab: NamesLab) -> None:
    lab.root.chmod(0o700)
    lab.names.start()
    lab.switch("shop", "10.0.0.1")
    assert "\nUid:\t0\t" in Path(f"/proc/{lab.pid()}/status").read_text()


def test_starting_again_changes_nothing(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    pid = up.pid()
    up.another_agent().start()
    assert up.pid() == pid


def test_a_lost_pid_file_is_written_again(up: NamesLab) -> None:
    pid = up.pid()
    up.pidfile.unlink()
    assert up.names.observe(()).up_since is None
    up.another_agent().start()
    assert up.pid() == pid
    assert up.names.observe(()).up_since is not None


def test_a_pid_file_that_names_another_process_harms_nobody(lab: NamesLab) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        lab.names.prepare()
        lab.pidfile.write_text(f"{bystander.pid}\n")
        lab.names.start()
        assert lab.pid() != bystander.pid
        assert bystander.poll() is None
        bystander.kill()


def test_a_process_that_only_looks_like_ours_is_let_live(lab: NamesLab) -> None:
    sleep = ["-c", "import time; time.sleep(60)", f"--hostsdir={lab.directory}"]
    with subprocess.Popen(["dnsmasq", *sleep], executable=sys.executable) as bystander:
        lab.names.prepare()
        lab.pidfile.write_text(f"{bystander.pid}\n")
        lab.names.start()
        assert lab.pid() != bystander.pid
        assert bystander.poll() is None
        bystander.kill()


def test_one_whose_program_was_upgraded_under_it_is_still_ours(tmp_path: Path) -> None:
    installed = shutil.which("dnsmasq")
    assert installed
    program = tmp_path / "dnsmasq"
    shutil.copy(installed, program)
    lab = NamesLab(service=NamesService(command=str(program)))
    try:
        lab.names.start()
        pid = lab.pid()
        program.unlink()
        lab.names.start()
        assert lab.pid() == pid
        assert lab.names.observe(()).up_since is not None
    finally:
        lab.destroy()


def test_ours_is_known_where_we_may_not_trace_others(up: NamesLab) -> None:
    """As under systemd: the agent is root without that capability, and dnsmasq has another user."""
    code = (
        "import os, sys; from reconciler.world.names import processes\n"
        "try: os.readlink(f'/proc/{sys.argv[1]}/exe')\n"
        "except PermissionError: print(processes.program(int(sys.argv[1])))\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c", code, str(up.pid())],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "dnsmasq\n"


def test_a_dead_one_is_started_and_knows_everything(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    up.kill()
    assert up.names.observe(()).names["shop"].answered is None
    up.names.start()
    assert up.names.observe(()).names["shop"].answered == ("10.0.0.1",)


def test_a_killed_one_whose_child_keeps_the_port_is_started() -> None:
    with bridge("10.213.9.1"):
        lab = NamesLab(gateway="10.213.9.1")
        try:
            lab.names.start()
            with socket.create_connection((lab.gateway, 53), timeout=5):
                eventually(lambda: len(lab.processes()) == 2, what="a child serves the connection")
                os.kill(lab.pid(), signal.SIGKILL)
                eventually(lambda: lab.names.observe(()).up_since is None)
                assert len(lab.processes()) == 1
                lab.names.start()
            assert lab.names.observe(()).up_since is not None
        finally:
            lab.destroy()


def test_one_that_hangs_is_replaced(up: NamesLab) -> None:
    pid = up.pid()
    os.kill(pid, signal.SIGSTOP)
    assert up.names.observe(["shop"]).up_since is None
    up.names.start()
    assert up.pid() != pid
    assert up.names.observe(()).up_since is not None


def test_a_blind_one_is_seen_and_replaced(up: NamesLab) -> None:
    up.switch("shop", "10.0.0.1")
    pid = up.pid()
    shutil.rmtree(up.directory)
    up.names.set("shop", ["10.0.0.2"])
    time.sleep(0.3)
    state = up.names.observe(())
    assert state.names["shop"].written != state.names["shop"].answered
    up.names.start()
    assert up.pid() != pid
    assert up.names.observe(()).names["shop"].answered == ("10.0.0.2",)


def test_a_port_that_somebody_has_is_named_with_its_holder(lab: NamesLab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((lab.gateway, 53))
        with pytest.raises(Unavailable, match=rf"port 53: .* \(process {os.getpid()}\) does") as caught:
            lab.names.start()
    assert caught.value.reason == "NamesPortTaken"
    lab.names.start()


def test_a_command_that_is_not_there_is_said(lab: NamesLab) -> None:
    names = DnsmasqNames(lab.directory, lab.gateway, NamesService(command="no-such-dnsmasq"), lab.pidfile)
    with pytest.raises(Unavailable, match="no-such-dnsmasq"):
        names.start()


def test_a_command_that_fails_is_said_in_its_own_words(lab: NamesLab) -> None:
    lab.pidfile.mkdir(parents=True)
    with pytest.raises(Unavailable, match=r"does not start: .*failed to open pidfile .*dnsmasq\.pid") as caught:
        lab.names.start()
    assert caught.value.reason == "NamesFailed"


# --- systemd's way ---


def test_where_systemd_starts_it_we_do_not(lab: NamesLab) -> None:
    names = DnsmasqNames(lab.directory, lab.gateway, NamesService(start=False), lab.pidfile)
    with pytest.raises(Unavailable, match="systemctl restart reconciler-names") as caught:
        names.start()
    assert caught.value.reason == "NamesDown"


def test_where_systemd_starts_it_a_blind_one_is_ended_so_that_it_comes_back(lab: NamesLab) -> None:
    names = DnsmasqNames(lab.directory, lab.gateway, NamesService(start=False, upstream=UPSTREAM), lab.pidfile)
    names.prepare()
    script = 'while :; do "$@"; sleep 0.1; done'
    with subprocess.Popen(
        ["sh", "-c", script, "supervisor", *names.argv()], stderr=subprocess.DEVNULL, start_new_session=True
    ) as supervisor:
        try:
            eventually(lambda: names.observe(()).up_since)
            names.set("shop", ["10.0.0.1"])
            eventually(lambda: names.observe(()).names["shop"].answered == ("10.0.0.1",))
            names.start()
            pid = lab.pid()
            shutil.rmtree(lab.directory)
            names.set("shop", ["10.0.0.2"])
            names.start()
            assert lab.pid() != pid
            assert eventually(lambda: names.observe(()).names["shop"].answered) == ("10.0.0.2",)
        finally:
            os.killpg(supervisor.pid, signal.SIGKILL)


# --- for apps ---


@pytest.fixture
def network(engine: PrivateEngine) -> Iterator[str]:
    """The gateway of a network called ``names-test``."""
    client = engine.client()
    pool = docker.types.IPAMPool(subnet="10.212.0.0/24", gateway="10.212.0.1")
    network = client.networks.create("names-test", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    try:
        yield "10.212.0.1"
    finally:
        network.remove()
        client.close()


def test_apps_look_names_up_through_docker_and_the_service_outlives_who_started_it(
    engine: PrivateEngine, network: str, outside: str
) -> None:
    image = engine.import_image("names:1")
    lab = NamesLab(gateway=network, service=NamesService(upstream=(outside,)))
    client = engine.client()
    container = client.containers.run(
        image, ["sleep", "300"], network="names-test", dns=[network], detach=True, init=True
    )
    try:
        agent = (
            "import sys; from pathlib import Path; from reconciler.settings import NamesService\n"
            "from reconciler.world.names import DnsmasqNames\n"
            "directory, gateway, upstream, pidfile = sys.argv[1:]\n"
            "names = DnsmasqNames(Path(directory), gateway, NamesService(upstream=(upstream,)), Path(pidfile))\n"
            "names.set('api', ['10.212.0.77']); names.start()\n"
        )
        arguments = [str(lab.directory), network, outside, str(lab.pidfile)]
        path = os.pathsep.join(sys.path)
        subprocess.run(
            [sys.executable, "-c", agent, *arguments], check=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
        )

        def look_up(name: str) -> str:
            output = container.exec_run(["nslookup", name]).output
            assert isinstance(output, bytes)
            return output.decode()

        assert "10.212.0.77" in look_up("api")
        assert "192.0.2.7" in look_up("outside.example.com")
        assert "NXDOMAIN" in look_up("nobody")
        lab.names.set("api", ["10.212.0.78"])
        assert eventually(lambda: "10.212.0.78" in look_up("api"))
    finally:
        container.remove(force=True)
        client.close()
        lab.destroy()


def test_slots_are_names_too_and_one_that_no_app_has_is_not_asked_for_outside(lab: NamesLab, outside: str) -> None:
    lab.service = NamesService(upstream=(outside,))
    lab.names = lab.another_agent()
    lab.names.start()
    for name in ("shop", *slots.names_of("shop")):
        lab.switch(name, "10.0.0.1")
    lab.switch("shop_3", "10.0.0.2", "10.0.0.1")
    assert ask("shop_3", lab.gateway) == ("10.0.0.1", "10.0.0.2")
    assert ask("shop_1", lab.gateway) == ("10.0.0.1",)
    assert lab.names.observe(()).names.keys() == {"shop", *slots.names_of("shop")}
    lab.names.forget("shop_3")
    eventually(lambda: lab.names.observe(["shop_3"]).names["shop_3"].answered == ())
    assert ask("shop_3", lab.gateway) in {(), None}
    for bad in ("shop_0", "shop_8", "../shop_1", "_1"):
        with pytest.raises(InvalidInput):
            lab.names.set(bad, ["10.0.0.1"])
