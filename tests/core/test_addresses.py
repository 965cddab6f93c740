from __future__ import annotations

from reconciler.core.addresses import AddressPool, gateway


def test_an_address_rests_before_it_is_given_again() -> None:
    given = [AddressPool("10.201.0.0/16", [], now).take() for now in range(1_800_000_000, 1_800_000_900)]
    assert len(set(given)) == len(given)


def test_used_addresses_the_network_the_gateway_and_broadcast_are_never_given() -> None:
    pool = AddressPool("192.168.7.0/29", ["192.168.7.3"], now=5)
    taken = {pool.take() for _ in range(4)}
    assert taken == {"192.168.7.2", "192.168.7.4", "192.168.7.5", "192.168.7.6"}
    assert pool.take() is None


def test_the_gateway_is_the_first_address() -> None:
    assert gateway("10.201.0.0/16") == "10.201.0.1"
