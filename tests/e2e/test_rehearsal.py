"""Could we go back? Asked of a real app with data on a volume, after a migration that lets it and one that does not."""

from __future__ import annotations

from typing import Any

import pytest
from harness.engine import PrivateEngine
from harness.host import Host
from harness.load import Ask, Load
from harness.python_image import IMAGE, PYTHON, make_python_image

PROGRAM = [PYTHON, "-I", "-S", "/app/orders.py"]


@pytest.fixture(scope="module", autouse=True)
def _image(engine: PrivateEngine) -> None:
    make_python_image(engine)


def version(columns: str, *migration: str) -> dict[str, Any]:
    return {
        "image": IMAGE,
        "user": "root",  # whom a new volume belongs to
        "command": [*PROGRAM, "serve", "8080", columns],
        "before_deploy": {"command": [*PROGRAM, "migrate", *migration], "timeout": "30s"},
        "volumes": ["orders:/data"],
        "rehearse_rollback": True,
    }


def way_back(host: Host) -> dict[str, Any]:
    found = [c for c in host.app().get("conditions", ()) if c["type"] == "RollbackReady"]
    return dict(found[0]) if found else {}


def answered(host: Host, *, ready: bool) -> dict[str, Any]:
    """Wait for it, while somebody reads and somebody orders."""
    asks = (Ask("GET", "/"), Ask("POST", "/", body=10))
    shop = ("127.0.0.1", host.http), "shop.example.com"
    with Load(*shop, keep_alive=False, clients=2, asks=asks, pause=0.02) as load:
        host.wait(lambda: way_back(host).get("status") is ready, what=f"the way back is {ready}")
        host.wait(lambda: len(host.containers(everything=True)) == 2, what="only a replica and its task are left")
    assert load.report.total > 2
    assert load.report.failures == []
    assert (host.app()["sync"], host.app()["health"]) == ("Synced", "Healthy")
    assert host.metric('app_rollback_ready{app="shop"}') == ready
    return way_back(host)


def test_a_column_more_lets_us_go_back_and_a_column_less_does_not(host: Host) -> None:
    first = host.deploy(
        **version("id", "CREATE TABLE orders (id INTEGER PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    )
    host.start_agent()
    host.wait_synced(first, "shop")
    assert way_back(host) == {}, "there was no version before it"

    host.deploy(**version("id, total", "ALTER TABLE orders ADD COLUMN total INTEGER"))
    host.wait_synced(host.repository.head, "shop")
    serves = host.containers()[0].id
    said = answered(host, ready=True)
    assert (said["reason"], said["revision"]) == ("RehearsalPassed", first)

    third = host.deploy(**version("max(id)", "ALTER TABLE orders DROP COLUMN total"))
    host.wait_synced(third, "shop")
    assert serves not in {container.id for container in host.containers()}
    serves = host.containers()[0].id
    said = answered(host, ready=False)
    assert said["reason"] == "RehearsalFailed"
    assert "no such column: total" in said["message"]
    assert host.containers()[0].id == serves, "what serves is left alone"
    assert "no such column: total" in host.fault("RollbackNotReady")
    host.wait(lambda: host.status()["result"] == "converged", what="it is no fault")  # type: ignore[index]  # it answers
    why = " ".join(host.reconciler("why", "shop").split())
    assert "way back no: " in why
    assert "no such column: total" in why
