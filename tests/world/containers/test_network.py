from __future__ import annotations

from collections.abc import Callable, Iterator

import docker
import pytest
from docker.types import IPAMConfig, IPAMPool
from harness.engine import PrivateEngine
from harness.labs import KEY

from reconciler.errors import Refused
from reconciler.world.containers import DockerEngine

Make = Callable[..., DockerEngine]


@pytest.fixture
def api(engine: PrivateEngine) -> Iterator[docker.APIClient]:
    client = engine.client()
    yield client.api
    for network in client.api.networks(filters={"type": "custom"}):
        client.api.remove_network(network["Id"])
    client.close()


@pytest.fixture
def make(engine: PrivateEngine, api: docker.APIClient) -> Iterator[Make]:  # noqa: ARG001  (cleans up after us)
    made: list[DockerEngine] = []

    def build(network: str = "ours", subnet: str = "10.212.0.0/24") -> DockerEngine:
        made.append(DockerEngine(engine.socket, network, subnet, KEY, ()))
        return made[-1]

    yield build
    for each in made:
        each.close()


def test_it_is_a_bridge_with_our_subnet_the_first_address_and_our_label(make: Make, api: docker.APIClient) -> None:
    ours = make()
    assert not ours.observe().network
    ours.ensure_network()
    ours.ensure_network()
    assert ours.observe().network
    (network,) = api.networks(names=["ours"])
    assert network["Driver"] == "bridge"
    assert network["IPAM"]["Config"] == [{"Subnet": "10.212.0.0/24", "Gateway": "10.212.0.1"}]
    assert network["Labels"] == {"reconciler.owner": "ours"}
    make(subnet="10.212.0.0/24").ensure_network()  # another agent's run finds it


def test_a_network_that_was_removed_is_missed_and_made_again(make: Make, api: docker.APIClient) -> None:
    ours = make()
    ours.ensure_network()
    assert ours.observe().network
    api.remove_network("ours")
    assert not ours.observe().network
    ours.ensure_network()
    assert ours.observe().network


def test_a_network_of_that_name_with_another_subnet_is_refused(make: Make) -> None:
    make().ensure_network()
    other = make(subnet="10.213.0.0/24")
    assert not other.observe().network
    with pytest.raises(Refused, match=r"'ours' has the subnet 10\.212\.0\.0/24, not 10\.213\.0\.0/24") as caught:
        other.ensure_network()
    assert caught.value.reason == "NetworkConflict"
    assert make().observe().network, "and nothing was changed"


def test_a_network_of_that_name_that_is_not_ours_is_refused(make: Make, api: docker.APIClient) -> None:
    pool = IPAMPool(subnet="10.212.0.0/24", gateway="10.212.0.1")
    api.create_network("ours", driver="bridge", ipam=IPAMConfig(pool_configs=[pool]))
    with pytest.raises(Refused, match="'ours' was not made by reconciler") as caught:
        make().ensure_network()
    assert caught.value.reason == "NetworkConflict"


def test_a_subnet_that_overlaps_is_refused_and_the_other_network_named(make: Make, api: docker.APIClient) -> None:
    api.create_network("office", driver="bridge", ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="10.212.0.0/16")]))
    with pytest.raises(Refused, match=r"overlaps with the Docker network 'office' \(10\.212\.0\.0/16\)") as caught:
        make().ensure_network()
    assert caught.value.reason == "NetworkConflict"
    assert "docker" in caught.value.remedy


def test_a_name_that_begins_like_an_id_finds_no_stranger(make: Make, api: docker.APIClient) -> None:
    make("first").ensure_network()
    (first,) = api.networks(names=["first"])
    assert not make(first["Id"][:12], "10.213.0.0/24").observe().network
