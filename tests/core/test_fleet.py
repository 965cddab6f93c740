from __future__ import annotations

from reconciler.core.document import read
from reconciler.core.fleet import Fleet, read_fleet
from reconciler.core.model import FleetHost


def fleet(text: str) -> Fleet:
    root = read("fleet.yaml", text.encode()).root
    assert root is not None
    found, problems = read_fleet(root)
    assert problems == ()
    return found


THREE = "hosts: {web-1: {address: 192.0.2.1, labels: [web, eu]}, web-2: {labels: [web]}, db-1: {}}"


def test_hosts() -> None:
    assert fleet(THREE).hosts == {
        "web-1": FleetHost("web-1", "192.0.2.1", ("web", "eu")),
        "web-2": FleetHost("web-2", None, ("web",)),
        "db-1": FleetHost("db-1"),
    }
    assert fleet("kind: Fleet").hosts is None
    assert fleet("hosts: {}").hosts == {}


def test_picking_hosts_by_name_or_label() -> None:
    three = fleet(THREE)
    assert three.hosts_of(()) is None
    assert three.hosts_of(("web",)) == frozenset({"web-1", "web-2"})
    assert three.hosts_of(("eu", "db-1")) == frozenset({"web-1", "db-1"})
    assert three.hosts_of(("nowhere",)) == frozenset()
    assert Fleet().hosts_of(("anything",)) == frozenset({"anything"})


def test_words() -> None:
    assert fleet(THREE).words == ("web-1", "web-2", "db-1", "web", "eu")


def test_defaults_lie_below_a_manifest() -> None:
    manifest = read("app.yaml", b"user: a").root
    assert manifest is not None
    applied = fleet("defaults: {user: b, read_only: true}").apply(manifest)
    assert {key: node.text for key, node in applied.fields.items()} == {"user": "a", "read_only": "true"}
    assert Fleet().apply(manifest) is manifest
