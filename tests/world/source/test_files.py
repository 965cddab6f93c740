"""What a tree lists: regular files and harmless links, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.git import ConfigRepository, run_git

from reconciler.core.model import LARGEST_FILE
from reconciler.errors import InvalidInput
from reconciler.settings import Repository
from reconciler.world.source import GitSource
from reconciler.world.source.files import GitTree, listed


@pytest.fixture
def repository(tmp_path: Path) -> ConfigRepository:
    return ConfigRepository(tmp_path / "remote")


@pytest.fixture
def source(repository: ConfigRepository, tmp_path: Path) -> Iterator[GitSource]:
    source = GitSource(Repository(url=str(repository.bare)), tmp_path / "mirror.git")
    yield source
    source.close()


def committed(repository: ConfigRepository, source: GitSource) -> GitTree:
    repository.commit()
    return source.tree(source.fetch().sha)


def test_links(repository: ConfigRepository, source: GitSource) -> None:
    links = {
        "apps/shop/settings.toml": "../../shared/settings.toml",
        "apps/shop/twice": "settings.toml",
        "apps/shop/through": "../folder/settings.toml",
        "apps/folder": "../shared",
        "apps/shop/absolute": "/etc/passwd",
        "apps/shop/escape": "../../../../etc/passwd",
        "apps/shop/escape-and-return": "../../../remote/shared/settings.toml",
        "apps/shop/dangling": "nothing",
        "apps/shop/loop": "loop",
        "apps/shop/ping": "pong",
        "apps/shop/pong": "ping",
        "apps/shop/root": "../..",
    }
    repository.write({"shared/settings.toml": "a = 1\n"})
    for name, target in links.items():
        path = repository.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    tree = committed(repository, source)
    assert sorted(tree.entries) == [
        "apps/shop/settings.toml",
        "apps/shop/through",
        "apps/shop/twice",
        "shared/settings.toml",
    ]
    assert [path for path, entry in tree.entries.items() if not entry.link] == ["shared/settings.toml"]
    assert tree.read("apps/shop/through") == b"a = 1\n"
    with pytest.raises(KeyError):
        tree.read("apps/shop/escape")


def test_link_out_of_the_directory(repository: ConfigRepository, tmp_path: Path) -> None:
    repository.write({"shared/x": "1", "web/y": "2"})
    (repository.work / "web" / "x").symlink_to("../shared/x")
    sha = repository.commit()
    source = GitSource(Repository(url=str(repository.bare), directory="web"), tmp_path / "other.git")
    source.fetch()
    assert list(source.tree(sha).entries) == ["y"]
    source.close()


def test_huge_file(repository: ConfigRepository, source: GitSource) -> None:
    repository.write({"apps/huge.bin": b"\0" * (LARGEST_FILE + 1), "apps/large.bin": b"\1" * LARGEST_FILE})
    tree = committed(repository, source)
    assert tree.entries["apps/huge.bin"].size == LARGEST_FILE + 1
    with pytest.raises(InvalidInput) as caught:
        tree.read("apps/huge.bin")
    assert caught.value.reason == "FileTooLarge"
    assert "apps/huge.bin has 1048577 bytes" in caught.value.message
    assert len(tree.read("apps/large.bin")) == LARGEST_FILE


def test_submodule_is_not_looked_into(repository: ConfigRepository, source: GitSource, tmp_path: Path) -> None:
    other = ConfigRepository(tmp_path / "other")
    other.commit({"app.yaml": "image: x\n"})
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(other.bare), "apps/other")
    assert list(committed(repository, source).entries) == [".gitmodules"]


def test_executable_and_odd_names(repository: ConfigRepository, source: GitSource) -> None:
    repository.write({"run.sh": "#!/bin/sh\n", "a b": "1", "ü": "2", "new\nline": "3", "-x": "4"})
    (repository.work / "run.sh").chmod(0o755)
    (Path(os.fsdecode(bytes(repository.work) + b"/\xff\xfe"))).write_bytes(b"5")
    tree = committed(repository, source)
    assert sorted(tree.entries) == ["-x", "\\xff\\xfe", "a b", "new\nline", "run.sh", "ü"]
    assert tree.read("new\nline") == b"3"
    assert tree.read("\\xff\\xfe") == b"5"


def test_no_filter_and_no_export_rule_of_the_repository_acts(repository: ConfigRepository, source: GitSource) -> None:
    repository.write({".gitattributes": "* text eol=crlf ident filter=evil export-ignore\n", "x": "$Id$\n"})
    tree = committed(repository, source)
    assert tree.read("x") == b"$Id$\n"


def test_ids_are_those_of_git(repository: ConfigRepository, source: GitSource) -> None:
    repository.write({"x": "content"})
    tree = committed(repository, source)
    assert tree.entries["x"].blob == run_git(repository.work, "rev-parse", "HEAD:x")
    assert tree.entries["x"].size == 7


def test_an_object_that_is_missing() -> None:
    sha = "f" * 40
    with pytest.raises(ValueError, match=sha):
        listed(f"100644 blob {sha}     BAD\tx\0".encode(), lambda _: b"")
