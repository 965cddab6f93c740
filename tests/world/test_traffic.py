from __future__ import annotations

import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import eventually

from reconciler.core.observed import Traffic
from reconciler.world.traffic import NginxTraffic, attempts

HEAD = b"<190>Nov 21 19:21:11 reconciler: "


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "tally"


@pytest.fixture
def traffic(place: Path) -> Iterator[NginxTraffic]:
    made = NginxTraffic(place, lambda _: None)
    made.start()
    yield made
    made.stop()


def tell(place: Path, *lines: bytes) -> None:
    """As nginx does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nginx:
        nginx.connect(str(place / "socket"))
        for line in lines:
            nginx.send(line)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"10.0.0.1:80|200", [("10.0.0.1", 200)]),
        (b"10.0.0.1:80, 10.0.0.2:80|502, 200", [("10.0.0.1", 502), ("10.0.0.2", 200)]),
        (b"10.0.0.1:80 : 10.0.0.2:80|504 : 200", [("10.0.0.1", 504), ("10.0.0.2", 200)]),
        (b"reconciler.shop_1.80|502", [("", 502)]),
        (b"10.0.0.1:80|-", []),
        (b"-|-", []),
        (b"", []),
        (b"10.0.0.1:80", []),
        (b"10.0.0.1:80|2000", []),
        (b"\xff\xfe|\xff", []),
    ],
)
def test_each_attempt_of_a_request_counts_by_itself(line: bytes, found: list[tuple[str, int]]) -> None:
    assert attempts(HEAD + line) == found
    assert attempts(line) == []  # not ours


def test_answers_are_counted_by_address_from_when_it_is_watched(traffic: NginxTraffic, place: Path) -> None:
    before = time.time()
    traffic.watch({"10.0.0.1", "10.0.0.2"})
    lines = [b"10.0.0.1:80|200", b"10.0.0.1:80, 10.0.0.2:80|502, 500", b"10.0.0.9:80|200", b"10.0.0.2:80|-", b""]
    tell(place, *(HEAD + line for line in lines), HEAD + b"10.0.0.1:80|404")
    eventually(lambda: traffic.results()["10.0.0.1"].requests == 3)
    assert {a: (seen.requests, seen.errors) for a, seen in traffic.results().items()} == {
        "10.0.0.1": (3, 1),
        "10.0.0.2": (1, 1),
    }
    first = traffic.results()["10.0.0.1"]
    assert before <= first.since <= time.time()
    traffic.watch({"10.0.0.1", "10.0.0.3"})
    assert traffic.results()["10.0.0.1"] == first
    assert traffic.results().keys() == {"10.0.0.1", "10.0.0.3"}


def test_the_socket_is_there_only_while_somebody_is_watched(traffic: NginxTraffic, place: Path) -> None:
    assert not place.exists()
    for _ in range(2):
        traffic.watch({"10.0.0.1"})
        assert stat.S_IMODE((place / "socket").stat().st_mode) == 0o666  # whichever user nginx is
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
        traffic.watch(frozenset())
        assert not place.exists()
        assert traffic.results() == {}
    assert list(place.parent.iterdir()) == []


def test_an_empty_line_from_whomever_ends_nothing(traffic: NginxTraffic, place: Path) -> None:
    traffic.watch({"10.0.0.1"})
    tell(place, b"", HEAD + b"10.0.0.1:80|200")
    eventually(lambda: traffic.results()["10.0.0.1"].requests == 1)


def test_a_socket_that_somebody_removed_is_made_again_and_what_was_counted_stays(
    traffic: NginxTraffic, place: Path
) -> None:
    traffic.watch({"10.0.0.1"})
    tell(place, HEAD + b"10.0.0.1:80|200")
    eventually(lambda: traffic.results()["10.0.0.1"].requests == 1)
    shutil.rmtree(place)
    traffic.watch({"10.0.0.1"})
    tell(place, HEAD + b"10.0.0.1:80|200")
    eventually(lambda: traffic.results()["10.0.0.1"].requests == 2)


def test_whoever_only_looks_touches_nothing(place: Path) -> None:
    place.mkdir()
    onlooker = NginxTraffic(place, lambda _: None)
    onlooker.watch({"10.0.0.1"})
    assert onlooker.results() == {}
    onlooker.stop()
    assert place.exists()


def test_what_a_killed_agent_left_goes_at_the_start_and_counting_begins_anew(place: Path) -> None:
    place.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(place / "socket"))
    made = NginxTraffic(place, lambda _: None)
    made.start()
    assert not place.exists()
    try:
        made.watch({"10.0.0.1"})
        tell(place, HEAD + b"10.0.0.1:80|200")
        eventually(lambda: made.results()["10.0.0.1"] == Traffic(1, 0, made.results()["10.0.0.1"].since))
    finally:
        made.stop()
    assert not place.exists()


def test_errors_wake_the_loop_soon_and_many_answers_not_often(place: Path) -> None:
    woken: list[str] = []
    made = NginxTraffic(place, woken.append)
    made.start()
    try:
        made.watch({"10.0.0.1"})
        for _ in range(50):
            tell(place, HEAD + b"10.0.0.1:80|200")
        eventually(lambda: made.results()["10.0.0.1"].requests > 30)
        assert len(woken) == 1

        def fails() -> bool:
            tell(place, HEAD + b"10.0.0.1:80|500")
            return len(woken) > 1

        eventually(fails)
    finally:
        made.stop()


@pytest.mark.parametrize("place", ["/run/a b", "/run/a,b", "/run/" + "x" * 100, "relative"])
def test_a_place_that_nginx_could_not_take_is_none(place: str) -> None:
    made = NginxTraffic(Path(place), lambda _: None)
    assert made.directory == ""
    made.start()
    made.watch({"10.0.0.1"})
    assert made.results() == {}
    made.stop()


def test_a_place_that_cannot_be_made_costs_the_figures_and_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    made = NginxTraffic(tmp_path / "file" / "tally", lambda _: None)
    made.start()
    for _ in range(3):
        made.watch({"10.0.0.1"})
    assert made.results()["10.0.0.1"].requests == 0
    assert caplog.text.count("health alone decides") == 1
    made.stop()
