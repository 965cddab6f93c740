"""A directory that a person edits, as a source of revisions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.git import ConfigRepository, run_git

from reconciler.errors import InvalidInput, Unavailable
from reconciler.world.source import WorktreeSource


@pytest.fixture
def repository(tmp_path: Path) -> ConfigRepository:
    repository = ConfigRepository(tmp_path / "remote")
    repository.commit({"apps/shop/app.yaml": "image: shop:1\n", ".gitignore": "*.log\n"}, "Deploy the shop")
    return repository


@pytest.fixture
def source(repository: ConfigRepository, tmp_path: Path) -> Iterator[WorktreeSource]:
    source = WorktreeSource(repository.work, ".", tmp_path / "state" / "mirror.git")
    yield source
    source.close()


def digest(directory: Path) -> str:
    """Every file and its time of change."""
    state = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        state.update(f"{path} {path.stat().st_mtime_ns}".encode())
        state.update(path.read_bytes() if path.is_file() else b"")
    return state.hexdigest()


def test_clean_worktree_is_its_head(source: WorktreeSource) -> None:
    assert source.trusted() is None
    commit = source.fetch()
    assert (commit.author, commit.subject) == ("Ada Lovelace", "Deploy the shop")
    assert sorted(source.tree(commit.sha).entries) == [".gitignore", "apps/shop/app.yaml"]


def test_edits_are_snapshots(source: WorktreeSource, repository: ConfigRepository) -> None:
    first = source.fetch()
    assert source.fetch() == first
    before = digest(repository.work / ".git")
    repository.write({"apps/shop/app.yaml": "image: shop:2\n", "apps/api/app.yaml": "image: api:1\n", "x.log": "noise"})
    second = source.fetch()
    assert second.author == "Ada Lovelace"
    head = repository.head[:7]
    assert second.subject == f"working tree of {repository.work} (uncommitted changes on {head})"
    assert sorted(source.tree(second.sha).entries) == [".gitignore", "apps/api/app.yaml", "apps/shop/app.yaml"]
    repository.write({"apps/api/app.yaml": None})
    third = source.fetch()
    assert "apps/api/app.yaml" not in source.tree(third.sha).entries
    assert source.tree(third.sha).read("apps/shop/app.yaml") == b"image: shop:2\n"
    assert source.tree(first.sha).read("apps/shop/app.yaml") == b"image: shop:1\n", "older snapshots stay readable"
    assert digest(repository.work / ".git") == before, "the person's own repository is left alone"
    assert source.trusted() == third
    assert source.accept(first.sha[:8]) == first
    with pytest.raises(InvalidInput):
        source.commit("f" * 40)


def test_restart_goes_on(source: WorktreeSource, repository: ConfigRepository, tmp_path: Path) -> None:
    first = source.fetch()
    again = WorktreeSource(repository.work, ".", tmp_path / "state" / "mirror.git")
    assert again.trusted() == first
    assert again.fetch() == first
    again.close()


def test_plain_directory(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    (plain / "hosts/web").mkdir(parents=True)
    (plain / "hosts/web/app.yaml").write_text("image: x\n")
    source = WorktreeSource(plain, "hosts/web", tmp_path / "mirror.git")
    commit = source.fetch()
    assert (commit.author, commit.subject) == ("root", f"working tree of {plain}")
    assert list(source.tree(commit.sha).entries) == ["app.yaml"]
    assert not (plain / ".git").exists()
    source.close()


def test_repository_of_another_user_without_commits(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    run_git(plain, "init", "--quiet")
    (plain / "app.yaml").write_text("image: x\n")
    (plain / ".git/info").mkdir(exist_ok=True)
    (plain / ".git/info/exclude").write_text("mine\n")
    (plain / "mine").touch()
    for path in [plain, *plain.rglob("*")]:
        os.chown(path, 1, 1)
    source = WorktreeSource(plain, ".", tmp_path / "mirror.git")
    commit = source.fetch()
    assert commit.author == "daemon"
    assert list(source.tree(commit.sha).entries) == ["app.yaml"]
    source.close()


def test_state_inside_the_directory_is_no_change(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "app.yaml").write_text("image: x\n")
    for mirror in (plain / "state" / "mirror.git", plain / "mirror.git"):
        source = WorktreeSource(plain, ".", mirror)
        commit = source.fetch()
        assert source.fetch() == commit
        assert [path for path in source.tree(commit.sha).entries if path.startswith("mirror.git")] == []
        source.close()


def test_repositories_inside(source: WorktreeSource, repository: ConfigRepository) -> None:
    run_git(repository.work, "init", "--quiet", "vendor")
    repository.write({"vendor/app.yaml": "image: evil\n"})
    run_git(repository.work / "vendor", "add", "--all")
    run_git(repository.work / "vendor", "commit", "--quiet", "-m", "x")
    assert sorted(source.tree(source.fetch().sha).entries) == [".gitignore", "apps/shop/app.yaml"]


def test_what_cannot_be_snapshotted_is_said(source: WorktreeSource, repository: ConfigRepository) -> None:
    source.fetch()
    run_git(repository.work, "init", "--quiet", "vendor")  # no commit in it: git add refuses
    repository.write({"vendor/app.yaml": "image: evil\n"})
    with pytest.raises(Unavailable) as caught:
        source.fetch()
    assert caught.value.reason == "WorktreeUnreadable"
    assert "vendor" in caught.value.message
    repository.write({".gitignore": "vendor\n"})
    source.fetch()


def test_hooks_filters_and_monitors_of_the_person_do_not_run(
    source: WorktreeSource, repository: ConfigRepository, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'sprung'}\n")
    trap.chmod(0o755)
    for key in ("filter.evil.clean", "core.fsmonitor", "gpg.program", "core.pager", "core.editor", "diff.external"):
        repository.git("config", key, str(trap))
    repository.git("config", "log.showSignature", "true")
    for hook in ("post-index-change", "reference-transaction", "pre-commit", "post-commit"):
        (repository.work / ".git/hooks").mkdir(exist_ok=True)
        (repository.work / ".git/hooks" / hook).symlink_to(trap)
    repository.write({".gitattributes": "* filter=evil diff=evil\n", "new": "1"})
    assert source.fetch().author == "Ada Lovelace"
    assert not (tmp_path / "sprung").exists()


def test_damaged_mirror_and_index(source: WorktreeSource, repository: ConfigRepository, tmp_path: Path) -> None:
    first = source.fetch()
    entries = source.tree(first.sha).entries
    (tmp_path / "state/mirror.git/worktree.index").write_bytes(b"garbage")
    assert source.fetch() == first
    (tmp_path / "state/mirror.git/HEAD").write_bytes(b"garbage")
    source.close()
    commit = source.fetch()
    assert source.tree(commit.sha).entries == entries
    for path in (tmp_path / "state/mirror.git/objects").rglob("*"):
        if path.is_file():
            path.unlink()
    again = WorktreeSource(repository.work, ".", tmp_path / "state" / "mirror.git")
    assert sorted(again.tree(again.fetch().sha).entries) == [".gitignore", "apps/shop/app.yaml"]
    again.close()


def test_directory_that_is_gone(source: WorktreeSource, repository: ConfigRepository) -> None:
    repository.work.rename(repository.work.with_name("elsewhere"))
    with pytest.raises(Unavailable) as caught:
        source.fetch()
    assert caught.value.reason == "WorktreeMissing"
