"""The mirror and its reader, below the sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.git import ConfigRepository, run_git

from reconciler.errors import InvalidInput, Unavailable
from reconciler.world.source.making import create
from reconciler.world.source.mirror import _TREES_KEPT, Mirror
from reconciler.world.source.reader import MirrorDamaged


@pytest.fixture
def repository(tmp_path: Path) -> ConfigRepository:
    repository = ConfigRepository(tmp_path / "remote")
    repository.commit({f"apps/a{number}/app.yaml": f"image: a:{number}\n" for number in range(50)})
    return repository


@pytest.fixture
def mirror(repository: ConfigRepository, tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror(tmp_path / "mirror.git")
    mirror.ensure()
    run_git(mirror.path, "fetch", "--quiet", str(repository.bare), "+main:refs/reconciler/seen/main")
    yield mirror
    mirror.close()


def test_refs_move_only_from_where_they_were_seen(mirror: Mirror, repository: ConfigRepository) -> None:
    assert mirror.ref("trusted/main") is None
    mirror.set_ref("trusted/main", repository.head, None)
    assert mirror.ref("trusted/main") == repository.head
    with pytest.raises(Unavailable) as caught:
        mirror.set_ref("trusted/main", repository.head, None)
    assert caught.value.reason == "MirrorBusy"
    run_git(mirror.path, "pack-refs", "--all")
    assert mirror.ref("trusted/main") == repository.head
    assert mirror.damaged is None


def test_a_ref_cannot_point_to_nothing(mirror: Mirror) -> None:
    with pytest.raises(MirrorDamaged) as caught:
        mirror.set_ref("trusted/main", "1" * 40, None)
    assert mirror.damaged is caught.value
    assert mirror.sound()


def test_contains_and_descends(mirror: Mirror, repository: ConfigRepository) -> None:
    assert mirror.contains(repository.head)
    assert not mirror.contains("1" * 40)
    assert mirror.descends(repository.head, repository.head)
    with pytest.raises(MirrorDamaged):
        mirror.descends(repository.head, "1" * 40)


def test_resolve(mirror: Mirror, repository: ConfigRepository) -> None:
    head = repository.head
    assert mirror.resolve(head[:7].upper()) == head
    assert mirror.resolve(f" {head}\n") == head
    blob = run_git(repository.work, "rev-parse", "HEAD:apps/a1/app.yaml")
    for revision in (blob, blob[:8], "f" * 40, "g" * 8, "abc"):
        with pytest.raises(InvalidInput):
            mirror.resolve(revision)
    with pytest.raises(InvalidInput):
        mirror.commit(blob)


def test_many_threads_read_at_once(mirror: Mirror, repository: ConfigRepository) -> None:
    tree = mirror.tree(repository.head)
    wrong: list[str] = []

    def read() -> None:
        wrong.extend(
            path
            for path in tree.entries
            if tree.read(path).decode() != f"image: a:{path.split('/')[1].removeprefix('a')}\n"
        )

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    mirror.rest()  # as the fetching thread does meanwhile
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_trees_are_kept_and_let_go(mirror: Mirror, repository: ConfigRepository) -> None:
    first = repository.head
    tree = mirror.tree(first)
    for number in range(_TREES_KEPT):
        repository.commit({"x": str(number)})
    run_git(mirror.path, "fetch", "--quiet", str(repository.bare), "+main:refs/reconciler/seen/main")
    for revision in run_git(repository.work, "rev-list", f"-{_TREES_KEPT - 1}", "HEAD").split():
        mirror.tree(revision)
    assert mirror.tree(first) is tree
    for revision in run_git(repository.work, "rev-list", f"-{_TREES_KEPT}", "HEAD").split():
        mirror.tree(revision)
    assert mirror.tree(first) is not tree


def test_replaced(mirror: Mirror, repository: ConfigRepository, tmp_path: Path) -> None:
    mirror.tree(repository.head)
    mirror.report("for the test")
    create(tmp_path / "other.git", 10)
    mirror.replace(tmp_path / "other.git")
    assert mirror.damaged is None
    assert mirror.ref("seen/main") is None
    with pytest.raises(InvalidInput):
        mirror.tree(repository.head)
    assert (tmp_path / "mirror.git.damaged" / "refs/reconciler/seen/main").exists()


def test_nobody_else_on_the_host_can_read_it(mirror: Mirror, tmp_path: Path) -> None:
    assert mirror.path.stat().st_mode & 0o777 == 0o700
    mirror.path.chmod(0o755)  # as it was made once
    mirror.ensure()
    assert mirror.path.stat().st_mode & 0o777 == 0o700
    mirror.path.chmod(0o755)
    create(tmp_path / "other.git", 60)
    mirror.replace(tmp_path / "other.git")
    for name in ("mirror.git", "mirror.git.damaged"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_commit_without_author_or_subject(mirror: Mirror, repository: ConfigRepository) -> None:
    raw = (
        f"tree {run_git(repository.work, 'rev-parse', 'HEAD^{tree}')}\n"
        "author  <> 1700000000 +0000\ncommitter \xfcml <a@b> 1700000001 +9999\n\n"
    )
    (repository.work / "raw").write_bytes(raw.encode("latin-1"))
    sha = run_git(repository.work, "hash-object", "-t", "commit", "-w", "--literally", "raw")
    run_git(repository.work, "push", "--quiet", str(mirror.path), f"{sha}:refs/reconciler/odd")
    commit = mirror.commit(sha)
    assert (commit.author, commit.subject, commit.committed_at) == ("unknown", "", 1700000001)
