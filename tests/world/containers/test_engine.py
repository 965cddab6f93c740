"""What only a real engine shows: the safe defaults, and what a container really sees."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from harness.engine import PrivateEngine
from harness.labs import KEY, NETWORK, SUBNET, claim
from harness.waiting import eventually

from reconciler.core.model import PublishedPort, Secret
from reconciler.core.observed import Container
from reconciler.core.target import ContainerSpec, HealthCommand, Mount
from reconciler.errors import Failed, InvalidInput, Refused, Unavailable
from reconciler.world.containers import DockerEngine

NAME = "shop.1.3fa9c2d1"
ADDRESS = "10.211.0.10"
GATEWAY = "10.211.0.1"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def image(engine: PrivateEngine) -> str:
    return engine.import_image("engine:1", changes=('CMD ["sleep", "1000"]', "USER app"))


@pytest.fixture
def api(engine: PrivateEngine) -> Iterator[docker.APIClient]:
    client = engine.client()
    others = volumes(client.api)
    yield client.api
    for container in client.api.containers(all=True, quiet=True):
        client.api.remove_container(container["Id"], v=True, force=True)
    for name in volumes(client.api).keys() - others.keys():
        client.api.remove_volume(name)
    for network in client.api.networks(filters={"type": "custom"}):
        client.api.remove_network(network["Id"])
    client.close()


def volumes(api: docker.APIClient) -> dict[str, dict[str, str]]:
    """Labels by name."""
    return {volume["Name"]: volume["Labels"] for volume in api.volumes()["Volumes"] or ()}


@pytest.fixture
def ours(engine: PrivateEngine, api: docker.APIClient) -> Iterator[DockerEngine]:  # noqa: ARG001  (cleans up after us)
    made = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ("192.0.2.53",))
    made.ensure_network()
    yield made
    made.close()


def run(ours: DockerEngine, spec: ContainerSpec, name: str = NAME, address: str = ADDRESS) -> str:
    made = ours.create(name, address, claim(), spec)
    ours.start(made)
    return made


def seen(ours: DockerEngine, identity: str) -> Container:
    return next(container for container in ours.observe().containers if container.id == identity)


def output(ours: DockerEngine, identity: str) -> str:
    eventually(lambda: seen(ours, identity).state == "exited")
    return ours.logs(identity, 1000)


def test_the_defaults_are_safe(ours: DockerEngine, api: docker.APIClient, image: str) -> None:
    inspected = api.inspect_container(run(ours, ContainerSpec(image)))
    host: dict[str, Any] = inspected["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert host["PidsLimit"] == 512
    assert (host["Memory"], host["MemorySwap"]) == (512 * MIB, 512 * MIB)
    assert host["Init"] is True
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "3", "compress": "true"},
    }
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["NetworkMode"] == NETWORK
    assert host["Dns"] == [GATEWAY, "192.0.2.53"]
    assert host["DnsSearch"] == ["."]
    assert host["PortBindings"] in (None, {})
    assert host["ReadonlyRootfs"] is False
    assert inspected["Config"]["StopTimeout"] == 10
    endpoint = inspected["NetworkSettings"]["Networks"][NETWORK]
    assert endpoint["IPAddress"] == ADDRESS
    assert "shop" not in (endpoint["Aliases"] or [])


@pytest.mark.parametrize("filled", [True, False])
def test_an_empty_volume_is_filled_and_given_away_unless_it_is_only_looked_at(
    ours: DockerEngine,
    engine: PrivateEngine,
    api: docker.APIClient,
    filled: bool,  # noqa: FBT001  (the setting)
) -> None:
    image = engine.import_image("full:1", changes=('CMD ["sleep", "99"]',), files={"data/file": b"of the image"})
    run(ours, ContainerSpec(image, mounts=(Mount("volume", "shop-data", "/data", read_only=True, filled=filled),)))
    place = Path(api.inspect_volume("shop-data")["Mountpoint"])
    assert [entry.name for entry in place.iterdir()] == (["file"] if filled else [])


def test_what_root_configured_for_its_docker_command_reaches_no_container(
    engine: PrivateEngine, api: docker.APIClient, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://proxy.example.com"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    ours = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ())
    ours.ensure_network()
    made = ours.create(NAME, ADDRESS, claim(), ContainerSpec(image))
    ours.close()
    assert "proxy.example.com" not in str(api.inspect_container(made)["Config"]["Env"])


def test_a_manifest_is_followed(ours: DockerEngine, api: docker.APIClient, image: str, tmp_path: Path) -> None:
    spec = ContainerSpec(
        image,
        command=("sleep", "99"),
        entrypoint=("env",),
        user="1234:5678",
        working_dir="/tmp",  # noqa: S108  (inside the container)
        environment={"LOG_LEVEL": "info", "TOKEN": Secret(b"s3cr3t")},
        mounts=(
            Mount("volume", "shop-data", "/data", read_only=False),
            Mount("bind", str(tmp_path), "/run/secrets", read_only=True),
        ),
        tmpfs=("/scratch:size=1m", "/cache"),
        ports=(PublishedPort(18080, 8080, address="127.0.0.1"), PublishedPort(18080, 8080, "udp", "127.0.0.1")),
        labels={"team": "payments", "reconciler.app": "bank"},
        cpus=0.5,
        memory=64 * MIB,
        pids=20,
        cap_add=("NET_BIND_SERVICE",),
        read_only=True,
        health=HealthCommand(("test", "-e", "/"), interval=1.5, timeout=2, retries=4, start_period=30),
        stop_signal="SIGINT",
        stop_grace_period=2.5,
        restart=False,
    )
    inspected = api.inspect_container(run(ours, spec))
    host, config = inspected["HostConfig"], inspected["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["env"], ["sleep", "99"])
    assert (config["User"], config["WorkingDir"]) == ("1234:5678", "/tmp")  # noqa: S108  (inside the container)
    assert {"LOG_LEVEL=info", "TOKEN=s3cr3t"} <= set(config["Env"])
    assert {(m["Type"], m["Destination"], m["RW"]) for m in inspected["Mounts"]} == {
        ("volume", "/data", True),
        ("bind", "/run/secrets", False),
    }
    assert host["Tmpfs"] == {"/scratch": "size=1m", "/cache": ""}
    assert host["PortBindings"] == {
        f"8080/{protocol}": [{"HostIp": "127.0.0.1", "HostPort": "18080"}] for protocol in ("tcp", "udp")
    }
    assert config["Labels"]["team"] == "payments"
    assert config["Labels"]["reconciler.app"] == "shop", "ours win"
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 * MIB, 20)
    assert host["CapAdd"] in (["CAP_NET_BIND_SERVICE"], ["NET_BIND_SERVICE"])
    assert host["ReadonlyRootfs"] is True
    assert config["Healthcheck"] == {
        "Test": ["CMD", "test", "-e", "/"],
        "Interval": 1_500_000_000,
        "Timeout": 2_000_000_000,
        "Retries": 4,
        "StartPeriod": 30_000_000_000,
    }
    assert (config["StopSignal"], config["StopTimeout"]) == ("SIGINT", 3)
    assert host["RestartPolicy"]["Name"] == "no"


def test_names_are_asked_at_the_gateway_without_search_domains(ours: DockerEngine, image: str) -> None:
    made = run(ours, ContainerSpec(image, command=("cat", "/etc/resolv.conf"), restart=False))
    lines = [line for line in output(ours, made).splitlines() if not line.startswith("#")]
    assert "nameserver 127.0.0.11" in lines, "Docker's own, which asks the gateway"
    assert not [line for line in lines if line.startswith("search") and line != "search ."]


def test_a_container_really_has_no_capabilities_and_gains_none(ours: DockerEngine, image: str) -> None:
    spec = ContainerSpec(image, command=("grep", "-E", "Cap|NoNewPrivs", "/proc/self/status"), user="0", restart=False)
    status = dict(line.split(":\t") for line in output(ours, run(ours, spec)).splitlines())
    assert {int(value, 16) for name, value in status.items() if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_a_volume_that_was_there_keeps_its_labels(ours: DockerEngine, api: docker.APIClient, image: str) -> None:
    api.create_volume("shop-data", labels={"owner": "somebody"})
    mounts = tuple(Mount("volume", name, f"/{name}", read_only=False) for name in ("shop-data", "shop-new"))
    run(ours, ContainerSpec(image, mounts=mounts))
    assert volumes(api)["shop-data"] == {"owner": "somebody"}
    assert volumes(api)["shop-new"] == {"reconciler.owner": "shop"}


def test_a_bind_mount_follows_no_symbolic_link(ours: DockerEngine, image: str, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to("/etc")
    (real / "deeper").symlink_to(tmp_path)
    for source in (link, real / "deeper", real / "deeper" / "real", link / "ssl"):
        spec = ContainerSpec(image, mounts=(Mount("bind", str(source), "/x", read_only=True),))
        with pytest.raises(Refused, match=f"mounts {source} of the host") as caught:
            run(ours, spec)
        assert caught.value.reason == "BindSourceIsLink"
        assert str(source.resolve()) in caught.value.message
    run(ours, ContainerSpec(image, mounts=(Mount("bind", str(real), "/x", read_only=True),)))


def test_a_missing_mount_is_named_before_and_at_the_start(ours: DockerEngine, image: str, tmp_path: Path) -> None:
    missing = tmp_path / "secrets"
    spec = ContainerSpec(image, mounts=(Mount("bind", str(missing), "/run/secrets", read_only=True),))
    with pytest.raises(Unavailable, match=f"the directory {missing} that is to be mounted does not exist") as caught:
        run(ours, spec)
    assert caught.value.reason == "MountMissing"
    assert not missing.exists(), "nothing made an empty one"
    missing.mkdir()
    made = ours.create(NAME, ADDRESS, claim(), spec)
    missing.rmdir()
    with pytest.raises(Unavailable, match=str(missing)) as caught:
        ours.start(made)
    assert caught.value.reason == "MountMissing"


def test_settings_that_the_engine_rejects_are_told_in_its_words(ours: DockerEngine, image: str) -> None:
    for spec, words in (
        (ContainerSpec(image, cpus=9999), "only .* CPUs available"),
        (ContainerSpec(image, memory=1024), "[Mm]inimum memory limit"),
        (ContainerSpec(image, working_dir="/etc/passwd"), "not a directory"),
        (ContainerSpec(image, user="nobody-knows"), "unable to find user nobody-knows"),
    ):
        with pytest.raises(Failed, match=words) as caught:
            run(ours, spec)
        assert caught.value.reason == "ContainerRejected"
        assert "OCI runtime" not in caught.value.message
        for container in ours.observe().containers:
            if container.state == "created":
                assert container.error in str(caught.value)
            ours.remove(container.id)


def test_a_command_that_is_not_in_the_image_says_so_in_the_log(ours: DockerEngine, image: str) -> None:
    made = run(ours, ContainerSpec(image, command=("no-such-command",), restart=False))
    assert "no-such-command" in output(ours, made)
    assert seen(ours, made).exit_code == 127


@pytest.mark.parametrize("value", [b"\xff\xfe", b"with\0zero"])
def test_a_secret_that_is_no_text_cannot_be_a_variable(ours: DockerEngine, image: str, value: bytes) -> None:
    with pytest.raises(InvalidInput, match="the secret TOKEN is no text") as caught:
        ours.create(NAME, ADDRESS, claim(), ContainerSpec(image, environment={"TOKEN": Secret(value)}))
    assert "zero" not in str(caught.value)
    assert ours.observe().containers == ()


def test_who_ignores_the_stop_signal_is_killed_after_the_grace_period(ours: DockerEngine, image: str) -> None:
    deaf = ("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done")
    made = run(ours, ContainerSpec(image, command=deaf))
    before = time.monotonic()
    ours.stop(made, 1)
    assert 1 <= time.monotonic() - before < 20
    assert seen(ours, made).exit_code == 137


def test_what_restarts_all_the_time_can_be_stopped(ours: DockerEngine, image: str) -> None:
    made = run(ours, ContainerSpec(image, command=("false",)))
    eventually(lambda: seen(ours, made).restarts >= 2 and seen(ours, made).state == "restarting", every=0.01)
    ours.stop(made, 1)
    stopped = seen(ours, made)
    assert stopped.state == "exited"
    assert stopped.restarts >= 2
    ours.remove(made)


def test_an_image_with_our_labels_does_not_make_a_container_ours(
    ours: DockerEngine, api: docker.APIClient, engine: PrivateEngine, image: str
) -> None:
    mine = run(ours, ContainerSpec(image))
    labels = api.inspect_container(mine)["Config"]["Labels"]
    copied = engine.import_image(
        "copied:1",
        changes=('CMD ["sleep", "1000"]', *(f"LABEL {name}={json.dumps(value)}" for name, value in labels.items())),
    )
    theirs = api.create_container(copied, name="shop.2.3fa9c2d1")["Id"]
    assert seen(ours, theirs).claim == claim()
    assert not seen(ours, theirs).owned
    # Our own container of such an image is ours: all labels of a claim are always written.
    other = run(ours, ContainerSpec(copied), name="shop.3.3fa9c2d1", address="10.211.0.12")
    assert seen(ours, other).owned
    with pytest.raises(Refused):
        ours.remove(theirs)
    api.remove_container(theirs)


def test_a_daemon_that_is_down_is_said_so_and_one_that_is_back_is_used(image: str) -> None:
    assert image
    engine = PrivateEngine(beside=True)
    engine.start()
    ours = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ())
    try:
        ours.ensure_network()
        made = run(ours, ContainerSpec(engine.import_image("shop:1", changes=('CMD ["sleep", "1000"]',))))
        before = seen(ours, made)
        engine.stop()
        calls = (
            ours.observe,
            ours.ensure_network,
            lambda: ours.start(made),
            lambda: ours.stop(made, 1),
            lambda: ours.remove(made),
            lambda: ours.logs(made, 10),
            lambda: ours.connections(made),
            lambda: ours.pull("shop:1", None),
        )
        for call in calls:
            with pytest.raises(Unavailable, match=f"the Docker Engine does not answer at {engine.socket}: ") as caught:
                call()
            assert caught.value.reason == "DockerUnavailable"
            assert "systemctl status docker" in caught.value.remedy
        engine.start()
        eventually(lambda: seen(ours, made).state == "running")
        after = seen(ours, made)
        assert after.started_at > before.started_at, "the engine has started it again"
        assert after.address == ADDRESS
        assert ours.observe().network
    finally:
        ours.close()
        engine.destroy()


def test_threads_have_connections_of_their_own_and_all_are_closed(ours: DockerEngine, image: str) -> None:
    made = run(ours, ContainerSpec(image))
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(5):
                assert len(ours.observe().containers) == 1
                ours.invalidate(made)
                ours.logs(made, 1)
        except BaseException as error:  # noqa: BLE001  (it is shown below)
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    ours.close()
    assert len(ours.observe().containers) == 1, "used again, it connects again"
