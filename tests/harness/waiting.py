"""Waiting for something to become true, without a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float = 15.0, every: float = 0.05, what: str = "") -> T:
    """Call ``check`` until it returns something true without raising; fail with its last answer otherwise."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = answer = check()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is shown when time is up)
            last = error
        else:
            if answer:
                return answer
        time.sleep(every)
    raise AssertionError(f"not within {within:g} s: {what or check}; last: {last!r}")
