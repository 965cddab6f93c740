from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import KEY, app, desired

from reconciler.core.desired import changed_fields
from reconciler.core.model import (
    App,
    File,
    Health,
    Ingress,
    PublishedPort,
    RegistryCredentials,
    Resources,
    Rollout,
    SecretsFile,
    Task,
    Volume,
)
from reconciler.core.paths import stored_name

WITH_SECRETS = app(secrets=SecretsFile("apps/shop/secrets.sops.yaml", environment=("URL",)))


def test_the_commit_is_no_part_of_the_fingerprint() -> None:
    assert desired(app(), revision="a" * 40).fingerprint == desired(app(), revision="b" * 40).fingerprint


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (app(command=("run",)), "command"),
        (app(environment={"A": ""}), "environment.A"),
        (app(resources=Resources(memory=1 << 30)), "resources.memory"),
        (app(volumes=(Volume("data", "/data"),)), "volumes"),
        (app(ports=(PublishedPort(80, 8080),)), "ports"),
        (app(labels={"team": "shop"}), "labels.team"),
        (app(read_only=True), "read_only"),
        (app(user="1000"), "user"),
        (app(health=Health("command", command=("true",))), "health"),
        (app(files=(File("a.toml", "/etc/a.toml"),)), "files./etc/a.toml"),
    ],
)
def test_whatever_makes_the_container_another_is_named(changed: App, field: str) -> None:
    old, new = desired(app()), desired(changed)
    assert old.fingerprint != new.fingerprint
    assert changed_fields(old.fields, new.fields) == (field,)


@pytest.mark.parametrize(
    "changed",
    [
        app(replicas=3),
        app(ingress=(Ingress("a.example", "/", 80),)),
        app(health=Health("http", port=80)),
        app(rollout=Rollout("recreate")),
        app(depends_on=("db",)),
        app(image="shop:2"),  # another tag of the same image
    ],
)
def test_what_the_container_does_not_see_replaces_nothing(changed: App) -> None:
    assert desired(changed).fingerprint == desired(app()).fingerprint


def test_what_an_older_agent_gave_up_stays_given_up() -> None:
    """The two values are those of the agent that knew neither ``on`` nor ``check``."""
    assert desired(app()).trial == "24d684c54bc71849"
    plain, shared = Task(("migrate",)), Task(("migrate",), on="web-1", check=("is-migrated",))
    assert desired(app(before_deploy=plain)).trial == "f4ff59ad5e921782"
    assert desired(app(before_deploy=shared)).trial not in {"24d684c54bc71849", "f4ff59ad5e921782"}


def test_secrets_change_the_fingerprint_by_value_and_are_never_told() -> None:
    old = desired(WITH_SECRETS, secrets={"URL": b"postgres://one", "TOKEN": b"alpha"})
    new = desired(WITH_SECRETS, secrets={"URL": b"postgres://one", "TOKEN": b"beta"})
    assert changed_fields(old.fields, new.fields) == ("secrets.file.TOKEN",)
    assert old.secrets_directory != new.secrets_directory
    assert "alpha" not in repr(old)
    assert "postgres" not in repr(old)


def test_secrets_named_in_environment_are_variables_and_the_rest_are_files() -> None:
    made = desired(WITH_SECRETS, secrets={"URL": b"u", "TOKEN": b"t"})
    assert set(made.secret_files) == {"TOKEN"}
    assert set(made.spec.environment) == {"URL"}
    mount = made.spec.mounts[-1]
    assert (mount.source, mount.target, mount.read_only) == (made.secrets_directory, "/run/secrets", True)


def test_registry_credentials_do_not_reach_the_container() -> None:
    private = replace(
        WITH_SECRETS,
        registry_credentials=RegistryCredentials("apps/shop/secrets.sops.yaml", "PULL_USER", "PULL_PASSWORD"),
    )
    made = desired(private, secrets={"URL": b"u", "PULL_USER": b"x", "PULL_PASSWORD": b"y"})
    assert made.secret_files == {}
    assert made.secrets_directory == ""


def test_files_are_mounted_from_a_directory_named_after_their_content() -> None:
    made = desired(app(files=(File("a.toml", "/etc/a.toml"),)))
    assert made.files_directory.startswith("/state/files/shop/")
    assert made.spec.mounts[0].source == f"{made.files_directory}/{stored_name('/etc/a.toml')}"


def test_hashes_are_keyed() -> None:
    assert KEY
    fields = desired(app()).fields
    assert all(len(value) == 12 for value in fields.values())
