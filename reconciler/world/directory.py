"""A directory on disk as a tree of files, for ``reconciler validate PATH``: no Git, no mirror, no root."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from reconciler.core.model import LARGEST_FILE, Entry
from reconciler.errors import InvalidInput

_CHUNK = 1024 * 1024


class _File(NamedTuple):
    """What a name in the directory stands for."""

    target: Path
    link: bool


class DirectoryTree:
    """The regular files below a directory as they were when first asked for, with the ids that git would give them.

    ``.git`` is left out. A symbolic link is listed where it leads to a regular file inside the directory; links to
    directories are not followed.

    Args:
        path: The directory.

    Raises:
        InvalidInput: ``path`` is no directory, or a file in it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InvalidInput(
                f"{path} is not a directory",
                reason="DirectoryMissing",
                remedy="Name the directory that holds the manifests",
            )
        self._root = path.resolve()

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Every regular file."""
        found = sorted(self._files.items())
        return MappingProxyType({path: _entry(each.target, path, link=each.link) for path, each in found})

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            KeyError: There is none.
            InvalidInput: It is larger than we read, or not readable.
        """
        file = self._files[path].target
        try:
            with file.open("rb") as stream:
                content = stream.read(LARGEST_FILE + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(content) > LARGEST_FILE:
            raise InvalidInput(
                f"{path} has {file.stat().st_size} bytes; at most {LARGEST_FILE} are read",
                reason="FileTooLarge",
                remedy="Keep what is large in an image or a volume",
            )
        return content

    @cached_property
    def _files(self) -> Mapping[str, _File]:
        return dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, _File]]:
        for folder, folders, names in os.walk(self._root):
            folders[:] = [name for name in folders if name != ".git"]
            for name in names:
                if name == ".git":  # of a submodule or a linked worktree
                    continue
                file = Path(folder, name)
                target = self._target(file)
                if target is not None:
                    relative = os.fsencode(file.relative_to(self._root))
                    yield relative.decode(errors="backslashreplace"), _File(target, target != file)

    def _target(self, file: Path) -> Path | None:
        """The regular file that a directory entry stands for, if it lies in the directory."""
        try:
            target = file.resolve(strict=True) if file.is_symlink() else file
            regular = stat.S_ISREG(target.stat().st_mode)
        except (OSError, RuntimeError):  # a broken link, or a loop of links
            return None
        inside = target.is_relative_to(self._root) and ".git" not in target.relative_to(self._root).parts
        return target if regular and inside else None


def _entry(file: Path, path: str, *, link: bool) -> Entry:
    digest = hashlib.sha1(usedforsecurity=False)  # it is what git's ids are
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest.update(b"blob %d\0" % size)
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return Entry(digest.hexdigest(), size, link)


def _unreadable(path: str, error: OSError) -> InvalidInput:
    return InvalidInput(f"cannot read {path}: {error.strerror}", reason="FileUnreadable", remedy="Make it readable")
