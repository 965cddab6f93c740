from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import schema
from reconciler.core.units import duration, size

DEFINITIONS = schema.load("app")["$defs"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("1d", 86_400),
        ("1h5m30s20ms", 3930.02),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100b", 100),
        ("1k", 1024),
        ("512MiB", 512 * 1024**2),
        ("512mb", 512 * 1024**2),
        ("1.5g", 1536 * 1024**2),
        ("2GiB", 2 * 1024**3),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5s5", "-5s", "5 s", "1e3s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration(text)


@pytest.mark.parametrize("text", ["", "5", "MiB", "5MiBs", "-5k", "5 k", "5t"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size(text)


@given(st.from_regex(re.compile(DEFINITIONS["duration"]["pattern"].replace("$", r"\Z")), alphabet="0123456789.dhms"))
def test_every_duration_that_the_schema_accepts_is_understood(text: str) -> None:
    assert duration(text) >= 0


@given(st.from_regex(re.compile(DEFINITIONS["size"]["pattern"].replace("$", r"\Z")), alphabet="0123456789.bBkKmMgGi"))
def test_every_size_that_the_schema_accepts_is_understood(text: str) -> None:
    assert size(text) >= 0
