"""Nodes that a schema has accepted become values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reconciler.core.model import Volume
from reconciler.core.node import Node
from reconciler.core.units import duration, size


def given(node: Node | None, **convert: Callable[[Node], object]) -> Mapping[str, Any]:
    """The keys that a mapping has, converted; those that it leaves out have their default in the model."""
    fields = node.fields if node is not None else {}
    return {key: convert[key](fields[key]) for key in convert if key in fields}


def as_text(node: Node) -> str:
    """A scalar as it was written."""
    return node.text


def as_texts(node: Node) -> tuple[str, ...]:
    """A list of scalars."""
    return tuple(item.text for item in node.items)


def as_mapping(node: Node) -> Mapping[str, str]:
    """A mapping of scalars."""
    return {key: value.text for key, value in node.fields.items()}


def as_int(node: Node) -> int:
    """An integer, which JSON Schema lets people write as 2.0."""
    return int(float(node.text))


def as_float(node: Node) -> float:
    """A number."""
    return float(node.text)


def as_bool(node: Node) -> bool:
    """True or false."""
    return node.value is True


def as_seconds(node: Node) -> float:
    """A duration."""
    return duration(node.text)


def as_bytes(node: Node) -> int:
    """A size."""
    return size(node.text)


def as_mode(node: Node) -> int:
    """Permissions in octal digits."""
    return int(node.text, 8)


def as_volume(node: Node) -> Volume:
    """A volume in Compose's short form."""
    source, target, *mode = node.text.split(":")
    return Volume(source, target, mode == ["ro"])
