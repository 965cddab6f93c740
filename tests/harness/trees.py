"""A revision's files in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from reconciler.core.model import Entry


class MemoryTree:
    """A ``Tree`` of given files; counts what is read from it."""

    def __init__(self, files: Mapping[str, bytes | str]) -> None:
        self.files = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        self.entries = {
            path: Entry(hashlib.sha1(content, usedforsecurity=False).hexdigest(), len(content))
            for path, content in self.files.items()
        }
        self.reads: list[str] = []

    @classmethod
    def of(cls, directory: Path) -> MemoryTree:
        """The files of a directory."""
        return cls(
            {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
        )

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self.files[path]
