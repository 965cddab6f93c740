from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.builders import app, converged, desired
from harness.secrets import SecretSmith
from harness.walk import Walk

from reconciler.core.model import Rehearsal, Secret
from reconciler.targets import _image, _owned


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


def test_the_version_before_is_rehearsed_with_its_own_secrets_and_settings(walk: Walk, smith: SecretSmith) -> None:
    secrets = walk.repository / "apps/shop/secrets.sops.yaml"
    fields = {"secrets": {"file": "secrets.sops.yaml", "environment": ["URL"]}, "rehearse_rollback": True}
    walk.write(**fields, environment={"LEVEL": "old"}, volumes=["data:/data"])
    secrets.write_bytes(smith.yaml({"URL": "old-url", "TOKEN": "old-token"}))
    walk.converge()
    old = walk.engine.observe().containers[0]
    walk.write(**fields, environment={"LEVEL": "new"}, volumes=["data:/data"])
    secrets.write_bytes(smith.yaml({"URL": "new-url", "TOKEN": "new-token"}))
    walk.until(lambda: any(name.startswith("shop.rehearsal.") for name in walk.running()))
    tried = next(c for c in walk.engine.observe().containers if c.name.startswith("shop.rehearsal."))
    spec = walk.engine.spec_of(tried.id)
    assert old.claim is not None
    assert tried.claim is not None
    assert (tried.claim.fingerprint, tried.image) == (old.claim.fingerprint, old.image)
    url = spec.environment["URL"]
    assert isinstance(url, Secret)
    assert (url.reveal(), spec.environment["LEVEL"]) == (b"old-url", "old")
    mounted = next(mount for mount in spec.mounts if mount.target == "/run/secrets")
    assert Path(mounted.source, "TOKEN").read_bytes() == b"old-token"
    assert walk.app().replicas_running == 1
    walk.until(lambda: bool(walk.store.memory().rehearsed) and len(walk.running()) == 1)
    assert walk.store.memory().rehearsed["shop"].ready
    walk.converge()  # its secrets go too
    view = walk.cycle.look(walk.cycle.tip())
    assert view.wanted.targets["shop"].way_back is None
    assert (view.plan.actions, view.plan.wake_at) == ((), None)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("stranger", "cannot be had any more: apps/shop/secrets.sops.yaml"),
        ("unknown revision", "cannot be had any more"),
        ("no revision", "nobody knows any more at which revision"),
    ],
)
def test_a_version_that_cannot_be_had_any_more_is_no_way_back(
    walk: Walk, smith: SecretSmith, spoil: str, why: str
) -> None:
    secrets = walk.repository / "apps/shop/secrets.sops.yaml"
    fields = {"secrets": {"file": "secrets.sops.yaml"}}
    walk.write(**fields)
    secrets.write_bytes(smith.yaml({"TOKEN": "t"}))
    walk.converge()
    first = walk.store.memory().versions["shop"][0]
    if spoil == "stranger":  # the key that could read it is gone: the same as one that never could
        _, stranger = smith.make_key()
        secrets.write_bytes(smith.encrypt('{"TOKEN": "new"}', "yaml", recipient=stranger))
        walk.cycle.fetch()
        first = replace(first, revision=walk.cycle.tip().sha)
        secrets.write_bytes(smith.yaml({"TOKEN": "t"}))
    first = replace(first, revision="0" * 40) if spoil == "unknown revision" else first
    first = replace(first, revision="") if spoil == "no revision" else first
    walk.store.record_applied("shop", first.revision, first.fingerprint, first.at, first.image)
    walk.write(**fields, image="shop:2", rehearse_rollback=True)
    walk.until(lambda: bool(walk.store.memory().rehearsed))
    said = walk.store.memory().rehearsed["shop"]
    assert (said.ready, said.reason) == (False, "RehearsalImpossible")
    assert why in said.message
    walk.until(lambda: walk.cycle.status is not None and walk.cycle.status.result == "converged")
    assert walk.cycle.status is not None
    assert "RollbackNotReady: shop could not go back: " in walk.cycle.status.verdict
    assert (walk.app().sync, walk.app().health) == ("Synced", "Healthy")


def test_the_image_of_a_rehearsal_is_not_taken_for_that_of_a_replica() -> None:
    """A tag that moved: both versions are called alike, and the replica's image has lost its name."""
    manifest = app(image="shop:main", rehearse_rollback=Rehearsal())
    end = converged(desired(manifest, image="sha256:new"))
    (replica,) = end.observed.engine.containers
    assert replica.claim is not None
    claim = replace(replica.claim, role="rehearsal", slot=0)
    tried = replace(replica, id="tried", name="shop.rehearsal.0", image="sha256:old", claim=claim)
    engine = replace(end.observed.engine, containers=(tried, replica), images={})  # the engine lists the newest first
    assert _image(manifest, engine, _owned(engine)) == "sha256:new"
