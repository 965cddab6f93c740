"""New mirrors, and what a damaged one still says."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.git import run_git

from reconciler.errors import Unavailable
from reconciler.world.source.making import beside, complete, create, read_pending, salvage, write_pending

ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40


def test_a_new_repository_is_bare_and_free_of_hooks(tmp_path: Path) -> None:
    path = tmp_path / "a" / "mirror.git"
    create(path, 10)
    assert run_git(path, "rev-parse", "--is-bare-repository") == "true"
    assert not (path / "hooks").exists()
    (path / "left").touch()
    create(path, 10)
    assert not (path / "left").exists()


def test_salvage_reads_packed_loose_and_pending_refs(tmp_path: Path) -> None:
    path = tmp_path / "mirror.git"
    (path / "refs/reconciler/trusted").mkdir(parents=True)
    (path / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{ONE} refs/reconciler/kept/x\n{ONE} refs/reconciler/trusted/main\n"
        f"{ONE} refs/reconciler/trusted/stage\n^{TWO}\ngarbage\n{ONE} refs/heads/other\n"
    )
    (path / "refs/reconciler/trusted/main").write_text(TWO + "\n")
    (path / "refs/reconciler/trusted/stage").write_bytes(b"\0" * 41)
    write_pending(path, {"trusted/prod": THREE})
    assert salvage(path) == {"kept/x": ONE, "trusted/main": TWO, "trusted/stage": ONE, "trusted/prod": THREE}
    assert salvage(tmp_path / "absent") == {}


def test_pending(tmp_path: Path) -> None:
    assert not complete(tmp_path)
    assert read_pending(tmp_path) == {}
    write_pending(tmp_path, {})
    assert complete(tmp_path)
    (tmp_path / "reconciler-trusted.json").write_text("garbage")
    assert read_pending(tmp_path) == {}
    (tmp_path / "reconciler-trusted.json").write_text("[1]")
    assert read_pending(tmp_path) == {}
    with pytest.raises(Unavailable) as caught:
        write_pending(tmp_path / "absent", {})
    assert caught.value.reason == "DiskError"


def test_beside(tmp_path: Path) -> None:
    assert beside(tmp_path / "mirror.git", "new") == tmp_path / "mirror.git.new"
