"""The files of one revision, listed by one ``git ls-tree``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler.core.model import LARGEST_FILE, Entry
from reconciler.errors import InvalidInput

_LONGEST_LINK = 4096
_MOST_HOPS = 40

Blob = Callable[[str], bytes]
"""Reads a blob by its id."""


class GitTree:
    """The files of one revision."""

    def __init__(self, blob: Blob, entries: Mapping[str, Entry]) -> None:
        self._blob = blob
        self._entries = MappingProxyType(dict(entries))

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every regular file, and every symbolic link that leads to one."""
        return self._entries

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            KeyError: There is none.
            InvalidInput: It is larger than we read.
        """
        entry = self._entries[path]
        if entry.size > LARGEST_FILE:
            raise InvalidInput(
                f"{path} has {entry.size} bytes; at most {LARGEST_FILE} are read",
                reason="FileTooLarge",
                remedy="Keep what is large in an image or a volume",
            )
        return self._blob(entry.blob)


def listed(listing: bytes, blob: Blob) -> dict[str, Entry]:
    """What ``git ls-tree -r -l -z`` printed: regular files, and symbolic links inside the tree that lead to one.

    Links to directories or out of the tree are left out, and so are submodules.

    Raises:
        ValueError: The repository lacks an object.
    """
    files: dict[str, Entry] = {}
    targets: dict[str, str] = {}
    for line in filter(None, listing.split(b"\0")):
        facts, _, name = line.partition(b"\t")
        mode, kind, sha, size = facts.decode().split()
        if kind != "blob":  # a submodule
            continue
        if not size.isdigit():
            raise ValueError(sha)
        # A name that is not UTF-8 is shown with escapes; nobody can ask for it, and nobody's terminal breaks.
        path = name.decode(errors="backslashreplace")
        if mode != "120000":
            files[path] = Entry(sha, int(size))
        elif int(size) <= _LONGEST_LINK:
            targets[path] = blob(sha).decode(errors="backslashreplace")
    found = {path: _follow(path, targets) for path in targets}
    return files | {
        path: replace(files[target], link=True)
        for path, target in found.items()
        if target is not None and target in files
    }


def _follow(path: str, targets: Mapping[str, str]) -> str | None:
    waiting, done, hops = path.split("/")[::-1], list[str](), 0
    while waiting:
        match part := waiting.pop():
            case "" | ".":
                pass
            case ".." if not done:
                return None
            case "..":
                done.pop()
            case _:
                target = targets.get("/".join([*done, part]))
                if target is None:
                    done.append(part)
                    continue
                hops += 1
                if hops > _MOST_HOPS or target.startswith("/"):
                    return None
                waiting.extend(target.split("/")[::-1])
    return "/".join(done)
