from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.secrets import SecretSmith
from harness.walk import Walk


@pytest.fixture
def smith(tmp_path: Path) -> SecretSmith:
    return SecretSmith(tmp_path / "keys")


@pytest.fixture
def walk(tmp_path: Path, smith: SecretSmith) -> Iterator[Walk]:
    walk = Walk(tmp_path, age_key=smith.key)
    try:
        yield walk
    finally:
        walk.close()


def test_secrets_become_files_and_variables(walk: Walk, smith: SecretSmith) -> None:
    walk.write(secrets={"file": "secrets.sops.yaml", "environment": ["URL"]})
    (walk.repository / "apps/shop/secrets.sops.yaml").write_bytes(smith.yaml({"URL": "u", "TOKEN": "t"}))
    walk.converge()
    spec = walk.engine.spec_of(walk.engine.named(walk.running()[0]).id)
    mount = next(mount for mount in spec.mounts if mount.target == "/run/secrets")
    assert Path(mount.source, "TOKEN").read_bytes() == b"t"
    assert "URL" in spec.environment


def test_a_secret_that_nobody_can_open_keeps_the_old_version(walk: Walk, smith: SecretSmith) -> None:
    walk.write(secrets={"file": "secrets.sops.yaml"})
    secrets = walk.repository / "apps/shop/secrets.sops.yaml"
    secrets.write_bytes(smith.yaml({"TOKEN": "t"}))
    walk.converge()
    old = walk.running()
    _, stranger = smith.make_key()
    secrets.write_bytes(smith.encrypt('{"TOKEN": "new"}', "yaml", recipient=stranger))
    walk.until(lambda: walk.app().reason == "DecryptNoKey")
    assert walk.running() == old
    assert walk.app().health == "Healthy"
    assert b'reconciler_decrypt_failures_total{reason="DecryptNoKey"} 1.0' in walk.metrics.exposition()[1]
    walk.engine.vanish(walk.engine.named(old[0]).id)
    walk.until(lambda: walk.running() == old)


def test_a_quiet_look_resolves_nothing_again(walk: Walk) -> None:
    for name in ("a", "b", "c"):
        walk.write(name)
    walk.converge()
    view = walk.cycle.look(walk.cycle.tip())
    again = walk.cycle.look(walk.cycle.tip())
    for name, target in view.wanted.targets.items():
        assert again.wanted.targets[name].desired is target.desired


def test_an_always_pulled_tag_is_looked_up_once_for_each_revision(walk: Walk) -> None:
    walk.engine.publish("registry.example.com/shop:main", version="one")
    walk.write(image="registry.example.com/shop:main", pull_policy="always")
    walk.converge()
    old = walk.running()
    pulls = walk.engine.calls["pull"]
    walk.cycle.run()
    assert walk.engine.calls["pull"] == pulls
    walk.engine.publish("registry.example.com/shop:main", version="two")
    walk.write("other")
    walk.converge()
    assert walk.running() != old
    assert "another image" in walk.store.history("shop", 1)[0].reason


def test_a_replica_keeps_an_image_that_lost_its_tag(walk: Walk) -> None:
    walk.write()
    walk.converge()
    old = walk.running()
    walk.engine.remove_image("shop:1")
    began = time.monotonic()
    walk.converge()
    assert time.monotonic() - began < 10
    assert walk.running() == old
