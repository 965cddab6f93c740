"""Expected texts in files, refreshed by ``UPDATE_GOLDEN=1``; look at ``git diff`` afterwards."""

from __future__ import annotations

import os
from pathlib import Path


def assert_golden(actual: str, expected: Path) -> None:
    """Compare with a file, or write it."""
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(actual)
    assert expected.is_file(), f"{expected} is missing; UPDATE_GOLDEN=1 writes it"
    assert actual == expected.read_text()
