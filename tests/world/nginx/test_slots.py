"""Requests that nginx deals out to slots: who gets how many, and what is told of them."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from harness.load import Load
from harness.names import NamesLab
from harness.nginx import PrivateNginx, Replica, app
from harness.waiting import eventually

from reconciler.core import slots
from reconciler.world.traffic import NginxTraffic

MakeReplica = Callable[[str, str], Replica]
SETTLED = 2.2
OLD, NEW = "127.0.1.1", "127.0.1.2"


@pytest.fixture
def shop(nginx: PrivateNginx, names: NamesLab, replica: MakeReplica) -> tuple[Replica, Replica]:
    """An old and a new replica; the name and all slots answer the old one."""
    both = replica(OLD, "old"), replica(NEW, "new")
    for name in ("shop", *slots.names_of("shop")):
        names.switch(name, OLD)
    nginx.load(app("shop"), app("other"), split={"shop"})
    eventually(lambda: {nginx.get("shop.example").status for _ in range(40)} == {200}, what="all slots are served")
    return both


@pytest.fixture
def traffic(nginx: PrivateNginx) -> Iterator[NginxTraffic]:
    made = NginxTraffic(nginx.root / "tally", lambda _: None)
    made.start()
    yield made
    made.stop()


def give(names: NamesLab, weight: int) -> None:
    """The new replica gets so many percent."""
    taken = slots.taken(weight)
    for place, slot in enumerate(slots.names_of("shop")):
        names.names.set(slot, [NEW if place in taken else OLD])


@pytest.mark.usefixtures("shop")
def test_a_share_of_the_requests_goes_to_the_new_one_without_a_reload_and_none_fails(
    nginx: PrivateNginx, names: NamesLab
) -> None:
    loaded = nginx.site.observe().loaded
    with Load(("127.0.0.1", nginx.http), "shop.example", keep_alive=True, clients=3) as load:
        give(names, 30)
        time.sleep(SETTLED)
        seen = Counter(nginx.get("shop.example", "/version").text for _ in range(400))
        give(names, 0)
        time.sleep(SETTLED)
        after = Counter(nginx.get("shop.example", "/version").text for _ in range(50))
    assert 70 < seen["new"] < 170  # 120, and five times its deviation
    assert seen["old"] + seen["new"] == 400
    assert after == {"old": 50}
    assert load.failures == []
    assert nginx.site.observe().loaded == loaded


def test_what_became_of_requests_is_told_of_split_apps_alone(
    shop: tuple[Replica, Replica], nginx: PrivateNginx, names: NamesLab, traffic: NginxTraffic
) -> None:
    names.switch("other", OLD)
    eventually(lambda: nginx.get("other.example").status == 200, within=10)
    traffic.watch({OLD, NEW})
    assert nginx.get("other.example", "/status/500").status == 500
    for path, status in (("/", 200), ("/status/503", 503), ("/status/404", 404), ("/break", 502)):
        assert nginx.get("shop.example", path).status == status
    # One more, where the connection that broke off was a kept one: then nginx tries twice.
    eventually(lambda: traffic.results()[OLD].requests >= 4, what="all are counted")
    first = traffic.results()[OLD]
    assert (first.requests, first.errors) in {(4, 2), (5, 3)}
    # One that refuses: its attempt counts as an error, and the client gets its answer from the other.
    for slot in slots.names_of("shop"):
        names.switch(slot, OLD, NEW)
    shop[1].stop()
    time.sleep(SETTLED)
    assert [nginx.get("shop.example").status for _ in range(20)] == [200] * 20
    eventually(lambda: traffic.results()[OLD].requests == first.requests + 20)
    refused = traffic.results()[NEW]
    assert refused.requests == refused.errors > 0
    traffic.watch(frozenset())
    assert [nginx.get("shop.example").status for _ in range(20)] == [200] * 20
    assert "syslog" not in (nginx.root / "error.log").read_text()  # nobody listens, and nginx does not try
    # The host's own log has everything, too.
    assert (nginx.root / "access.log").read_text().count("GET /break") == 1


@pytest.mark.usefixtures("shop")
def test_no_request_is_lost_when_slots_come_and_go(nginx: PrivateNginx) -> None:
    with Load(("127.0.0.1", nginx.http), "shop.example", keep_alive=False, clients=6) as load:
        for _ in range(3):
            nginx.load(app("shop"))
            time.sleep(0.1)
            nginx.load(app("shop"), split={"shop"})
            time.sleep(0.1)
    assert load.failures == []
    assert nginx.site.observe().slots == ({"shop"} if nginx.site.observe().resolve else set())


@pytest.mark.usefixtures("shop")
def test_an_agent_that_was_killed_or_does_not_read_holds_up_no_request(
    nginx: PrivateNginx, traffic: NginxTraffic
) -> None:
    place = nginx.root / "tally"
    place.mkdir()

    def slowest() -> float:
        took = []
        for _ in range(100):
            began = time.monotonic()
            assert nginx.get("shop.example").status == 200
            took.append(time.monotonic() - began)
        return sorted(took)[90]

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:  # takes some lines, and reads none
        hung.bind(str(place / "socket"))
        (place / "socket").chmod(0o666)
        assert slowest() < 0.5
    assert slowest() < 0.5  # the socket is there yet, and nobody has it
    nginx.load(app("shop"), split={"shop"})  # nginx loads and starts all the same
    nginx.kill()
    nginx.start()
    assert eventually(lambda: nginx.get("shop.example").status == 200)
    traffic.start()  # the next agent
    traffic.watch({OLD})
    before = traffic.results()[OLD].requests

    def heard() -> bool:
        nginx.get("shop.example")
        return traffic.results()[OLD].requests > before

    eventually(heard, what="nginx finds the new socket")
