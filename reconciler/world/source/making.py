"""Makes bare repositories, and saves what can be saved of a damaged one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler import disk, process
from reconciler.errors import Unavailable
from reconciler.world.source.diagnosis import disk_trouble, gist
from reconciler.world.source.reader import SHA
from reconciler.world.source.remote import environment

REFS = "refs/reconciler/"
_PENDING = "reconciler-trusted.json"
"""In a mirror that was made anew: refs whose commits it does not have (yet)."""


def beside(path: Path, what: str) -> Path:
    """The place next to a mirror for its successor (``new``) or predecessor (``damaged``)."""
    return path.with_name(f"{path.name}.{what}")


def complete(path: Path) -> bool:
    """A mirror that was made anew is ready to take the damaged one's place: ``write_pending`` was its last step."""
    return (path / _PENDING).exists()


def create(path: Path, timeout: float) -> None:
    """Make an empty bare repository, in the place of whatever was there."""
    shutil.rmtree(path, ignore_errors=True)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)  # what is in a private repository is not for every user of the host
    done = process.run(
        ["git", "init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(path)],
        timeout=timeout,
        environment=environment(),
    )
    if done.code != 0:
        raise disk_trouble(done.stderr, path) or Unavailable(
            f"cannot make the mirror {path}: {gist(done.stderr)}", reason="DiskError"
        )


def private(path: Path) -> None:
    """Close a repository that was made when ours were open to other users of the host."""
    with contextlib.suppress(OSError):  # a read-only disk, or it is gone
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)


def salvage(path: Path) -> Mapping[str, str]:
    """Our refs of a mirror that git may no longer read, from its files alone."""
    found = dict(read_pending(path))
    with contextlib.suppress(OSError):
        for line in (path / "packed-refs").read_text(errors="replace").splitlines():
            sha, _, name = line.partition(" ")
            if SHA.match(sha) and name.startswith(REFS):
                found[name.removeprefix(REFS)] = sha
    for name, file in _loose(path / REFS):
        with contextlib.suppress(OSError):
            if SHA.match(sha := file.read_text(errors="replace").strip()):
                found[name] = sha
    return found


def _loose(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder) / name
            yield file.relative_to(root).as_posix(), file


def read_pending(path: Path) -> Mapping[str, str]:
    """Refs that wait for their commits."""
    try:
        pending = json.loads((path / _PENDING).read_text())
    except (OSError, ValueError):
        return {}
    return {str(ref): str(sha) for ref, sha in pending.items()} if isinstance(pending, dict) else {}


def write_pending(path: Path, pending: Mapping[str, str]) -> None:
    """Let refs wait for their commits."""
    temporary = path / (_PENDING + ".tmp")
    with writing(path):
        with temporary.open("w") as file:
            json.dump(dict(pending), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path / _PENDING)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what a failing disk means."""
    try:
        yield
    except OSError as error:
        raise disk.unavailable(error, path, "the config repository's mirror cannot be written") from error
