"""Packets of DNS."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dns import Answer, answer, question


def reply(identity: int, name: str, *addresses: tuple[int, ...], flags: int = 0x8400) -> bytes:
    """What a server would send back, with the owner's name as a pointer to the question."""
    asked = question(identity, name)
    head = struct.pack("!HHHHHH", identity, flags, 1, len(addresses), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + bytes(address) for address in addresses)
    return head + asked[12:-11] + records


def test_a_question_is_one_that_every_server_reads() -> None:
    assert question(7, "shop") == (b"\0\7\0\0\0\1\0\0\0\0\0\1" + b"\4shop\0\0\1\0\1" + b"\0\0\x29\x10\0\0\0\0\0\0\0")


def test_addresses_come_sorted_as_text() -> None:
    packet = reply(7, "shop", (10, 0, 0, 9), (10, 0, 0, 10))
    assert answer(packet) == Answer(7, "shop", ("10.0.0.10", "10.0.0.9"))


def test_an_unknown_name_has_no_address() -> None:
    assert answer(reply(7, "shop", flags=0x8403)) == Answer(7, "shop", ())


def test_other_records_are_skipped() -> None:
    packet = bytearray(reply(7, "shop", (10, 0, 0, 1)))
    packet[7] = 2
    packet += b"\4shop\0" + struct.pack("!HHIH", 28, 1, 0, 16) + bytes(16)
    assert answer(bytes(packet)) == Answer(7, "shop", ("10.0.0.1",))


def test_a_question_is_no_answer() -> None:
    assert answer(question(7, "shop")) is None


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, "ä"])
def test_what_is_no_name_is_not_asked(name: str) -> None:
    with pytest.raises(ValueError, match=r"DNS name|ascii"):
        question(7, name)


@given(st.binary(max_size=100), st.integers(0, 60))
def test_damaged_packets_are_read_as_none_or_as_an_answer(noise: bytes, at: int) -> None:
    packet = reply(7, "shop", (10, 0, 0, 1), (10, 0, 0, 2))
    for damaged in (noise, packet[:at], packet[:at] + noise + packet[at:]):
        read = answer(damaged)
        assert read is None or isinstance(read, Answer)
