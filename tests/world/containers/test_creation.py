"""What the engine makes of these is seen in test_engine.py; here is what can be told without one."""

from __future__ import annotations

import pytest
from harness.labs import KEY, claim

from reconciler.core.model import Secret
from reconciler.core.target import ContainerSpec, HealthCommand
from reconciler.errors import InvalidInput
from reconciler.world.containers.creation import arguments


def test_the_container_is_what_the_manifest_says_and_carries_our_signature() -> None:
    spec = ContainerSpec(
        "sha256:1",
        command=("run", "it"),
        environment={"PLAIN": "a", "HIDDEN": Secret(b"b")},
        labels={"team": "shop"},
        health=HealthCommand(("check",), 1.5, 2.0, 3, 4.0),
        stop_grace_period=2.2,
    )
    made = arguments("shop.1.3fa9c2d1", claim(), spec, KEY)
    assert made["environment"] == {"PLAIN": "a", "HIDDEN": "b"}
    assert made["command"] == ["run", "it"]
    assert made["healthcheck"]["test"] == ["CMD", "check"]
    assert made["healthcheck"]["interval"] == 1_500_000_000
    assert made["stop_timeout"] == 3  # rounded up: nobody is killed early
    assert made["labels"]["team"] == "shop"
    assert made["labels"]["reconciler.app"] == "shop"
    assert not made["use_config_proxy"]


def test_labels_of_the_manifest_cannot_replace_ours() -> None:
    made = arguments("n", claim(), ContainerSpec("sha256:1", labels={"reconciler.app": "other"}), KEY)
    assert made["labels"]["reconciler.app"] == "shop"


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\0b"])
def test_a_secret_that_is_no_text_is_refused_without_being_told(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="the secret KEY is no text") as caught:
        arguments("n", claim(), ContainerSpec("sha256:1", environment={"KEY": Secret(value)}), KEY)
    assert caught.value.reason == "SecretNotText"
