"""What clients see: a real nginx, a real dnsmasq, and apps at loopback addresses."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from harness.load import Load
from harness.names import NamesLab, bridge
from harness.nginx import PrivateNginx, Replica, app, certify
from harness.waiting import eventually

from reconciler.core.model import Ingress

MakeReplica = Callable[[str, str], Replica]
SHOP = pytest.mark.usefixtures("shop")
SETTLED = 2.2
"""Seconds after the answer until nobody uses the old one: nginx keeps an answer for up to two."""
WARM = 4.0
"""Seconds after the names service has come back until nginx has certainly asked it again."""


@pytest.fixture
def shop(nginx: PrivateNginx, names: NamesLab, replica: MakeReplica) -> Replica:
    """An app with one healthy replica."""
    one = replica("127.0.1.1", "one")
    names.switch("shop", one.address)
    nginx.load(app("shop"))
    eventually(lambda: nginx.get("shop.example").status == 200)
    return one


def is_asked(replica: Replica) -> bool:
    return replica.last_request > 0


def is_drained(replica: Replica) -> bool:
    return replica.connections() == 0


# --- deploys ---


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "one-shot"])
def test_a_deploy_reloads_nothing_and_no_request_fails(
    shop: Replica, nginx: PrivateNginx, names: NamesLab, replica: MakeReplica, *, keep_alive: bool
) -> None:
    loaded = nginx.site.observe().loaded
    old = shop
    with Load(("127.0.0.1", nginx.http), "shop.example", keep_alive=keep_alive) as load:
        for number in (2, 3):
            new = replica(f"127.0.1.{number}", str(number))
            names.switch("shop", new.address)
            switched = time.time()
            eventually(partial(is_asked, new), what="the new one is asked")
            time.sleep(max(0.0, switched + SETTLED - time.time()))
            after = time.time()
            eventually(partial(is_drained, old), what="the old one is drained")
            assert old.last_request < after
            old.stop()
            old = new
    assert load.failures == []
    assert load.report.total > 100
    assert nginx.site.observe().loaded == loaded


def test_a_name_that_comes_later_is_served_without_a_reload(
    nginx: PrivateNginx, names: NamesLab, replica: MakeReplica
) -> None:
    nginx.load(app("shop"))
    assert nginx.get("shop.example").status == 503
    names.switch("shop", replica("127.0.1.1", "one").address)
    assert eventually(lambda: nginx.get("shop.example").text == "one /", within=10)


def test_of_two_replicas_one_may_refuse(shop: Replica, nginx: PrivateNginx, names: NamesLab) -> None:
    names.switch("shop", shop.address, "127.0.1.9")
    time.sleep(SETTLED)
    assert [nginx.get("shop.example").status for _ in range(10)] == [200] * 10
    posts = [nginx.get("shop.example", method="POST", body=b"x").status for _ in range(10)]
    assert posts == [200] * 10  # a refused connection took nothing from the request


def test_many_replicas(nginx: PrivateNginx, replica: MakeReplica) -> None:
    """More addresses than fit into one UDP answer of 512 bytes; nginx asks again over TCP."""
    with bridge("10.213.8.1"):  # dnsmasq takes no TCP at an address of loopback that no interface has
        lab = NamesLab(gateway="10.213.8.1")
        try:
            lab.names.start()
            replica("127.0.1.50", "fifty")
            lab.switch("shop", *(f"127.0.1.{number}" for number in range(1, 101)))
            nginx.frontend = replace(nginx.frontend, resolver=lab.gateway)
            nginx.load(app("shop"))
            assert eventually(lambda: nginx.get("shop.example").text == "fifty /")
        finally:
            lab.destroy()


def test_a_dead_names_service_loses_nothing_and_switches_go_on_when_it_is_back(
    shop: Replica, nginx: PrivateNginx, names: NamesLab, replica: MakeReplica
) -> None:
    new = replica("127.0.1.2", "two")
    with Load(("127.0.0.1", nginx.http), "shop.example", keep_alive=True) as load:
        names.kill()
        time.sleep(1.5)
        names.names.set("shop", [new.address])
        names.names.start()
        back = time.time()
        eventually(partial(is_asked, new), within=10, what="the new one is asked")
        time.sleep(max(0.0, back + WARM - time.time()))
        after = time.time()
        eventually(partial(is_drained, shop), what="the old one is drained")
        assert shop.last_request < after
    assert load.failures == []


def test_a_killed_nginx_serves_again_as_soon_as_it_runs(shop: Replica, nginx: PrivateNginx) -> None:
    nginx.kill()
    nginx.start()
    eventually(lambda: nginx.get("shop.example").text == f"{shop.label} /", what="the first second may be a 503")


# --- what has no app, or no replica ---


@SHOP
def test_no_healthy_replica_is_a_plain_503(nginx: PrivateNginx, names: NamesLab) -> None:
    names.switch("shop")
    eventually(lambda: nginx.get("shop.example").status == 503)
    answer = nginx.get("shop.example")
    assert answer.text == "shop has no healthy replica right now\n"
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Server"] == "nginx"
    assert nginx.get("shop.example", method="POST", body=b"x").status == 503
    assert nginx.get("shop.example", method="HEAD").text == ""


def test_a_replica_that_refuses_is_a_plain_503(shop: Replica, nginx: PrivateNginx) -> None:
    shop.stop()
    answer = nginx.get("shop.example")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")


@SHOP
def test_an_address_without_a_host_is_a_plain_503(nginx: PrivateNginx, names: NamesLab) -> None:
    with socket.socket() as deaf:  # its queue is full, so that connecting hangs
        deaf.bind(("127.0.1.9", 8080))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.1.9", 8080))
        names.switch("shop", "127.0.1.9")
        time.sleep(SETTLED)
        began = time.monotonic()
        assert nginx.get("shop.example").status == 503
        assert time.monotonic() - began < 10
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("status", [404, 500, 502, 503, 504])
@SHOP
def test_what_the_app_answers_itself_passes_unchanged(nginx: PrivateNginx, status: int) -> None:
    answer = nginx.get("shop.example", f"/status/{status}")
    assert (answer.status, answer.text) == (status, f"the app's own {status}")
    assert "Retry-After" not in answer.headers


@SHOP
def test_an_answer_that_breaks_off_is_a_502_that_nobody_should_repeat(nginx: PrivateNginx) -> None:
    answer = nginx.get("shop.example", "/break")
    assert (answer.status, answer.text) == (502, "shop broke off its answer\n")
    assert "Retry-After" not in answer.headers


@SHOP
def test_a_host_that_no_app_has_is_a_plain_404(nginx: PrivateNginx) -> None:
    for host in ("unknown.example", "127.0.0.1", "SHOP.example.org"):
        answer = nginx.get(host)
        assert (answer.status, answer.text, answer.headers["Content-Type"]) == (404, "no app here\n", "text/plain")
    assert nginx.get("SHOP.EXAMPLE").status == 200


# --- hosts and paths ---


def test_the_longest_prefix_wins_and_ends_at_a_segment(
    nginx: PrivateNginx, names: NamesLab, replica: MakeReplica
) -> None:
    for number, name in enumerate(("front", "api", "deep"), 1):
        names.switch(name, replica(f"127.0.1.{number}", name).address)
    nginx.load(
        app("front", Ingress("a.example", "/", 8080), Ingress("b.example", "/only", 8080)),
        app("api", Ingress("a.example", "/api", 8080)),
        app("deep", Ingress("a.example", "/api/deep/", 8080)),
    )
    eventually(lambda: nginx.get("a.example", "/api/deep").status == 200)
    expected = {
        "/": "front /",
        "/x?y=%2F&z": "front /x?y=%2F&z",
        "/api": "api /api",
        "/api?x": "api /api?x",
        "/api/": "api /api/",
        "/api/x%20y": "api /api/x%20y",
        "/apix": "front /apix",
        "/api/deep": "deep /api/deep",
        "/api/deep/x": "deep /api/deep/x",
        "/api/deeper": "api /api/deeper",
        "/x/../api/y": "api /x/../api/y",
    }
    assert {path: nginx.get("a.example", path).text for path in expected} == expected
    assert nginx.get("b.example", "/only/x").text == "front /only/x"
    elsewhere = nginx.get("b.example", "/other")
    assert (elsewhere.status, elsewhere.text) == (404, "no app here\n")


def test_long_host_names_and_paths(nginx: PrivateNginx, names: NamesLab, replica: MakeReplica) -> None:
    host = ".".join(["a" * 60] * 4)
    path = "/" + "p" * 249
    names.switch("shop", replica("127.0.1.1", "one").address)
    nginx.load(app("shop", Ingress(host, path, 8080)))
    eventually(lambda: nginx.get(host, path).text == f"one {path}", what="the route is there")
    assert nginx.get(host, f"{path}/x").text == f"one {path}/x"
    assert nginx.get(host, "/").status == 404
    assert nginx.get(host.replace("a", "b"), path).status == 404


# --- what passes through ---


@SHOP
def test_the_app_hears_who_asks_and_what_for(nginx: PrivateNginx) -> None:
    told = nginx.get(
        "shop.example:8443",
        "/headers",
        X_Forwarded_For="192.0.2.1",
        X_Forwarded_Proto="https",
        Forwarded="for=192.0.2.1",
        Proxy="http://evil.example",
        Upgrade="h2c",
    ).text
    headers = dict(line.split(": ", 1) for line in told.splitlines())
    assert headers["Host"] == headers["X-Forwarded-Host"] == "shop.example:8443"
    assert headers["X-Forwarded-For"] == headers["X-Real-IP"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-Port"] == str(nginx.http)
    assert not headers.keys() & {"Forwarded", "Proxy", "Upgrade"}
    assert headers.get("Connection", "") == ("close" if nginx.site.observe().version < (1, 27, 3) else "")


@SHOP
def test_the_host_that_the_app_hears_is_the_one_that_chose_it(nginx: PrivateNginx) -> None:
    with socket.create_connection(("127.0.0.1", nginx.http), timeout=10) as connection:
        connection.sendall(
            b"GET http://shop.example/headers HTTP/1.1\r\nHost: bank.example:99\r\nConnection: close\r\n\r\n"
        )
        with connection.makefile("rb") as answer:
            told = answer.read()
    assert b"Host: shop.example" in told
    assert b"bank" not in told


@SHOP
def test_websockets(nginx: PrivateNginx) -> None:
    with socket.create_connection(("127.0.0.1", nginx.http), timeout=10) as connection:
        connection.sendall(
            b"GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101")
        for frame in (b"hello", b"again"):
            connection.sendall(frame)
            assert connection.recv(100) == frame.upper()


def test_a_stream_arrives_while_it_goes_on(shop: Replica, nginx: PrivateNginx) -> None:
    with socket.create_connection(("127.0.0.1", nginx.http), timeout=10) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        told = b""
        while b"data: first" not in told:
            told += connection.recv(1000)
        assert b"data: last" not in told
        shop.released.set()
        while b"data: last" not in told:
            told += connection.recv(1000)


def test_bodies_up_to_the_limit(nginx: PrivateNginx, names: NamesLab, replica: MakeReplica) -> None:
    names.switch("shop", replica("127.0.1.1", "one").address)
    nginx.load(
        app(
            "shop",
            Ingress("shop.example", "/", 8080, max_body=1000),
            Ingress("shop.example", "/large", 8080, max_body=3_000_000),
        )
    )
    eventually(lambda: nginx.get("shop.example").status == 200)
    assert nginx.get("shop.example", method="POST", body=b"x" * 1000).text == "one took 1000"
    assert nginx.get("shop.example", method="POST", body=b"x" * 1001).status == 413
    assert nginx.get("shop.example", "/large", method="POST", body=b"x" * 3_000_000).text == "one took 3000000"


def test_a_slow_app_has_its_time_and_no_more(nginx: PrivateNginx, names: NamesLab, replica: MakeReplica) -> None:
    names.switch("shop", replica("127.0.1.1", "one").address)
    nginx.load(app("shop", Ingress("shop.example", "/", 8080, timeout=0.5)))
    eventually(lambda: nginx.get("shop.example").status == 200)
    assert nginx.get("shop.example", "/slow/0.1").text == "one"
    answer = nginx.get("shop.example", "/slow/3")
    assert (answer.status, answer.text) == (504, "shop did not answer in time\n")


# --- TLS ---


def over_tls(nginx: PrivateNginx, host: str, path: str = "/", *, protocols: tuple[str, ...] = ()) -> tuple[str, str]:
    """Answer and chosen protocol; the certificate must be the host's."""
    context = ssl.create_default_context(cafile=str(nginx.certificates / f"{host}.crt"))
    context.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", nginx.https), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        if connection.selected_alpn_protocol() == "h2":
            return "", "h2"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.read().decode(), ""


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
def test_https_with_the_hosts_certificate_and_http_redirected(
    nginx: PrivateNginx, names: NamesLab, replica: MakeReplica, key_type: str
) -> None:
    names.switch("shop", replica("127.0.1.1", "one").address)
    shop = app(
        "shop",
        Ingress("shop.example", "/", 8080, "auto"),
        Ingress("shop.example", "/plain", 8080),
        Ingress("bare.example", "/", 8080, "auto"),
    )
    nginx.load(shop)
    eventually(lambda: nginx.get("shop.example", "/x").text == "one /x", what="no certificate: HTTP only")
    certify(nginx.certificates, "shop.example", key_type=key_type)
    nginx.load(shop)
    answer, _ = over_tls(nginx, "shop.example", "/headers")
    assert "X-Forwarded-Proto: https" in answer
    assert over_tls(nginx, "shop.example", protocols=("h2", "http/1.1")) == ("", "h2")
    redirected = nginx.get("shop.example", "/x?y=1")
    assert (redirected.status, redirected.headers["Location"]) == (308, f"https://shop.example:{nginx.https}/x?y=1")
    assert nginx.get("shop.example", "/plain").text == "one /plain"
    assert nginx.get("shop.example", "/.well-known/acme-challenge/x").status == 404
    assert nginx.get("bare.example").text == "one /"
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        unknown_to_tls(nginx)
    error_log = (nginx.root / "error.log").read_text()
    assert "[warn]" not in error_log
    assert "[emerg]" not in error_log


def unknown_to_tls(nginx: PrivateNginx) -> None:
    context = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", nginx.https), timeout=10) as plain:
        context.wrap_socket(plain, server_hostname="unknown.example").close()


@pytest.mark.usefixtures("names")
def test_a_renewed_certificate_is_loaded(nginx: PrivateNginx) -> None:
    shop = app("shop", Ingress("shop.example", "/", 8080, "auto"))
    certify(nginx.certificates, "shop.example")
    first = nginx.load(shop)
    certify(nginx.certificates, "shop.example")
    second = nginx.load(shop)
    assert second.id != first.id
    over_tls(nginx, "shop.example")  # trusts nothing but the new one
