"""Bad input gets a clear error, and nothing changes: the old version serves on, every other app converges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.host import Host
from harness.registry import PASSWORD, USERNAME, Registry

SECRETS = {"file": "secrets.sops.yaml", "environment": ["API_TOKEN"]}


def test_a_wrong_manifest_holds_up_nobody_else(host: Host) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other", "third")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other", "third")
    good = host.repository.head

    # It wants its own route, and one of an app that stays as it was, whose manifest cannot be read any more.
    routes = [{"host": f"{name}.example.com", "port": 8080} for name in ("fourth", "third")]
    with host.visitors() as failures:
        broken = host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image="shop:2", replica=2),
                "apps/other/app.yaml": host.manifest("other", image="shop:2"),
                "apps/third/app.yaml": "kind: App\nimage: [unclosed\n",
                "apps/fourth/app.yaml": host.manifest("fourth", image="shop:3", ingress=routes),
            },
            "A slip",
        )
        host.wait_synced(broken, "other", "fourth")
        assert (host.serves("other"), host.serves("fourth"), host.serves("third")) == ("2", "3", "1")
        told = host.wait(lambda: host.fault("RouteClaimedTwice"), what="two apps want one path")
        assert told == "third.example.com/ still leads to third, which is held up; fourth wants it"
        line = host.manifest(image="shop:2", replica=2).splitlines().index("replica: 2") + 1
        shop = host.wait_reason("InvalidManifest")
        assert f"apps/shop/app.yaml:{line}:1: " in shop["message"]
        assert "did you mean 'replicas'?" in shop["message"]
        assert re.search(r"apps/third/app\.yaml:\d+:\d+: ", host.wait_reason("InvalidManifest", "third")["message"])
        assert (shop["sync"], shop["health"]) == ("OutOfSync", "Healthy")
        assert (shop["revisions"]["observed"], shop["revisions"]["applied"]) == (broken, good)
        # The last good version is looked after as before.
        host.containers()[0].kill()
        host.containers("third")[0].remove(force=True)
        for name in ("shop", "third"):
            host.wait(
                lambda name=name: host.metric(f'drift_repairs_total{{app="{name}"}}') == 1, what=f"{name} is mended"
            )
            host.wait(lambda name=name: host.serves(name) == "1", what=f"{name} answers again")
        text = host.reconciler("status", expect=2)
        assert "InvalidManifest" in text
        assert f"apps/shop/app.yaml:{line}:1: " in text
        assert host.metric('manifest_problems{app="shop"}') == 1
        assert "refused" in host.reconciler("history", "shop")
    assert all(" 502 " in each or " 503 " in each for each in failures)  # between the kill and the repair

    # The path moves in one commit, from an app that is well again to the other.
    moved = host.manifest("third", ingress=[{"host": "new.example.com", "port": 8080}])
    host.commit({"apps/shop/app.yaml": host.manifest(image="shop:2"), "apps/third/app.yaml": moved})
    host.wait_synced(host.repository.head, "shop", "other", "third", "fourth")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="nobody is held up any more")
    assert (host.serves(), host.serves("new"), host.serves("third")) == ("2", "1", "3")


def test_what_a_broken_repository_would_remove_stays(host: Host) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")

    with host.visitors() as failures:
        # It moved, with a slip: its name can still be read, so it is not gone.
        host.commit({"apps/shop/app.yaml": None, "apps/moved/app.yaml": "name: shop\nimage: [\n"})
        assert re.match(r"apps/moved/app\.yaml:\d+:\d+: ", host.wait_reason("InvalidManifest")["message"])
        # Nobody can say whose this is, so nobody is removed.
        host.commit({"apps/moved/app.yaml": None, "apps/My Shop/app.yaml": "image: [\n"})
        assert "apps/My Shop/app.yaml" in host.wait_reason("PruneBlocked")["message"]
        host.commit({"apps/My Shop/app.yaml": None, "apps/shop/app.yaml": host.manifest()})
        host.wait_synced(host.repository.head, "shop", "other")

        host.commit(
            {
                "fleet.yaml": "kind: Fleet\nhosts: [web-1\n",
                "apps/other/app.yaml": host.manifest("other", image="shop:2"),
            }
        )
        message = host.wait_reason("InvalidFleet", "other")["message"]
        assert re.search(r"fleet\.yaml:\d+:\d+: ", message)
        assert host.serves("other") == "1"
        host.commit({"fleet.yaml": "kind: Fleet\nhosts: {db-1: {address: 10.0.0.1}}\n"})
        host.wait(lambda: host.fault("HostUnknown"), what="the host is not in the fleet")
        assert "host" in host.fault("HostUnknown")
        assert "db-1" in host.fault("HostUnknown")
        assert host.app()["sync"] == "Unknown"
        assert host.serves("other") == "1"

        everything = {f"apps/{name}/app.yaml": None for name in ("shop", "other")}
        last = host.commit({"fleet.yaml": None, **everything}, "Oops")
        message = host.wait_reason("PruneBlocked")["message"]
        assert f"reconciler accept {last[:8]}" in message
        assert "removes 2 of 2 apps" in message
        assert host.metric("prune_blocked") == 2
    assert failures == []

    host.reconciler("accept", last[:8])
    host.wait(lambda: not host.containers() and not host.containers("other"), what="all are removed")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="nothing is left to do")


def test_secrets_that_cannot_be_read_change_nothing(host: Host, tmp_path: Path) -> None:
    names = ("tampered", "cut", "foreign", "plain", "shop")
    sops = tmp_path / "sops"
    sops.symlink_to(shutil.which("sops") or "/nonexistent")
    host.settings["sops"]["command"] = str(sops)
    sealed = {name: host.smith.yaml({"API_TOKEN": f"first-{name}", "password": "x"}) for name in names}
    files: dict[str, str | bytes | None] = {}
    for name in names:
        files[f"apps/{name}/app.yaml"] = host.manifest(name, secrets=SECRETS)
        files[f"apps/{name}/secrets.sops.yaml"] = sealed[name]
    host.commit(files)
    host.start_agent()
    host.wait_synced(host.repository.head, *names)

    with host.visitors("tampered") as failures, host.visitors() as others:
        host.commit(
            {
                "apps/tampered/secrets.sops.yaml": sealed["tampered"].replace(b"data:", b"data:AAAA", 1),
                "apps/cut/secrets.sops.yaml": re.sub(rb"(?m)^password: .*\n", b"", sealed["cut"]),
                "apps/foreign/secrets.sops.yaml": host.smith.encrypt(
                    '{"API_TOKEN": "no", "password": "y"}', recipient=host.smith.make_key()[1]
                ),
                "apps/plain/secrets.sops.yaml": "API_TOKEN: pl4in-secret\npassword: y\n",
                "apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "second", "password": "z"}),
            }
        )
        host.wait_synced(host.repository.head, "shop")
        assert "env_secret=second" in host.get("/cgi-bin/show")[1]
        for name, reason, words in (
            ("tampered", "SecretTampered", "was changed"),
            ("cut", "MacMismatch", "without sops"),
            ("foreign", "DecryptNoKey", "updatekeys"),
            ("plain", "InvalidManifest", "encrypt"),
        ):
            app = host.wait_reason(reason, name)
            assert words in app["message"]
            assert f"apps/{name}/secrets.sops.yaml" in app["message"]
            assert (app["sync"], app["health"]) == ("OutOfSync", "Healthy")
            assert f"env_secret=first-{name} " in host.get("/cgi-bin/show", host=f"{name}.example.com")[1]
        assert (host.metric('decrypt_failures_total{reason="SecretTampered"}') or 0) > 0

        # sops goes, while a commit comes that needs it.
        sops.unlink()
        host.commit({"apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "third", "password": "z"})})
        assert str(sops) in host.wait_reason("SopsMissing")["message"]
        # Who starts anew without sops cannot read even what runs, and leaves it alone.
        host.stop_agent()
        host.start_agent()
        assert "Install sops" in host.wait_reason("SopsMissing")["message"]
        assert "env_secret=second" in host.get("/cgi-bin/show")[1]
        sops.symlink_to(shutil.which("sops") or "/nonexistent")
        host.wait_synced(host.repository.head, "shop")  # sops is back
        assert "env_secret=third" in host.get("/cgi-bin/show")[1]

        # The wrong key, then none, then the right one.
        right = host.smith.key.read_bytes()
        host.smith.key.write_bytes(host.smith.make_key()[0].read_bytes())
        host.commit({"apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "fourth", "password": "z"})})
        assert "does not fit" in host.wait_reason("DecryptNoKey")["message"]
        host.smith.key.unlink()
        assert str(host.smith.key) in host.wait_reason("AgeKeyMissing")["message"]
        assert "env_secret=third" in host.get("/cgi-bin/show")[1]
        host.smith.key.write_bytes(right)
        host.smith.key.chmod(0o600)
        host.wait(lambda: "env_secret=fourth" in host.get("/cgi-bin/show")[1], what="the key is back")
    assert failures == others == []
    assert "pl4in-secret" not in host.log.read_text() + str(host.status())

    host.commit({f"apps/{name}/secrets.sops.yaml": sealed[name] for name in names})
    host.wait_synced(host.repository.head, *names)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(password=True)
    registry.start()
    yield registry
    registry.destroy()


def test_images_that_cannot_be_had_change_nothing(host: Host, registry: Registry) -> None:
    login = {"file": "registry.sops.yaml", "username": "user", "password": "pass"}

    def credentials(password: str) -> bytes:
        return host.smith.yaml({"user": USERNAME, "pass": password})

    first = registry.push(host.engine, "shop:1", "shop:1")
    files: dict[str, str | bytes | None] = {
        "apps/other/app.yaml": host.manifest("other"),
        "apps/shop/app.yaml": host.manifest(image=first, registry_credentials=login),
        "apps/shop/registry.sops.yaml": credentials(PASSWORD),
    }
    host.commit(files)
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "other")

    def upgrade(image: str, version: int, password: str = PASSWORD) -> None:
        host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image=image, registry_credentials=login),
                "apps/shop/registry.sops.yaml": credentials(password),
                "apps/other/app.yaml": host.manifest("other", image=f"shop:{version}"),
            }
        )
        host.wait_synced(host.repository.head, "other")
        assert host.serves("other") == str(version)

    with host.visitors() as failures:
        upgrade(f"{registry.host}/shop:9", 2)
        app = host.wait_reason("ImageNotFound")
        assert f"there is no image {registry.host}/shop:9" in app["message"]
        assert (app["sync"], app["health"]) == ("OutOfSync", "Healthy")
        assert app["next_retry"] is not None

        second = registry.push(host.engine, "shop:2", "shop:2")
        upgrade(second, 3, "wrong")
        app = host.wait_reason("RegistryDenied")
        assert "Check the user and password" in app["message"]
        assert "wrong" not in app["message"].replace("wrong-", "")
        assert host.serves() == "1"

        registry.stop()
        upgrade(second, 1)
        app = host.wait_reason("RegistryUnavailable")
        assert f"the registry {registry.host} cannot give" in app["message"]
        assert host.serves() == "1"
        registry.start()
        host.wait_synced(host.repository.head, "shop")
        assert host.serves() == "2"

        # An image that is pushed late comes by itself.
        upgrade(f"{registry.host}/shop:late", 2)
        host.wait_reason("ImageNotFound")
        registry.push(host.engine, "shop:3", "shop:late")
        host.wait_synced(host.repository.head, "shop")
        assert host.serves() == "3"
    assert failures == []


def test_what_this_host_does_not_permit_changes_nothing(host: Host) -> None:
    host.settings["policy"] = {"registries": ["docker.io"], "bind_sources": ["/srv/data"]}
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "mounts", "mighty", "other")})
    host.start_agent()
    host.wait_synced(host.repository.head, "shop", "mounts", "mighty", "other")
    with host.visitors() as failures:
        host.commit(
            {
                "apps/shop/app.yaml": host.manifest(image="evil.example.com/shop:1"),
                "apps/mounts/app.yaml": host.manifest("mounts", volumes=["/etc:/data"]),
                "apps/mighty/app.yaml": host.manifest("mighty", cap_add=["SYS_ADMIN"]),
                "apps/other/app.yaml": host.manifest("other", image="shop:2"),
            }
        )
        host.wait_synced(host.repository.head, "other")
        for name, words in (
            ("shop", "policy.registries allows only docker.io"),
            ("mounts", "policy.bind_sources allows /srv/data"),
            ("mighty", "SYS_ADMIN"),
        ):
            app = host.wait_reason("PolicyViolation", name)
            assert f"apps/{name}/app.yaml" in app["message"]
            assert words in app["message"]
            assert (app["sync"], app["health"]) == ("OutOfSync", "Healthy")
            assert host.serves(name) == "1"
    assert failures == []
    host.commit({f"apps/{name}/app.yaml": host.manifest(name, image="shop:2") for name in ("shop", "mounts", "mighty")})
    host.wait_synced(host.repository.head)
