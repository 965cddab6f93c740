"""Texts that people read, kept beside the tests. ``UPDATE_GOLDEN=1 pytest`` writes them anew; then read the diff."""

from __future__ import annotations

import os
from pathlib import Path


def assert_golden(file: Path, text: str) -> None:
    """Compare with the file, or write it where ``UPDATE_GOLDEN`` asks for that."""
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    assert file.exists(), f"{file.name} is missing; run with UPDATE_GOLDEN=1 and read it"
    assert text + "\n" == file.read_text(encoding="utf-8")
