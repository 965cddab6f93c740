from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.world.notify import Notifier


class Systemd:
    """The other end: what systemd would read."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def hears(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")

    def silence(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(65536)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """NOTIFY_SOCKET in both forms that systemd uses."""
    return f"@reconciler-test-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "notify")


@pytest.fixture
def systemd(place: str) -> Iterator[Systemd]:
    end = Systemd("\0" + place[1:] if place.startswith("@") else place)
    yield end
    end.socket.close()


def test_systemd_hears_the_whole_life_of_an_agent(systemd: Systemd, place: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_period == 30.0
    notifier.ready("3 apps in sync")
    assert systemd.hears() == ["READY=1", "STATUS=3 apps in sync"]
    notifier.status("converged at 3fa9c2d1")
    assert systemd.hears() == ["STATUS=converged at 3fa9c2d1"]
    notifier.watchdog()
    assert systemd.hears() == ["WATCHDOG=1"]
    notifier.stopping("SIGTERM")
    assert systemd.hears() == ["STOPPING=1", "STATUS=SIGTERM"]


def test_a_status_is_one_line_whatever_an_app_writes(systemd: Systemd, place: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": place})
    notifier.status("shop failed\nREADY=1\nMAINPID=1 " + "x" * 10_000)
    (line,) = systemd.hears()
    assert line.startswith("STATUS=shop failed READY=1 MAINPID=1 xxx")
    assert len(line) < 600
    notifier.status("odd \udcff bytes")
    assert systemd.hears() == ["STATUS=odd ? bytes"]


@pytest.mark.parametrize("settings", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_meant_for_us_is_not_fed(systemd: Systemd, place: str, settings: dict[str, str]) -> None:
    notifier = Notifier(
        {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())} | settings
    )
    if not settings:
        assert notifier.watchdog_period == 1.0
        return
    assert notifier.watchdog_period is None
    notifier.watchdog()
    assert systemd.silence()


def test_a_watchdog_without_a_pid_is_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "500000"}).watchdog_period == 0.5


def test_children_do_not_inherit_our_voice() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    Notifier(environment)
    assert environment == {"PATH": "/bin"}


def everything(notifier: Notifier) -> None:
    notifier.ready("up")
    notifier.status("fine")
    notifier.watchdog()
    notifier.stopping()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_without_a_socket_nothing_happens(address: str) -> None:
    everything(Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}))


def test_a_systemd_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    everything(Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000"}))
    Systemd(str(tmp_path / "stale")).socket.close()
    everything(Notifier({"NOTIFY_SOCKET": str(tmp_path / "stale")}))


def test_a_systemd_that_does_not_read_holds_us_up_for_a_second_at_most(tmp_path: Path) -> None:
    end = Systemd(str(tmp_path / "full"))
    with end.socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                filler.sendto(b"x", str(tmp_path / "full"))
        before = time.monotonic()
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})
        notifier.status("converged")
        assert time.monotonic() - before < 5
        while not end.silence():
            pass
        notifier.watchdog()  # what it did not take is said again, and then no more
        end.socket.settimeout(5)
        assert end.hears() == ["STATUS=converged"]
        notifier.watchdog()
        notifier.status("converged")
        assert end.silence()
