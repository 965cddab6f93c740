"""Durations and sizes as people write them. The schemas have checked the form; see ``$defs`` in app.schema.json."""

from __future__ import annotations

import re

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([bkmg])(?:i?b)?", re.IGNORECASE)
_BYTES = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def duration(text: str) -> float:
    """``1h30m`` in seconds. ValueError for anything else than numbers with units."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration: {text!r}")
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 3)


def size(text: str) -> int:
    """``512MiB`` in bytes; k, m and g count in 1024s with or without ``i``, as in Compose. ValueError otherwise."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"not a size: {text!r}")
    return int(float(match[1]) * _BYTES[match[2].lower()])
