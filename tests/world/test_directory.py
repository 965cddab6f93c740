"""A directory on disk as a tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.git import ConfigRepository, run_git

from reconciler.core.model import LARGEST_FILE
from reconciler.errors import InvalidInput
from reconciler.settings import Repository
from reconciler.world.directory import DirectoryTree
from reconciler.world.source import GitSource


def test_it_lists_what_git_lists(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    repository.write({"apps/shop/app.yaml": "image: shop:1\n", "shared/x": b"\0\xff", "empty": "", "ü b": "1"})
    for name, target in {
        "apps/shop/x": "../../shared/x",
        "apps/shop/through": "../folder/x",
        "apps/folder": "../shared",
        "escape": "/etc/passwd",
        "escape2": "../../../../etc/passwd",
        "loop": "loop",
        "dangling": "nothing",
    }.items():
        (repository.work / name).symlink_to(target)
    Path(os.fsdecode(bytes(repository.work) + b"/\xff")).write_bytes(b"5")
    sha = repository.commit()
    source = GitSource(Repository(url=str(repository.bare)), tmp_path / "mirror.git")
    source.fetch()
    on_disk = DirectoryTree(repository.work)
    assert dict(on_disk.entries) == dict(source.tree(sha).entries)
    for path in on_disk.entries:
        assert on_disk.read(path) == source.tree(sha).read(path)
    source.close()


def test_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    run_git(tmp_path, "init", "--quiet")
    (tmp_path / "sub" / ".git").write_text("gitdir: elsewhere")
    (tmp_path / "into-git").symlink_to(".git/config")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sub" / "x").touch()
    tree = DirectoryTree(tmp_path)
    assert list(tree.entries) == ["sub/x"]
    for path in ("fifo", "into-git", ".git/config", "../x", "/etc/passwd"):
        with pytest.raises(KeyError):
            tree.read(path)


def test_link_as_the_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("1")
    (tmp_path / "link").symlink_to("real")
    assert DirectoryTree(tmp_path / "link").read("x") == b"1"


def test_huge_file(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"\0" * (LARGEST_FILE + 1))
    tree = DirectoryTree(tmp_path)
    assert tree.entries["huge"].blob == run_git(tmp_path, "hash-object", "huge")
    with pytest.raises(InvalidInput) as caught:
        tree.read("huge")
    assert caught.value.reason == "FileTooLarge"


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        DirectoryTree(tmp_path / "absent")
    assert caught.value.reason == "DirectoryMissing"


def test_file_that_vanished(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    tree = DirectoryTree(tmp_path)
    assert list(tree.entries) == ["x"]
    (tmp_path / "x").unlink()
    with pytest.raises(InvalidInput) as caught:
        tree.read("x")
    assert caught.value.reason == "FileUnreadable"
