"""A revision's files in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from reconciler.core.model import Entry


class MemoryTree:
    """A ``Tree`` of given files; counts what is read from it."""

    def __init__(self, files: Mapping[str, bytes | str], links: Collection[str] = ()) -> None:
        self.files = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        self.entries = {
            path: Entry(hashlib.sha1(content, usedforsecurity=False).hexdigest(), len(content), path in links)
            for path, content in self.files.items()
        }
        self.reads: list[str] = []

    @classmethod
    def of(cls, directory: Path) -> MemoryTree:
        """The files of a directory."""
        files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}
        links = [path for path, file in files.items() if file.is_symlink()]
        return cls({path: file.read_bytes() for path, file in files.items()}, links)

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self.files[path]
