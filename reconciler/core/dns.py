"""As much of DNS as it takes to ask dnsmasq for addresses: one question a packet, IPv4 only, no recursion."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

_HEADER = struct.Struct("!HHHHHH")
_FIELDS = struct.Struct("!HH")  # type, class
_RECORD = struct.Struct("!HHIH")  # type, class, ttl, length of the data
_LARGEST = 4_096  # bytes of an answer that we take: 250 addresses
_ADDITION = b"\0" + _RECORD.pack(41, _LARGEST, 0, 0)  # EDNS0 says so
_ANSWERED, _POINTER = 0x8000, 0xC0
_A, _IN = 1, 1
_IPV4_LENGTH = 4
_LONGEST_LABEL = 63


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says about a name."""

    identity: int
    """Of the question."""
    name: str
    addresses: tuple[str, ...]
    """Sorted as text; none where the name is unknown, or known without an address."""


def question(identity: int, name: str) -> bytes:
    """A packet that asks for a name's addresses; ``identity`` has 16 bits."""
    labels = name.encode("ascii").split(b".")
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise ValueError(f"{name!r} is no DNS name")
    encoded = b"".join(bytes((len(label),)) + label for label in labels)
    return _HEADER.pack(identity, 0, 1, 0, 0, 1) + encoded + b"\0" + _FIELDS.pack(_A, _IN) + _ADDITION


def answer(packet: bytes) -> Answer | None:
    """Read an answer; None when the packet is none, or is damaged."""
    try:
        identity, flags, questions, records, _, _ = _HEADER.unpack_from(packet)
        if not flags & _ANSWERED or questions != 1:
            return None
        name, offset = _name(packet, _HEADER.size)
        offset += _FIELDS.size
        addresses = []
        for _ in range(records):
            _, offset = _name(packet, offset)
            kind, family, _, length = _RECORD.unpack_from(packet, offset)
            offset += _RECORD.size
            if (kind, family, length) == (_A, _IN, _IPV4_LENGTH):
                addresses.append(str(ipaddress.IPv4Address(packet[offset : offset + length])))
            offset += length
        return Answer(identity, name, tuple(sorted(addresses)))
    except (struct.error, IndexError, ValueError):
        return None


def _name(packet: bytes, offset: int) -> tuple[str, int]:
    """The name at an offset, as far as its first pointer, and the offset behind it."""
    labels: list[str] = []
    while length := packet[offset]:
        if length & _POINTER:
            return ".".join(labels), offset + 2
        labels.append(packet[offset + 1 : offset + 1 + length].decode("ascii"))
        offset += 1 + length
    return ".".join(labels), offset + 1
